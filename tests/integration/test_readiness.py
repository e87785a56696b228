"""Readiness over HTTP while parts of a running appliance are really taken away."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from orchestrator.keys.secret import new_key_secret
from tests.integration.scripted.repository import ScriptedRepository
from tests.integration.serving import Serving, running, wait_until
from tests.postgresql import PostgresServer
from tests.redis_server import RedisServer, running_redis

_SOON_S = 60.0


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def serving(
    database: PostgresServer,
    redis: RedisServer,
    scripted_repository: ScriptedRepository,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Serving]:
    """An appliance over servers of these tests alone, for what they do to them."""
    settings = {
        **scripted_repository.settings,
        "STORE__URL": database.new_database(),
        "STORE__KEY_GRACE_S": 10,
        "REDIS__URL": redis.url,
        "REDIS__WORKER_TTL_S": 4,
    }
    yield from running(Serving(tmp_path_factory.mktemp("readiness"), settings))


def ready(serving: Serving, key: str | None = None) -> tuple[int, dict[str, Any]]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    reply = requests.get(f"{serving.url}/health/ready", headers=headers, timeout=60)
    return reply.status_code, reply.json()


def parts(serving: Serving) -> dict[str, str]:
    return {part["name"]: part["status"] for part in ready(serving, serving.key)[1]["parts"]}


def says(serving: Serving, status: int, word: str) -> Callable[[], bool]:
    return lambda: ready(serving) == (status, {"status": word})


def is_green(serving: Serving) -> None:
    wait_until(says(serving, 200, "ok"), _SOON_S, "ready again")


def test_a_stranger_gets_the_word_alone_and_an_admin_every_part(serving: Serving) -> None:
    is_green(serving)
    assert ready(serving, new_key_secret()) == (200, {"status": "ok"})
    status, document = ready(serving, serving.key)
    assert status == 200
    assert [part["name"] for part in document["parts"]] == [
        *("store", "policy", "limits", "books", "audit", "triton", "models")
    ]
    assert {part["status"] for part in document["parts"]} == {"ok"}
    assert {
        "id": "scripted/scripted",
        "ready": True,
        "detail": "self-test: shape only",
    } in document["models"]


@pytest.mark.parametrize("prefix", ["", "/v1", "/api/v1"])
def test_all_probes_answer_without_a_key_under_every_prefix(serving: Serving, prefix: str) -> None:
    for path in ("/health", "/health/live", "/health/ready"):
        reply = requests.get(f"{serving.url}{prefix}{path}", timeout=60)
        assert (reply.status_code, reply.json()["status"]) == (200, "ok")
        assert reply.headers["cache-control"] == "no-store"


def test_a_store_that_is_gone_degrades_while_keys_are_believed_and_then_refuses(
    serving: Serving, database: PostgresServer
) -> None:
    is_green(serving)
    assert parts(serving)["store"] == "ok"
    with database.stopped():
        wait_until(says(serving, 200, "degraded"), _SOON_S, "degraded")
        assert requests.get(f"{serving.url}/health/live", timeout=60).status_code == 200
        wait_until(says(serving, 503, "unavailable"), _SOON_S, "the end of the grace")
    is_green(serving)


def test_a_store_that_hangs_is_told_within_seconds(
    serving: Serving, database: PostgresServer
) -> None:
    is_green(serving)
    with database.frozen():
        wait_until(lambda: ready(serving)[1] != {"status": "ok"}, _SOON_S, "not ok")
    is_green(serving)


@pytest.mark.parametrize("how", ["hanging", "gone"])
def test_without_redis_callers_with_limits_are_refused_and_readiness_says_so(
    serving: Serving, redis: RedisServer, how: str
) -> None:
    is_green(serving)
    if how == "hanging":
        redis.hang()
    else:
        redis.kill()
    try:
        wait_until(says(serving, 503, "unavailable"), _SOON_S, "unavailable")
        assert parts(serving)["limits"] == "unavailable"
    finally:
        if how == "hanging":
            redis.wake()
        else:
            redis.start()
    is_green(serving)


def test_a_stopped_triton_is_told_until_it_is_back(serving: Serving) -> None:
    is_green(serving)
    serving.server().send_signal(signal.SIGSTOP)
    wait_until(says(serving, 503, "unavailable"), _SOON_S, "unavailable")
    assert parts(serving)["models"] == "unavailable"
    # The supervisor ends the one that hangs and starts another.
    wait_until(says(serving, 200, "ok"), 90, "ready again")
