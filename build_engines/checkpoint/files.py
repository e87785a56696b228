"""Hugging Face checkpoints: `config.json`, a tokenizer and safetensors weights, read by numpy."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension

#: Copied next to the engine, because the orchestrator renders and tokenises with them.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)
_REQUIRED_FILES = ("config.json", "tokenizer.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MAX_HEADER_BYTES = 100 * 1024 * 1024


class CheckpointError(ValueError):
    """The checkpoint cannot be used for a build; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class _Entry:
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Weights:
    """The tensors of one or more safetensors files, read on demand as float32."""

    def __init__(self, files: list[Path]) -> None:
        self._entries: dict[str, _Entry] = {}
        for file in files:
            self._entries.update(_read_header(file))
        self._prefix = ""

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of every tensor, by its full name."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def strip(self, prefixes: tuple[str, ...], probe: str) -> None:
        """Sets the prefix of names: the first of `prefixes` with which `probe` exists."""
        for prefix in prefixes:
            if prefix + probe in self._entries:
                self._prefix = prefix
                return
        raise CheckpointError(f"tensor `{probe}` is missing from the checkpoint")

    def load(self, name: str, *shape: int) -> npt.NDArray[np.float32]:
        """Returns tensor `name` as float32 of exactly `shape`. Raises: CheckpointError."""
        entry = self._entries.get(self._prefix + name) or self._entries.get(name)
        if entry is None:
            raise CheckpointError(f"tensor `{self._prefix}{name}` is missing from the checkpoint")
        if entry.shape != shape:
            raise CheckpointError(
                f"tensor `{self._prefix}{name}` has shape {list(entry.shape)}, "
                f"config.json asks for {list(shape)}"
            )
        return _read_tensor(name, entry)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked checkpoint folder."""

    path: Path
    config: Mapping[str, Any]
    architecture: str
    weight_files: tuple[Path, ...]
    revision: str | None = None

    def weights(self) -> Weights:
        """Opens the weights. Raises: CheckpointError."""
        return Weights(list(self.weight_files))

    def optional_json(self, name: str) -> Any:
        """Returns the JSON document `name` of the folder, or None when there is no such file."""
        file = self.path / name
        return read_json(file) if file.is_file() else None

    def chat_templates(self) -> dict[str, str]:
        """Returns chat templates by file name; none for a model without chat."""
        found = {}
        file = self.path / "chat_template.jinja"
        if file.is_file():
            found[file.name] = file.read_text(encoding="utf-8")
        config = self.optional_json("tokenizer_config.json") or {}
        given = config.get("chat_template")
        listed = given if isinstance(given, list) else [{"template": given}]
        for entry in listed:
            if isinstance(entry, dict) and isinstance(entry.get("template"), str):
                found["tokenizer_config.json"] = entry["template"]
        return found

    def files(self) -> list[Path]:
        """Returns every file that a build reads, in a stable order."""
        names = ["config.json", *TOKENIZER_FILES, "modules.json"]
        found = [self.path / name for name in names if (self.path / name).is_file()]
        pooling = sorted(self.path.glob("*_Pooling/config.json"))
        return [*found, *pooling, *self.weight_files]


def open_checkpoint(path: Path, revision: str | None = None) -> Checkpoint:
    """Opens the checkpoint in `path` and checks that it is complete. Raises: CheckpointError."""
    if not path.is_dir():
        raise CheckpointError(f"checkpoint folder {path} does not exist")
    for name in _REQUIRED_FILES:
        if not (path / name).is_file():
            raise CheckpointError(f"checkpoint {path}: file `{name}` is missing")
    config = read_json(path / "config.json")
    architectures = config.get("architectures") or []
    if len(architectures) != 1 or not isinstance(architectures[0], str):
        raise CheckpointError(
            f"checkpoint {path}: config.json must name one architecture, found {architectures}"
        )
    checkpoint = Checkpoint(path, config, architectures[0], tuple(_weight_files(path)), revision)
    _check_texts(checkpoint)
    return checkpoint


def check_unquantised(checkpoint: Checkpoint) -> None:
    """Refuses weights that are quantised already. Raises: CheckpointError."""
    if quantised := checkpoint.config.get("quantization_config"):
        method = quantised.get("quant_method", "?")
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: quantised weights (`{method}`) are unsupported"
        )


def _check_texts(checkpoint: Checkpoint) -> None:
    """Checks the files that the orchestrator will read, before an hour is spent on the engine."""
    tokenizer = checkpoint.optional_json("tokenizer.json")
    if not isinstance(tokenizer, dict) or "model" not in tokenizer:
        raise CheckpointError(f"{checkpoint.path / 'tokenizer.json'}: not a tokenizer")
    for name in ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        if not isinstance(checkpoint.optional_json(name) or {}, dict):
            raise CheckpointError(f"{checkpoint.path / name}: not a table")
    for where, template in checkpoint.chat_templates().items():
        try:
            Environment(extensions=["jinja2.ext.loopcontrols", _Generation]).parse(template)  # noqa: S701  # only parsed
        except TemplateSyntaxError as error:
            raise CheckpointError(
                f"{checkpoint.path / where}: the chat template has an error in line "
                f"{error.lineno}: {error.message}"
            ) from error


class _Generation(Extension):
    """The block that marks the assistant's text, in templates used for training."""

    tags = {"generation"}  # noqa: RUF012  # jinja2's way

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def read_json(file: Path) -> Any:
    """Returns the parsed document. Raises: CheckpointError."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from error


def sha256_file(file: Path) -> str:
    """Returns the SHA-256 of the file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        for shard in shards:
            if "/" in shard or not (path / shard).is_file():
                raise CheckpointError(f"checkpoint {path}: weight file `{shard}` is missing")
        return [path / shard for shard in shards]
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    for pattern in _PICKLES:
        for file in sorted(path.glob(pattern)):
            raise CheckpointError(
                f"checkpoint {path}: only safetensors weights are read, `{file.name}` is a pickle "
                "and could run code"
            )
    raise CheckpointError(f"checkpoint {path}: file `model.safetensors` is missing")


def _read_header(file: Path) -> dict[str, _Entry]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(f"{file}: not a safetensors file (header of {length} bytes)")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise CheckpointError(f"{file}: not a safetensors file ({error})") from error
    entries = {}
    for name, value in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in value["data_offsets"])
        if not 8 + length <= begin <= end <= size:
            raise CheckpointError(f"{file}: tensor `{name}` lies outside the file (cut short?)")
        entries[name] = _Entry(file, value["dtype"], tuple(value["shape"]), begin, end)
    return entries


def _read_tensor(name: str, entry: _Entry) -> npt.NDArray[np.float32]:
    stored = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}.get(entry.dtype)
    if stored is None:
        raise CheckpointError(f"{entry.file}: tensor `{name}` has unsupported type {entry.dtype}")
    count = (entry.end - entry.begin) // np.dtype(stored).itemsize
    if count != int(np.prod(entry.shape)):
        raise CheckpointError(f"{entry.file}: tensor `{name}` has {count} values, not its shape's")
    with (
        entry.file.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        raw = np.frombuffer(view[entry.begin : entry.end], dtype=stored)
    if entry.dtype == "BF16":
        # bfloat16 is the upper half of a float32.
        return (raw.astype(np.uint32) << 16).view(np.float32).reshape(entry.shape)
    return raw.astype(np.float32).reshape(entry.shape)
