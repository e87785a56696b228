"""Checks health with a real answer: one token or one vector of every loaded model.

Triton's own readiness stays green when a model's stub process is dead, so it proves nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from orchestrator.core.errors import GatewayError, Overloaded
from orchestrator.core.request import SamplingParams
from orchestrator.triton.client import TritonClient
from orchestrator.triton.contract import GenerateCall

PROGRESS_CHECK_S = 0.25


class ProbeError(Exception):
    """The server is not the one that was started, or a loaded model does not answer."""


class Probe:
    """Asks one Triton for one answer of each loaded model.

    A saturated engine answers others while the probe waits in its queue. The process that serves
    requests touches `progress_file` when answers come; a fresh touch counts as this probe's answer.
    """

    def __init__(
        self,
        client: TritonClient,
        *,
        generate: Sequence[str],
        embed: Sequence[str],
        server_id: str | None = None,
        progress_file: Path | None = None,
    ) -> None:
        self._client = client
        self._generate = tuple(generate)
        self._embed = tuple(embed)
        self._server_id = server_id
        self._progress_file = progress_file
        # Several processes may probe one Triton, and ids must be unique there.
        self._name = f"probe-{secrets.token_hex(6)}"
        self._numbers = count()

    async def __call__(self) -> None:
        """Returns when every loaded model has answered. Raises: ProbeError, GatewayError."""
        asked_at = time.time()
        answer = asyncio.create_task(self._ask())
        try:
            while not answer.done():
                await asyncio.wait([answer], timeout=PROGRESS_CHECK_S)
                if not answer.done() and self._others_are_answered(asked_at):
                    return
            answer.result()
        finally:
            answer.cancel()
            await asyncio.wait([answer])

    def _others_are_answered(self, since: float) -> bool:
        """Whether any caller has had an answer after `since` (Unix seconds)."""
        if self._progress_file is None:
            return False
        try:
            return self._progress_file.stat().st_mtime > since
        except OSError:
            return False

    async def model_answers(self, model: str, timeout_s: float) -> bool:
        """Whether `model` is loaded and answers this probe, or any other call, in time."""
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask_model(model)
        except TimeoutError:
            return self._client.last_answer_at(model) > asked_at
        except (GatewayError, ProbeError):
            return False

    async def _ask(self) -> None:
        name = await self._client.server_id()
        if self._server_id is not None and name != self._server_id:
            raise ProbeError("another Triton answers at this address")
        async with asyncio.TaskGroup() as group:
            for model in (*self._generate, *self._embed):
                group.create_task(self._ask_model(model))

    async def _ask_model(self, model: str) -> bool:
        """False when `model` is not loaded, which is no fault. Raises: ProbeError, GatewayError."""
        if not await self._client.model_ready(model):
            return False
        if model in self._embed:
            await self._client.embed(model, self._new_id(), [[1]])
        else:
            await self._one_token(model)
        return True

    def _new_id(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    async def _one_token(self, model: str) -> None:
        stream = self._client.generate(_one_token_call(model, self._new_id()))
        try:
            while (chunk := await stream.next_chunk()) is not None:
                if chunk.final:
                    return
        except Overloaded:
            # A refusal is an answer: the engine is alive and busy.
            return
        finally:
            stream.stop()
        raise ProbeError(f"`{model}` ended without an answer")


def _one_token_call(model: str, request_id: str) -> GenerateCall:
    return GenerateCall(
        model=model,
        request_id=request_id,
        token_ids=(1,),
        max_tokens=1,
        end_id=-1,
        pad_id=None,
        extra_end_ids=(),
        sampling=SamplingParams(temperature=0.0),
        vocab_size=0,
        reports_finish_reason=False,
    )
