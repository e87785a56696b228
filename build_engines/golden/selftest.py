"""Golden answers of an engine: recorded when it is built, replayed whenever it is loaded.

`selftest.json` of a version folder holds only token ids. A generation is compared token by token;
where the two best tokens were almost equally probable, both are right and the comparison ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

FILE_NAME = "selftest.json"
FORMAT = 1
NEW_TOKENS = 16

_TEXTS = (
    "The capital of France is",
    "1 2 3 4 5 6 7",
    "Water boils at a hundred degrees, and ice melts at",
)
_MAX_PROMPT = 32
#: Tolerances of float32 arithmetic, and of all narrower types.
_EXACT = {"margin": 0.01, "log_prob": 0.01, "cosine": 0.9999}
_NARROW = {"margin": 0.5, "log_prob": 1.0, "cosine": 0.99}


class SelfTestError(ValueError):
    """The engine gives a wrong answer; the text says which one differs and how."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One greedy generation. `margins` are the leads of the best tokens, in log-probability."""

    input_ids: list[int]
    output_ids: list[int]
    log_probs: list[float]
    margins: list[float]


@dataclass(frozen=True, slots=True)
class Vector:
    """One embedding."""

    input_ids: list[int]
    embedding: list[float]


def golden_inputs(folder: Path, max_input_len: int) -> list[list[int]]:
    """Returns the prompts as token ids of the tokenizer in `folder`."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    limit = min(_MAX_PROMPT, max_input_len)
    return [tokenizer.encode(text).ids[:limit] or [0] for text in _TEXTS]


def generation_document(answers: Sequence[Answer], dtype: str) -> dict[str, Any]:
    """Returns `selftest.json` of a generative model. Answers are greedy, without an end token."""
    return _document("generate", [asdict(answer) for answer in answers], dtype)


def embedding_document(vectors: Sequence[Vector], dtype: str) -> dict[str, Any]:
    """Returns `selftest.json` of an embedding model."""
    return _document("embed", [asdict(vector) for vector in vectors], dtype)


def read_document(folder: Path) -> dict[str, Any] | None:
    """Returns the document of a version folder; None when there is no readable one."""
    try:
        document = json.loads((folder / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and document.get("format") == FORMAT else None


def write_document(folder: Path, document: Mapping[str, Any]) -> None:
    """Writes `document` into `folder`."""
    text = json.dumps(document, separators=(",", ":")).replace("},{", "},\n{") + "\n"
    (folder / FILE_NAME).write_text(text, encoding="utf-8")


def check_same(
    golden: Mapping[str, Any], given: Mapping[str, Any], what: str, *, inputs: bool = True
) -> None:
    """Compares two documents about the same prompts. Raises: SelfTestError.

    `what` says whose answers `given` are. If the prompts differ, nothing is compared; with
    `inputs` that is an error.
    """
    tolerance = golden["tolerance"]
    for index, (wanted, got) in enumerate(zip(golden["cases"], given["cases"], strict=True)):
        if wanted["input_ids"] != got["input_ids"]:
            if inputs:
                raise SelfTestError(f"golden prompt {index + 1} {what} is another one")
            continue
        if golden["task"] == "embed":
            reason = _vector_difference(wanted, got, tolerance["cosine"])
        else:
            reason = _answer_difference(wanted, got, tolerance)
        if reason:
            raise SelfTestError(f"golden prompt {index + 1} {what}: {reason}")


def _document(task: str, cases: list[dict[str, Any]], dtype: str) -> dict[str, Any]:
    tolerance = _EXACT if dtype == "float32" else _NARROW
    return {"format": FORMAT, "task": task, "tolerance": tolerance, "cases": cases}


def _vector_difference(wanted: Mapping[str, Any], got: Mapping[str, Any], cosine: float) -> str:
    first, second = np.array(wanted["embedding"]), np.array(got["embedding"])
    if first.shape != second.shape:
        return f"the vector has {len(second)} values, not {len(first)}"
    if not (np.isfinite(second).all() and second.any()):
        return "the vector is zero or holds values that are no finite numbers"
    measured = float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
    if measured < cosine:
        return f"the vector's cosine to the recorded one is {measured:.5f}, must be >= {cosine:g}"
    return ""


def _answer_difference(
    wanted: Mapping[str, Any], got: Mapping[str, Any], tolerance: Mapping[str, float]
) -> str:
    for position, (token, other) in enumerate(
        zip(wanted["output_ids"], got["output_ids"], strict=False)
    ):
        if token != other:
            if wanted["margins"][position] <= tolerance["margin"]:
                return ""
            return f"token {position + 1} is {other}, not {token}"
        known = position < len(got["log_probs"])
        if (
            known
            and abs(wanted["log_probs"][position] - got["log_probs"][position])
            > (tolerance["log_prob"])
        ):
            return (
                f"token {position + 1} has log-probability {got['log_probs'][position]:.3f}, "
                f"not {wanted['log_probs'][position]:.3f}"
            )
    if len(got["output_ids"]) != len(wanted["output_ids"]):
        return f"{len(got['output_ids'])} tokens, not {len(wanted['output_ids'])}"
    return ""
