"""Models that do not do what they did, in front of a real Triton: they are not served."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from orchestrator.settings import PROJECT_ROOT
from tests.integration.serving import Serving, running, settings_env, wait_until


@pytest.fixture(scope="module")
def repository(demo_models: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo models, with another answer recorded for the one that chats."""
    path = tmp_path_factory.mktemp("selftest") / "repository"
    shutil.copytree(PROJECT_ROOT / "model_repository", path)
    alter_recordings(path, 1)
    return path


def alter_recordings(repository: Path, by: int) -> None:
    for recording in repository.glob("demo-chat/*/selftest.json"):
        document = json.loads(recording.read_text(encoding="utf-8"))
        document["cases"][0]["output_ids"][0] += by
        recording.write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture(scope="module")
def settings(repository: Path) -> dict[str, object]:
    return {"TRITON__REPOSITORY": repository, "CATALOGUE": repository / "catalogue.toml"}


@pytest.fixture(scope="module")
def serving(
    settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    yield from running(Serving(tmp_path_factory.mktemp("serving"), settings))


def call(serving: Serving, method: str, path: str, body: object = None) -> requests.Response:
    headers = {"authorization": f"Bearer {serving.key}"}
    return requests.request(method, serving.url + path, json=body, headers=headers, timeout=60)


def test_a_model_that_answers_otherwise_is_refused_and_the_others_are_served(
    serving: Serving,
) -> None:
    chat = {"model": "demo/chat", "messages": [{"role": "user", "content": "hi"}]}
    refused = call(serving, "POST", "/v1/chat/completions", chat)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "model_unavailable"
    vector = call(serving, "POST", "/v1/embeddings", {"model": "demo/embed", "input": "hi"})
    assert vector.status_code == 200


def test_log_readiness_and_doctor_say_why(serving: Serving, settings: dict[str, object]) -> None:
    reason = "self-test: token 1 of a golden prompt is "
    assert reason in serving.log
    reply = call(serving, "GET", "/health/ready")
    assert (reply.status_code, reply.json()["status"]) == (200, "degraded")
    models = {model["id"]: model for model in reply.json()["models"]}
    assert models["demo/chat"]["detail"].startswith(reason)
    assert models["demo/embed"] == {
        "id": "demo/embed",
        "ready": True,
        "detail": "self-test: 3 golden vectors",
    }
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "doctor", "--json"],
        env=settings_env(settings | {"DATA_DIR": serving.data_dir, "SERVER__PORT": serving.port}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    document = json.loads(done.stdout)
    (finding,) = [one for one in document["findings"] if one["subject"] == "served demo/chat"]
    assert finding["level"] == "failed"
    assert finding["text"].startswith(reason)
    assert finding["advice"]


def test_a_load_that_is_right_again_is_served_by_itself(serving: Serving, repository: Path) -> None:
    alter_recordings(repository, -1)
    serving.server().kill()
    chat = {"model": "demo/chat", "messages": [{"role": "user", "content": "hi"}]}
    wait_until(
        lambda: call(serving, "POST", "/v1/chat/completions", chat).status_code == 200,
        90,
        "the model is served",
    )
    reply = call(serving, "GET", "/health/ready")
    assert reply.json()["models"][0]["detail"] == "self-test: 3 golden prompts"
