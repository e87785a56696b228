"""Records what torch and transformers compute, into the JSON files beside this program.

Run it in an environment with torch and transformers; the tests themselves need neither:
`python -m tests.reference.record [--minilm FOLDER]`, where FOLDER holds all-MiniLM-L6-v2.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForCausalLM

from tests.reference import checkpoints

HERE = Path(__file__).parent
PROMPT_LENGTHS = (3, 17, 70)
NEW_TOKENS = 24
TEXT_LENGTHS = (1, 6, 40)
MINILM_TEXTS = (
    "The river runs to the sea.",
    "Streams flow into the ocean.",
    "Quarterly invoices are due on the first working day.",
    "naïve café, 42 €",
)


def main() -> None:
    """Writes decoders.json, encoders.json and, given the folder, minilm.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minilm", type=Path)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write("decoders.json", {k: _decoder(folder, k) for k in checkpoints.DECODER_CONFIGS})
        _write("encoders.json", {k: _encoder(folder, k) for k in checkpoints.ENCODER_CONFIGS})
    if options.minilm is not None:
        _write("minilm.json", _minilm(options.minilm))


def prompts(lengths: tuple[int, ...]) -> list[list[int]]:
    """Token ids of the given lengths from a fixed seed, without special tokens."""
    random = np.random.default_rng(7)
    return [random.integers(2, checkpoints.BYTE_TOKENS, n).tolist() for n in lengths]


def _decoder(folder: Path, kind: str) -> list[dict[str, Any]]:
    path = checkpoints.write_decoder(folder / kind, kind)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return [_greedy(model, prompt) for prompt in prompts(PROMPT_LENGTHS)]


def _greedy(model: Any, prompt: list[int]) -> dict[str, Any]:
    tokens, log_probs = list(prompt), []
    for _ in range(NEW_TOKENS):
        logits = model(torch.tensor([tokens])).logits[0, -1].double()
        chosen = int(logits.argmax())
        log_probs.append(round(float(logits.log_softmax(-1)[chosen]), 6))
        tokens.append(chosen)
    return {"prompt": prompt, "tokens": tokens[len(prompt) :], "log_probs": log_probs}


def _encoder(folder: Path, kind: str) -> dict[str, Any]:
    path = checkpoints.write_encoder(folder / kind, kind)
    model = AutoModel.from_pretrained(path, dtype=torch.float32, add_pooling_layer=False).eval()
    texts = prompts(TEXT_LENGTHS)
    hidden = [_hidden(model, text) for text in texts]
    return {
        "texts": texts,
        "mean": [_rounded(states.mean(0)) for states in hidden],
        "cls": [_rounded(states[0]) for states in hidden],
    }


def _minilm(folder: Path) -> list[dict[str, Any]]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    recorded = []
    for text in MINILM_TEXTS:
        ids = tokenizer.encode(text).ids
        mean = _hidden(model, ids).mean(0)
        recorded.append({"text": text, "ids": ids, "embedding": _rounded(mean / mean.norm())})
    return recorded


def _hidden(model: Any, ids: list[int]) -> Any:
    return model(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64))[0][0]


def _rounded(vector: Any) -> list[float]:
    return [round(float(value), 7) for value in vector]


def _write(name: str, value: Any) -> None:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    (HERE / name).write_text(text.replace('},{"', '},\n{"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
