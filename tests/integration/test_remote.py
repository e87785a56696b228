"""The orchestrator in front of a Triton that somebody else runs, over TLS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import requests

from tests.integration.remote_triton import RemoteTriton, remote_triton
from tests.integration.scripted.repository import ScriptedRepository, script, write_repository
from tests.integration.serving import Serving, wait_until

MODEL = "scripted/scripted"
WAIT_FOR_MODEL_S = 5


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRepository:
    return write_repository(tmp_path_factory.mktemp("remote") / "repository")


@pytest.fixture(scope="module")
def triton(
    repository: ScriptedRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RemoteTriton]:
    with remote_triton(tmp_path_factory.mktemp("triton"), repository) as running:
        yield running


@pytest.fixture(scope="module")
def serving(triton: RemoteTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    values = triton.settings | {"TRITON__WAIT_FOR_MODEL_S": WAIT_FOR_MODEL_S}
    made = Serving(tmp_path_factory.mktemp("serving"), values)
    try:
        yield made.wait_ready()
        assert made.stop() == 0, made.log
    finally:
        made.kill()


@pytest.fixture
def client(serving: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=serving.base_url, api_key=serving.key, max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, prompt: str) -> str | None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": prompt}]
    )
    return answer.choices[0].message.content


def wait_until_it_answers(client: openai.OpenAI) -> None:
    def answers() -> bool:
        try:
            return ask(client, "hello") == "hello"
        except openai.APIStatusError:
            return False

    wait_until(answers, 30, "an answer")


def test_a_remote_triton_serves_over_tls_with_our_metadata(client: openai.OpenAI) -> None:
    wait_until_it_answers(client)


def test_a_hung_remote_fails_what_is_in_flight_and_serves_again_when_it_wakes(
    client: openai.OpenAI, triton: RemoteTriton, serving: Serving
) -> None:
    wait_until_it_answers(client)
    endless = script(emit="x", repeat=2000, delay_ms=20)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask, client, endless) for _ in range(4)]
        time.sleep(1)
        triton.process.suspend()
        try:
            began_at = time.monotonic()
            for one in waiting:
                with pytest.raises(openai.APIStatusError) as caught:
                    one.result(30)
                assert caught.value.status_code == 503
            assert time.monotonic() - began_at < 10
            refused = requests.post(
                f"{serving.base_url}/chat/completions",
                headers={"authorization": f"Bearer {serving.key}"},
                json={"model": MODEL, "messages": [{"role": "user", "content": "hi"}]},
                timeout=60,
            )
            # It has waited for the model, until the bound.
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
        finally:
            triton.process.resume()
    wait_until_it_answers(client)


def test_a_wrong_authority_is_a_503_and_no_answer(
    triton: RemoteTriton, repository: ScriptedRepository, tmp_path: Path
) -> None:
    import trustme

    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    settings = triton.settings | {"TRITON__TLS_CA_FILE": tmp_path / "other.pem"}
    made = Serving(tmp_path / "serving", settings)
    try:
        made.wait_ready()
        with (
            openai.OpenAI(base_url=made.base_url, api_key=made.key, max_retries=0) as client,
            pytest.raises(openai.InternalServerError) as caught,
        ):
            ask(client, "hello")
        assert caught.value.status_code == 503
        assert made.stop() == 0
    finally:
        made.kill()
