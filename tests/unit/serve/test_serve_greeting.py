"""The lines that are printed when all is ready."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from orchestrator.contract.catalogue import EngineRecipe, Model, Task
from orchestrator.serve.greeting import greeting

URL = "http://127.0.0.1:8000"
KEY = "op_live_0a1b_00112233445566778899aabbccddeeff"


def model(name: str, task: Task) -> Model:
    return Model(name, name.replace("/", "-"), task, 128, EngineRecipe("nowhere"))


def curl_of(text: str) -> list[str]:
    return shlex.split(next(line for line in text.splitlines() if line.startswith("curl ")))


def test_new_key_is_in_every_line_that_needs_it(tmp_path: Path) -> None:
    models = [model("demo/embed", "embed"), model("demo/chat", "generate")]
    text = greeting(URL, models, new_key=KEY, key_file=tmp_path / "first-key")
    assert text.count(KEY) == 3
    curl = curl_of(text)
    assert f"{URL}/v1/chat/completions" in curl
    assert f"Authorization: Bearer {KEY}" in curl
    assert json.loads(curl[-1])["model"] == "demo/chat"
    python = text[text.index("from openai") :].strip()
    assert len(python.splitlines()) == 5
    compile(python, "greeting", "exec")


def test_later_starts_read_the_key_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "a folder" / "first-key"
    file.parent.mkdir()
    file.write_text(KEY, encoding="utf-8")
    text = greeting(URL, [model("demo/chat", "generate")], new_key=None, key_file=file)
    assert KEY not in text
    assert f"$(cat '{file}')" in text
    compile(text[text.index("from openai") :], "greeting", "exec")


def test_without_a_key_file_a_way_to_get_one_is_named(tmp_path: Path) -> None:
    text = greeting(URL, [model("demo/chat", "generate")], new_key=None, key_file=tmp_path / "no")
    assert "keys create" in text


def test_embedding_models_alone_get_an_embedding_example(tmp_path: Path) -> None:
    text = greeting(URL, [model("demo/embed", "embed")], new_key=KEY, key_file=tmp_path / "k")
    assert f"{URL}/v1/embeddings" in curl_of(text)
    compile(text[text.index("from openai") :], "greeting", "exec")


def test_without_models_there_is_no_example(tmp_path: Path) -> None:
    text = greeting(URL, [], new_key=KEY, key_file=tmp_path / "k")
    assert "curl" not in text
    assert f"{URL}/v1" in text
