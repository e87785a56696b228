"""The same work, asked of Triton without the orchestrator in between."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from orchestrator.contract.manifest import read_manifest, served_version
from orchestrator.core.messages import Message, TextPart
from orchestrator.core.request import ChatPrompt, SamplingParams
from orchestrator.rendering import Renderer
from orchestrator.triton.client import TritonClient
from orchestrator.triton.contract import GenerateCall
from tests.bench.http_load import Outcome


@dataclass(frozen=True, slots=True)
class DirectModel:
    """A built model, with prompts turned into tokens beforehand."""

    name: str
    renderer: Renderer
    end_id: int
    extra_end_ids: Sequence[int]

    @classmethod
    def open(cls, repository: Path, name: str) -> DirectModel:
        """The newest build of `name`."""
        directory = served_version(repository / name)
        assert directory is not None, f"{name} is not built"
        manifest = read_manifest(directory)
        renderer = Renderer(directory, parser="plain")
        return cls(name, renderer, manifest.end_id, manifest.extra_end_ids)

    def tokens(self, prompt: str) -> Sequence[int]:
        """The prompt's ids in the model's chat template."""
        return self.renderer.render(ChatPrompt((Message("user", (TextPart(prompt),)),)))

    def call(
        self,
        request_id: str,
        token_ids: Sequence[int],
        max_tokens: int,
        sampling: SamplingParams | None = None,
    ) -> GenerateCall:
        """One generation, as the orchestrator would ask for it."""
        return GenerateCall(
            model=self.name,
            request_id=request_id,
            token_ids=token_ids,
            max_tokens=max_tokens,
            end_id=self.end_id,
            pad_id=None,
            extra_end_ids=self.extra_end_ids,
            sampling=sampling or SamplingParams(),
            vocab_size=0,
            reports_finish_reason=False,
        )

    async def generate(
        self,
        client: TritonClient,
        token_ids: Sequence[int],
        max_tokens: int,
        sampling: SamplingParams,
    ) -> Outcome:
        """One generation, its text not even decoded."""
        outcome, started = Outcome(status=200), time.perf_counter()
        call = self.call(f"direct-{next(_NUMBERS)}", token_ids, max_tokens, sampling)
        stream = client.generate(call)
        while (chunk := await stream.next_chunk()) is not None:
            if not outcome.first_s:
                outcome.first_s = time.perf_counter() - started
            outcome.tokens += len(chunk.token_ids)
            if chunk.final:
                break
        outcome.total_s = time.perf_counter() - started
        return outcome


_NUMBERS = count()
