"""The same work, asked of Triton without the orchestrator in between."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from orchestrator.core.messages import Message, TextPart
from orchestrator.core.request import ChatPrompt, SamplingParams
from orchestrator.manifest import read_manifest, served_version
from orchestrator.rendering import Renderer
from orchestrator.triton.client import TritonClient
from orchestrator.triton.contract import GenerateCall
from tests.bench.http_load import Outcome


@dataclass(frozen=True, slots=True)
class DirectModel:
    """A built model, with prompts turned into tokens beforehand."""

    client: TritonClient
    name: str
    renderer: Renderer
    end_id: int
    extra_end_ids: Sequence[int]

    @classmethod
    def open(cls, client: TritonClient, repository: Path, name: str) -> DirectModel:
        """The newest build of `name`."""
        directory = served_version(repository / name)
        assert directory is not None, f"{name} is not built"
        manifest = read_manifest(directory)
        renderer = Renderer(directory, parser="plain")
        return cls(client, name, renderer, manifest.end_id, manifest.extra_end_ids)

    def tokens(self, prompt: str) -> list[int]:
        """The prompt's ids in the model's chat template."""
        return self.renderer.render(ChatPrompt((Message("user", (TextPart(prompt),)),)))

    async def generate(
        self, token_ids: Sequence[int], max_tokens: int, sampling: SamplingParams
    ) -> Outcome:
        """One generation, its text not even decoded."""
        outcome, started = Outcome(status=200), time.perf_counter()
        call = GenerateCall(
            model=self.name,
            request_id=f"direct-{next(_NUMBERS)}",
            token_ids=token_ids,
            max_tokens=max_tokens,
            end_id=self.end_id,
            pad_id=None,
            extra_end_ids=self.extra_end_ids,
            sampling=sampling,
            vocab_size=0,
            reports_finish_reason=False,
        )
        stream = self.client.generate(call)
        while (chunk := await stream.next_chunk()) is not None:
            if not outcome.first_s:
                outcome.first_s = time.perf_counter() - started
            outcome.tokens += len(chunk.token_ids)
            if chunk.final:
                break
        outcome.total_s = time.perf_counter() - started
        return outcome


_NUMBERS = count()
