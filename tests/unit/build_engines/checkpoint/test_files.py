from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from build_engines.checkpoint.files import CheckpointError, Weights, open_checkpoint
from tests.reference.checkpoints import write_decoder, write_safetensors


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_decoder(tmp_path / "llama", "llama")


def change_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_complete_checkpoint_opens(llama: Path) -> None:
    checkpoint = open_checkpoint(llama)
    assert checkpoint.architecture == "LlamaForCausalLM"
    assert checkpoint.files()[0].name == "config.json"
    weights = checkpoint.weights()
    weights.strip(("model.", ""), "embed_tokens.weight")
    assert "norm.weight" in weights
    assert weights.load("norm.weight", 64).shape == (64,)


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def no_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04" * 100)


def lost_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "file `config.json` is missing"),
        (lambda f: (f / "tokenizer.json").unlink(), "file `tokenizer.json` is missing"),
        (lambda f: (f / "model.safetensors").unlink(), "file `model.safetensors` is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: Expecting"),
        (lambda f: change_config(f, architectures=[]), "must name one architecture, found"),
        (lambda f: (f / "tokenizer.json").write_text("[]"), "tokenizer.json: not a tokenizer"),
        (lambda f: (f / "generation_config.json").write_text("[1]"), "_config.json: not a table"),
        (
            lambda f: (f / "chat_template.jinja").write_text("{{ messages }}\n{% if %}"),
            "chat_template.jinja: the chat template has an error in line 2",
        ),
        (only_pickles, "only safetensors weights are read, `pytorch_model.bin` is a pickle"),
        (cut_short, r"lies outside the file \(cut short\?\)"),
        (no_safetensors, "not a safetensors file"),
        (lost_shard, "weight file `model-00001-of-00002.safetensors` is missing"),
    ],
)
def test_what_is_wrong_is_named(
    llama: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(llama)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(llama).weights()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        open_checkpoint(tmp_path / "nowhere")


def test_shards_are_read_as_one(tmp_path: Path, llama: Path) -> None:
    shards = {"a.safetensors": {"one": np.ones(2, np.float32)}, "b.safetensors": {}}
    shards["b.safetensors"] = {"two": np.zeros(3, np.float32)}
    for name, tensors in shards.items():
        write_safetensors(llama / name, tensors)
    index = {"weight_map": {"one": "a.safetensors", "two": "b.safetensors"}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(open_checkpoint(llama).weights()) == {"one", "two"}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_every_float_type_is_read_as_float32(dtype: str, tmp_path: Path) -> None:
    values = np.array([[0.5, -2.0], [1.0, 3.0]], np.float32)
    raw = {
        "F32": values.tobytes(),
        "F16": values.astype(np.float16).tobytes(),
        "BF16": (values.view(np.uint32) >> 16).astype(np.uint16).tobytes(),
    }[dtype]
    file = tmp_path / "model.safetensors"
    write_raw(file, dtype, [2, 2], raw)
    loaded = Weights([file]).load("x", 2, 2)
    assert loaded.dtype == np.float32
    assert (loaded == values).all()


def test_a_tensor_of_another_shape_type_or_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_raw(file, "I64", [1], bytes(8))
    weights = Weights([file])
    with pytest.raises(CheckpointError, match="unsupported type I64"):
        weights.load("x", 1)
    with pytest.raises(CheckpointError, match=r"shape \[1\], config.json asks for \[2\]"):
        weights.load("x", 2)
    with pytest.raises(CheckpointError, match="tensor `y` is missing"):
        weights.load("y", 1)
    with pytest.raises(CheckpointError, match="tensor `probe` is missing"):
        weights.strip(("model.",), "probe")


def write_raw(file: Path, dtype: str, shape: list[int], raw: bytes) -> None:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(raw)]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "x": entry}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + raw)


def test_templates_with_the_blocks_of_transformers_are_read(llama: Path) -> None:
    text = (
        "{% for m in messages %}{% generation %}{{ m }}{% endgeneration %}{% break %}{% endfor %}"
    )
    config = {"chat_template": [{"name": "default", "template": text}]}
    (llama / "tokenizer_config.json").write_text(json.dumps(config))
    assert open_checkpoint(llama).chat_templates() == {"tokenizer_config.json": text}
