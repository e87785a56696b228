"""Writes a repository of scripted models, and reads what they did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from orchestrator.settings import PROJECT_ROOT

HERE = Path(__file__).parent
END_ID = 256
CONTEXT_TOKENS = 4096
THINKER = "thinker"
"""The name of a model whose answers are read for thoughts and for calls of tools."""
AGENT = "agent"
"""The name of a model for coding agents: see `AGENT_TEMPLATE`."""
AGENT_CONTEXT_TOKENS = 200_000
AGENT_TEMPLATE = """\
{%- if tools %}{% endif -%}
{%- set seen = namespace(script='{"emit": "There was no script."}') -%}
{%- for message in messages -%}
  {%- if message.role == 'system' and not loop.first -%}
    {{- raise_exception('System message must be at the beginning.') -}}
  {%- endif -%}
  {%- for call in message.tool_calls or () -%}
    {%- for name, value in call.function.arguments | items -%}{%- endfor -%}
  {%- endfor -%}
  {%- if message.role == 'user' and '@@' in message.content -%}
    {%- set seen.script = message.content.split('@@')[-2] -%}
  {%- elif message.role == 'tool' -%}
    {%- set seen.script = {'emit': 'The tool said: ' ~ message.content} | tojson -%}
  {%- endif -%}
{%- endfor -%}
{{- seen.script -}}
"""
"""Does what stands between two `@@` of a user's message, and repeats what a tool said after it. It
refuses a late system message and needs arguments that are an object, as Qwen 3.5's does.
"""
TEMPLATES = {
    THINKER: "{% if tools %}{% endif %}{{ messages[-1].content }}",
    AGENT: AGENT_TEMPLATE,
}
TEMPLATE = "{{ messages[-1].content }}"
PARAMETERS = """
parameters {
  key: "log_file"
  value { string_value: "%s" }
}
"""


@dataclass(frozen=True)
class ScriptedRepository:
    """`catalogue` lists every model as `scripted/<name>`; all of them write to `log`."""

    path: Path
    catalogue: Path
    log: Path
    names: tuple[str, ...]

    @property
    def settings(self) -> dict[str, object]:
        """For `Serving`."""
        return {"CATALOGUE": self.catalogue, "TRITON__REPOSITORY": self.path}

    def events(self, request_id: str = "") -> list[dict[str, Any]]:
        """What happened, oldest first, to requests whose id begins with `request_id`."""
        if not self.log.exists():
            return []
        lines = self.log.read_text(encoding="utf-8").splitlines()
        events: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [event for event in events if event["id"].startswith(request_id)]


def script(**fields: Any) -> str:
    """A prompt that makes a scripted model do `fields`; see `Script` in its backend."""
    return json.dumps(fields)


def write_repository(path: Path, names: Sequence[str] = ("scripted",)) -> ScriptedRepository:
    """A repository at `path` with its own backend folder, as the builder would leave it."""
    shutil.copytree(HERE / "backends", path / "backends")
    log = path / "events.jsonl"
    entries = []
    for name in names:
        version = path / name / "1"
        version.mkdir(parents=True)
        (path / name / "config.pbtxt").write_text(_config(name, log), encoding="utf-8")
        (version / "tokenizer.json").write_text(json.dumps(_tokenizer()), encoding="utf-8")
        (version / "tokenizer_config.json").write_text(
            json.dumps({"eos_token": "<|end|>"}), encoding="utf-8"
        )
        (version / "chat_template.jinja").write_text(
            TEMPLATES.get(name, TEMPLATE), encoding="utf-8"
        )
        (version / "manifest.json").write_text(json.dumps(_manifest(name)), encoding="utf-8")
        entries.append(_entry(name))
    catalogue = path / "catalogue.toml"
    catalogue.write_text("\n".join(entries), encoding="utf-8")
    return ScriptedRepository(path, catalogue, log, tuple(names))


def _config(name: str, log: Path) -> str:
    template = PROJECT_ROOT / "model_repository" / "templates" / "generate.pbtxt"
    return Template(template.read_text(encoding="utf-8")).substitute(
        name=name,
        backend="scripted",
        max_batch_size=64,
        max_queue_size=256,
        parameters=PARAMETERS % log,
    )


def _entry(name: str) -> str:
    return (
        f'[[model]]\nid = "scripted/{name}"\nname = "{name}"\ntask = "generate"\n'
        f"context_tokens = {_context_tokens(name)}\n"
        + ('parser = "hermes"\n' if name in TEMPLATES else "")
        + ('reasoning = "think"\n' if name == THINKER else "")
        + '[model.engine]\ncheckpoint = "nowhere"\n'
    )


def _context_tokens(name: str) -> int:
    return AGENT_CONTEXT_TOKENS if name == AGENT else CONTEXT_TOKENS


def _manifest(name: str) -> dict[str, Any]:
    return {
        "format": 1,
        "model": f"scripted/{name}",
        "task": "generate",
        "target": "cpu",
        "limits": {
            "max_batch_size": 64,
            "max_input_len": _context_tokens(name) - 1,
            "max_seq_len": _context_tokens(name),
            "vocab_size": END_ID + 1,
        },
        "tokens": {"end_id": END_ID, "extra_end_ids": [], "pad_id": None},
        "features": {"finish_reason": True, "min_p": True, "prefix_cache": "salted"},
    }


def _tokenizer() -> dict[str, Any]:
    """Byte-level without merges: the id of a token is its byte."""
    end = {
        "id": END_ID,
        "content": "<|end|>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    vocabulary = {letter: byte for byte, letter in _byte_letters().items()}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": [end],
        "pre_tokenizer": {**byte_level, "use_regex": False},
        "decoder": {**byte_level, "use_regex": True},
        "model": {"type": "BPE", "vocab": {**vocabulary, "<|end|>": END_ID}, "merges": []},
    }


def _byte_letters() -> dict[int, str]:
    """The letter that stands for each byte. Source: GPT-2's `bytes_to_unicode`."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return letters
