"""The test of a model before it is served: through this Triton it must answer as when it was built.

The builder writes `selftest.json` beside the artefacts: prompts in token ids with greedy answers
or vectors. A model without one still has to generate a few tokens, because the contract can be
broken even if the numbers are right: end ids in the output, ids repeated from response to response,
no last response.
"""

from __future__ import annotations

import json
import logging
import math
import operator
import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.contract.manifest import NO_TOKEN, Manifest
from orchestrator.core.errors import UpstreamFailed
from orchestrator.core.request import SamplingParams
from orchestrator.triton.client import TritonClient
from orchestrator.triton.contract import GenerateCall

RECORDING = "selftest.json"
FORMAT = 1
_UNRECORDED_IDS = (1,)
_UNRECORDED_TOKENS = 4

logger = logging.getLogger(__name__)


class MismatchError(Exception):
    """The model does not answer as recorded; the message says what is different."""


@dataclass(frozen=True, slots=True)
class GoldenAnswer:
    """A greedy answer without an end token. At small margins another token is accepted."""

    input_ids: Sequence[int]
    output_ids: Sequence[int]
    log_probs: Sequence[float]
    margins: Sequence[float]


@dataclass(frozen=True, slots=True)
class GoldenVector:
    """An embedding."""

    input_ids: Sequence[int]
    embedding: Sequence[float]


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded, and the differences that are tolerated."""

    answers: Sequence[GoldenAnswer] = ()
    vectors: Sequence[GoldenVector] = ()
    margin: float = 0.0
    log_prob: float = math.inf
    cosine: float = -1.0


@dataclass(frozen=True, slots=True)
class Generated:
    """The answer to one prompt. `log_probs` is empty if the engine reports none."""

    ids: Sequence[int]
    log_probs: Sequence[float]
    final: bool
    reason: str | None


async def replay(client: TritonClient, name: str, manifest: Manifest) -> str:
    """Returns what was verified, in words; `name` is Triton's directory of the model.

    Raises: MismatchError, and GatewayError when Triton does not answer.
    """
    recording = read_recording(manifest.directory)
    try:
        if manifest.task == "embed":
            return await _replay_vectors(client, name, manifest, recording)
        return await _replay_answers(client, name, manifest, recording)
    except ValueError as error:
        raise MismatchError(f"a response cannot be read: {error}") from error


async def _replay_answers(
    client: TritonClient, name: str, manifest: Manifest, recording: Recording
) -> str:
    if not recording.answers:
        most, end_id = _UNRECORDED_TOKENS, manifest.end_id
        got = await _generate(client, name, manifest, _UNRECORDED_IDS, most, end_id)
        check_shape(manifest, got, most, end_id)
        golden = GoldenAnswer(_UNRECORDED_IDS, got.ids, (), [0.0] * len(got.ids))
        await _try_whole(client, name, manifest, recording, golden, most, end_id)
        return "shape only"
    for golden in recording.answers:
        most = len(golden.output_ids)
        got = await _generate(client, name, manifest, golden.input_ids, most, NO_TOKEN)
        check_shape(manifest, got, most, NO_TOKEN)
        check_answer(recording, golden, got)
    # Again, with an end id in the middle, which must not appear in the output.
    golden = recording.answers[0]
    most, end_id = len(golden.output_ids), golden.output_ids[:2][-1]
    got = await _generate(client, name, manifest, golden.input_ids, most, end_id)
    check_shape(manifest, got, most, end_id)
    await _try_whole(client, name, manifest, recording, golden, most, NO_TOKEN)
    return f"{len(recording.answers)} golden prompts"


async def _try_whole(
    client: TritonClient,
    name: str,
    manifest: Manifest,
    recording: Recording,
    golden: GoldenAnswer,
    most: int,
    end_id: int,
) -> None:
    """Finds out whether the model may be asked for a whole answer in one response.

    If it answers differently then, or not at all, it is asked token by token, and is as good.
    """
    client.allow_whole(name, 0)
    # Requests for a single response never ask for log-probabilities.
    silent = replace(manifest, supports_log_probs=False)
    try:
        got = await _generate(client, name, silent, golden.input_ids, most, end_id, streaming=False)
        check_shape(silent, got, most, end_id)
        check_answer(recording, golden, got)
    except (MismatchError, UpstreamFailed) as error:
        logger.warning("model %s is asked token by token, in one response: %s", name, error)
    else:
        client.allow_whole(name, manifest.max_batch_size // 2)


def read_recording(directory: Path) -> Recording:
    """Reads the recording in a version folder; an empty one if there is none.

    Raises: MismatchError when it cannot be read.
    """
    path = directory / RECORDING
    if not path.is_file():
        return Recording()
    try:
        document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise MismatchError(
                f"`{path}` has format {document['format']}, this version reads {FORMAT}"
            )
        tolerance, cases = document["tolerance"], document["cases"]
        is_embedding = document["task"] == "embed"
        return Recording(
            answers=() if is_embedding else tuple(GoldenAnswer(**case) for case in cases),
            vectors=tuple(GoldenVector(**case) for case in cases) if is_embedding else (),
            margin=tolerance["margin"],
            log_prob=tolerance["log_prob"],
            cosine=tolerance["cosine"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MismatchError(f"`{path}` cannot be read: {type(error).__name__}") from error


def check_shape(manifest: Manifest, got: Generated, most: int, end_id: int) -> None:
    """Checks that an answer follows TensorRT-LLM's contract. Raises: MismatchError."""
    if not got.final:
        raise MismatchError("a stream ended without its last response")
    if len(got.ids) > most:
        raise MismatchError(
            f"{len(got.ids)} tokens came where {most} were asked for: ids are repeated from"
            " response to response"
        )
    if end_id in got.ids:
        raise MismatchError(f"the end id {end_id} is part of the output")
    if manifest.reports_finish_reason and got.reason is None:
        raise MismatchError("no finish reason came, and the manifest says that one does")
    if manifest.supports_log_probs and len(got.log_probs) != len(got.ids):
        raise MismatchError(
            f"{len(got.log_probs)} log-probabilities came for {len(got.ids)} tokens"
        )


def check_answer(recording: Recording, golden: GoldenAnswer, got: Generated) -> None:
    """Checks that `got` is the recorded answer. Raises: MismatchError."""
    for index, (wanted, token) in enumerate(zip(golden.output_ids, got.ids, strict=False)):
        if token != wanted:
            if golden.margins[index] <= recording.margin:
                # Nearly as probable: from here on the two may differ.
                return
            raise MismatchError(f"token {index + 1} of a golden prompt is {token}, not {wanted}")
        if index < min(len(got.log_probs), len(golden.log_probs)):
            apart = abs(got.log_probs[index] - golden.log_probs[index])
            if apart > recording.log_prob:
                raise MismatchError(
                    f"the log-probability of token {index + 1} of a golden prompt is {apart:.3f}"
                    f" away from the recorded one, {recording.log_prob:g} is allowed"
                )
    if len(got.ids) != len(golden.output_ids):
        raise MismatchError(
            f"{len(got.ids)} tokens came for a golden prompt of {len(golden.output_ids)}"
        )


def check_vector(
    manifest: Manifest,
    recording: Recording,
    vector: Sequence[float],
    golden: Sequence[float] | None,
) -> None:
    """Checks that `vector` is the recorded one. Raises: MismatchError."""
    if len(vector) != manifest.dimension:
        raise MismatchError(
            f"a vector has {len(vector)} values, the manifest says {manifest.dimension}"
        )
    length = math.hypot(*vector)
    if not math.isfinite(length) or not length:
        raise MismatchError("a vector is zero, or holds values that are no finite numbers")
    if golden is None:
        return
    if len(golden) != len(vector):
        raise MismatchError(f"a vector has {len(vector)} values, {len(golden)} were recorded")
    cosine = sum(map(operator.mul, vector, golden)) / (length * math.hypot(*golden))
    if cosine < recording.cosine:
        raise MismatchError(
            f"the cosine of a vector to the recorded one is {cosine:.5f}, at least"
            f" {recording.cosine:g} is wanted"
        )


async def _generate(
    client: TritonClient,
    name: str,
    manifest: Manifest,
    input_ids: Sequence[int],
    max_tokens: int,
    end_id: int,
    *,
    streaming: bool = True,
) -> Generated:
    call = GenerateCall(
        model=name,
        request_id=_new_id(),
        token_ids=input_ids,
        max_tokens=max_tokens,
        end_id=end_id,
        pad_id=manifest.pad_id,
        extra_end_ids=(),
        sampling=SamplingParams(temperature=0.0),
        vocab_size=manifest.vocab_size,
        reports_finish_reason=manifest.reports_finish_reason,
        log_probs=manifest.supports_log_probs,
    )
    ids: list[int] = []
    log_probs: list[float] = []
    final, reason = False, None
    stream = client.generate(call, streaming=streaming)
    try:
        while (chunk := await stream.next_chunk()) is not None:
            ids += chunk.token_ids
            log_probs += chunk.log_probs.drawn if chunk.log_probs is not None else ()
            reason = chunk.finish_reason or reason
            final = final or chunk.final
    finally:
        stream.stop()
    return Generated(ids, log_probs, final, reason)


async def _replay_vectors(
    client: TritonClient, name: str, manifest: Manifest, recording: Recording
) -> str:
    # One by one, as they were recorded: padding changes the last digits.
    for golden in recording.vectors:
        vector = await _embed(client, name, golden.input_ids)
        check_vector(manifest, recording, vector, golden.embedding)
    if recording.vectors:
        return f"{len(recording.vectors)} golden vectors"
    check_vector(manifest, recording, await _embed(client, name, _UNRECORDED_IDS), None)
    return "shape only"


async def _embed(client: TritonClient, name: str, input_ids: Sequence[int]) -> Sequence[float]:
    (row,) = await client.embed(name, _new_id(), [input_ids])
    return struct.unpack(f"<{len(row) // 4}f", row)


def _new_id() -> str:
    return f"probe-{secrets.token_hex(6)}-selftest"
