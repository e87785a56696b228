"""What a model must do before it is served: what it did when it was built, through this Triton.

The builder leaves `selftest.json` beside the artefacts: a few prompts in token ids with the ids
that greedy decoding gave, or texts in ids with their vectors. A model without one is asked for a
few tokens all the same, because the contract can be broken where the numbers are right: end ids
in the output, ids repeated from response to response, no last response.
"""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.request import SamplingParams
from orchestrator.manifest import Manifest
from orchestrator.triton.client import TritonClient
from orchestrator.triton.contract import GenerateCall

RECORDING = "selftest.json"
FORMAT = 1
_UNRECORDED_IDS = (1,)
_UNRECORDED_TOKENS = 4
_TOLERANCE = 0.02


class MismatchError(Exception):
    """The model does not do what it did; the message says what is different."""


@dataclass(frozen=True, slots=True)
class GoldenPrompt:
    """Greedy decoding of `prompt_ids`; `expected_ids` is `None` where nothing was recorded."""

    prompt_ids: Sequence[int]
    max_tokens: int
    expected_ids: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class GoldenVector:
    """The vector of `token_ids`; `None` where nothing was recorded."""

    token_ids: Sequence[int]
    vector: Sequence[float] | None


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded. `tolerance` is the most by which a component may differ."""

    prompts: Sequence[GoldenPrompt] = ()
    vectors: Sequence[GoldenVector] = ()
    tolerance: float = _TOLERANCE


async def replay(client: TritonClient, name: str, manifest: Manifest) -> str:
    """What was found right, in words; `name` is Triton's directory of the model.

    Raises: MismatchError, and GatewayError when Triton does not answer.
    """
    recording = read_recording(manifest.directory)
    if manifest.task == "embed":
        vectors = recording.vectors or [GoldenVector(_UNRECORDED_IDS, None)]
        await _check_vectors(client, name, manifest, vectors, recording.tolerance)
        return f"{len(vectors)} vectors" if recording.vectors else "shape only"
    prompts = recording.prompts or [GoldenPrompt(_UNRECORDED_IDS, _UNRECORDED_TOKENS, None)]
    for prompt in prompts:
        await _check_prompt(client, name, manifest, prompt)
    return f"{len(prompts)} golden prompts" if recording.prompts else "shape only"


def read_recording(directory: Path) -> Recording:
    """The recording in a version folder; an empty one where there is none.

    Raises: MismatchError when it cannot be read.
    """
    path = directory / RECORDING
    if not path.is_file():
        return Recording()
    try:
        document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document.get("format", FORMAT) != FORMAT:
            raise MismatchError(
                f"`{path}` has format {document['format']}, this version reads {FORMAT}"
            )
        return _recording(document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MismatchError(f"`{path}` cannot be read: {type(error).__name__}") from error


def _recording(document: Mapping[str, Any]) -> Recording:
    entries = document.get("prompts") or ([document] if "prompt_ids" in document else [])
    prompts = [
        GoldenPrompt(
            tuple(entry["prompt_ids"]),
            int(entry.get("max_tokens") or len(entry["expected_ids"])),
            tuple(entry["expected_ids"]),
        )
        for entry in entries
    ]
    vectors = [
        GoldenVector(tuple(row["token_ids"]), tuple(row["vector"]))
        for row in document.get("rows", ())
    ]
    return Recording(prompts, vectors, float(document.get("tolerance", _TOLERANCE)))


async def _check_prompt(
    client: TritonClient, name: str, manifest: Manifest, prompt: GoldenPrompt
) -> None:
    with_log_probs = manifest.supports_log_probs
    call = GenerateCall(
        model=name,
        request_id=f"probe-{secrets.token_hex(6)}-selftest",
        token_ids=prompt.prompt_ids,
        max_tokens=prompt.max_tokens,
        end_id=manifest.end_id,
        pad_id=manifest.pad_id,
        extra_end_ids=manifest.extra_end_ids,
        sampling=SamplingParams(temperature=0.0),
        vocab_size=manifest.vocab_size,
        reports_finish_reason=manifest.reports_finish_reason,
        log_probs=with_log_probs,
    )
    ids: list[int] = []
    told, reason, final = 0, None, False
    stream = client.generate(call)
    try:
        while (chunk := await stream.next_chunk()) is not None:
            ids += chunk.token_ids
            told += len(chunk.log_probs.drawn) if chunk.log_probs is not None else 0
            reason = chunk.finish_reason or reason
            final = final or chunk.final
    finally:
        stream.stop()
    check_shape(manifest, prompt, ids, final=final)
    if manifest.reports_finish_reason and reason is None:
        raise MismatchError(
            "the last response gives no finish reason, as the manifest says it does"
        )
    if with_log_probs and told != len(ids):
        raise MismatchError(f"{told} log-probabilities came with {len(ids)} tokens")


def check_shape(
    manifest: Manifest, prompt: GoldenPrompt, ids: Sequence[int], *, final: bool
) -> None:
    """Whether `ids` are what was asked for, in one piece. Raises: MismatchError."""
    if not final:
        raise MismatchError("the stream ended without a final response")
    ends = {manifest.end_id, *manifest.extra_end_ids}
    expected = prompt.expected_ids
    # First what is known to be wrong: it says more than a difference does.
    if len(ids) > prompt.max_tokens:
        raise MismatchError(
            f"{len(ids)} tokens came where {prompt.max_tokens} were asked for: ids are repeated"
            " from response to response"
        )
    if ids and ids[-1] in ends and (expected is None or list(expected) == list(ids[:-1])):
        raise MismatchError(f"the end id {ids[-1]} is part of the output")
    if expected is not None and list(ids) != list(expected):
        raise MismatchError(f"token {_first_difference(ids, expected)} is not the recorded one")


def _first_difference(ids: Sequence[int], expected: Sequence[int]) -> str:
    for index, (one, other) in enumerate(zip(ids, expected, strict=False)):
        if one != other:
            return f"{index + 1} of {len(expected)} is {one} and"
    return f"count {len(ids)}"


async def _check_vectors(
    client: TritonClient,
    name: str,
    manifest: Manifest,
    golden: Sequence[GoldenVector],
    tolerance: float,
) -> None:
    request_id = f"probe-{secrets.token_hex(6)}-selftest"
    size = max(1, manifest.max_batch_size)
    for start in range(0, len(golden), size):
        batch = golden[start : start + size]
        rows = await client.embed(name, request_id, [one.token_ids for one in batch])
        if len(rows) != len(batch):
            raise MismatchError(f"{len(rows)} vectors came for {len(batch)} inputs")
        for one, row in zip(batch, rows, strict=True):
            check_vector(manifest, one, row, tolerance)


def check_vector(
    manifest: Manifest, golden: GoldenVector, row: memoryview, tolerance: float
) -> None:
    """Whether `row` is the vector that was recorded. Raises: MismatchError."""
    values = struct.unpack(f"<{len(row) // 4}f", row)
    if len(values) != manifest.dimension:
        raise MismatchError(
            f"a vector has {len(values)} components, the manifest says {manifest.dimension}"
        )
    if not all(-1e30 < value < 1e30 for value in values):
        raise MismatchError("a vector holds what is no number")
    if golden.vector is None:
        return
    if len(golden.vector) != len(values):
        raise MismatchError(
            f"a vector has {len(values)} components, the recorded one {len(golden.vector)}"
        )
    apart = max(abs(a - b) for a, b in zip(values, golden.vector, strict=True))
    if apart > tolerance:
        raise MismatchError(
            f"a vector is {apart:.3g} away from the recorded one, over {tolerance:g}"
        )
