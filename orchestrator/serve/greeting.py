"""The greeting that `orchestrator serve` prints when it is ready: lines to paste."""

from __future__ import annotations

import json
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.contract.catalogue import Model
from orchestrator.core.hosts import loopback_of

_QUESTION = "What is the capital of France?"


def base_url(listener: socket.socket) -> str:
    """Returns the URL at which a client on this machine reaches `listener`."""
    host, port = listener.getsockname()[:2]
    host = loopback_of(host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def greeting(url: str, models: Sequence[Model], *, new_key: str | None, key_file: Path) -> str:
    """Returns the base URL, the first key if it is new, and examples with the real values.

    On later starts the examples read the key from `key_file`, if it is still there.
    """
    lines = ["", f"Base URL   {url}/v1"]
    if new_key is not None:
        lines += [f"First key  {new_key}", f"           shown only now; also in {key_file}"]
        shell_key, python_key = new_key, json.dumps(new_key)
    elif key_file.is_file():
        lines.append(f"First key  in {key_file}")
        shell_key = f"$(cat {shlex.quote(str(key_file))})"
        python_key = f"open({json.dumps(str(key_file))}).read().strip()"
    else:
        lines.append(f"Keys       {sys.executable} -m orchestrator keys create --label NAME")
        shell_key, python_key = "KEY", '"KEY"'
    lines += _examples(url, models, shell_key, python_key)
    return "\n".join(lines) + "\n"


def _examples(url: str, models: Sequence[Model], shell_key: str, python_key: str) -> list[str]:
    for model in models:
        if model.task == "generate":
            return _chat_examples(url, model.id, shell_key, python_key)
    for model in models:
        return _embedding_examples(url, model.id, shell_key, python_key)
    return []


def _chat_examples(url: str, model: str, shell_key: str, python_key: str) -> list[str]:
    messages = [{"role": "user", "content": _QUESTION}]
    body = {"model": model, "messages": messages}
    python = [
        f"messages = {json.dumps(messages)}",
        f"answer = client.chat.completions.create(model={json.dumps(model)}, messages=messages)",
        "print(answer.choices[0].message.content)",
    ]
    return _both(url, "chat/completions", body, shell_key, python_key, python)


def _embedding_examples(url: str, model: str, shell_key: str, python_key: str) -> list[str]:
    body = {"model": model, "input": _QUESTION}
    python = [
        f"text = {json.dumps(_QUESTION)}",
        f"answer = client.embeddings.create(model={json.dumps(model)}, input=text)",
        "print(answer.data[0].embedding[:8])",
    ]
    return _both(url, "embeddings", body, shell_key, python_key, python)


def _both(
    url: str,
    path: str,
    body: Mapping[str, object],
    shell_key: str,
    python_key: str,
    python: Sequence[str],
) -> list[str]:
    return [
        "",
        (
            f'curl -sS {url}/v1/{path} -H "Authorization: Bearer {shell_key}" '
            f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
        ),
        "",
        f"# {sys.executable} has the openai package",
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{url}/v1", api_key={python_key})',
        *python,
        "",
    ]
