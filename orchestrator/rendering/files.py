"""Reads the tokenizer files of one model version directory, in Hugging Face's layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

_NAMED_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


class RenderingError(ValueError):
    """A model's tokenizer or chat template is unusable; the message names file and fault."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The contents of the files. `templates` maps a template's name to its Jinja source."""

    directory: Path
    tokenizer: str
    named_tokens: Mapping[str, str]
    special_texts: frozenset[str]
    templates: Mapping[str, str]


def load_files(directory: Path) -> TokenizerFiles:
    """Reads `directory`. All files but `tokenizer.json` may be missing. Raises: RenderingError."""
    tokenizer = _text(directory / "tokenizer.json")
    if tokenizer is None:
        raise RenderingError(f"{directory / 'tokenizer.json'}: no such file")
    config = _document(directory / "tokenizer_config.json")
    special_map = _document(directory / "special_tokens_map.json")
    named: dict[str, str] = {}
    texts: set[str] = set()
    for source in (special_map, config):
        for name in _NAMED_TOKENS:
            if (text := _token_text(source.get(name))) is not None:
                named[name] = text
                texts.add(text)
        listed = source.get("additional_special_tokens") or ()
        texts.update(text for text in map(_token_text, listed) if text)
    return TokenizerFiles(
        directory=directory,
        tokenizer=tokenizer,
        named_tokens=named,
        special_texts=frozenset(texts),
        templates=_templates(directory, config),
    )


def _templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates by name. A separate file takes precedence over the configuration."""
    if (source := _text(directory / "chat_template.jinja")) is not None:
        return {"default": source}
    entry = config.get("chat_template")
    if entry is None:
        return {}
    if isinstance(entry, str):
        return {"default": entry}
    try:
        return {str(one["name"]): str(one["template"]) for one in entry}
    except (TypeError, KeyError) as error:
        path = directory / "tokenizer_config.json"
        raise RenderingError(f"{path}: `chat_template` is neither a text nor a list") from error


def _token_text(entry: object) -> str | None:
    """The text of a named token, which files write as a string or as an object."""
    if isinstance(entry, Mapping):
        entry = entry.get("content")
    return entry if isinstance(entry, str) and entry else None


def _document(path: Path) -> Mapping[str, Any]:
    text = _text(path)
    if text is None:
        return {}
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RenderingError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise RenderingError(f"{path}: not a JSON object")
    return document


def _text(path: Path) -> str | None:
    """The file's text, or `None` if the file does not exist."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise RenderingError(f"{path}: {error}") from error
