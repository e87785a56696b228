"""What the doctor makes of services that are not there, and that nothing is made by asking."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.doctor import services
from orchestrator.doctor.finding import Finding
from orchestrator.settings import (
    PolicySettings,
    RedisSettings,
    Settings,
    StoreSettings,
    TritonConnection,
    TritonSettings,
)
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate
from tests.redis_server import RedisServer, running_redis


@pytest.fixture
def nowhere() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_store_that_is_not_there_yet_is_not_made_by_looking(tmp_path: Path) -> None:
    (finding,) = await services.store(Settings(data_dir=tmp_path / "data"))
    assert finding.level == "ok"
    assert "the first start makes it" in finding.text
    assert not os.listdir(tmp_path)  # noqa: PTH208  # in a coroutine


async def test_a_store_that_is_set_up_is_well_and_one_that_is_not_says_how(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    await Database(settings).close()
    (empty,) = await services.store(settings)
    assert empty.level == "failed"
    assert "orchestrator migrate" in empty.advice
    await migrate(settings)
    (ready,) = await services.store(settings)
    assert (ready.level, ready.text) == ("ok", str(tmp_path / "orchestrator.db"))


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        yield server


async def _redis_with(url: str) -> Finding:
    (finding,) = await services.redis(Settings(redis=RedisSettings(url=SecretStr(url))))
    assert "a-wrong-one" not in finding.text + finding.advice
    return finding


async def test_a_redis_that_may_be_written_is_well_and_keeps_nothing(
    redis_server: RedisServer,
) -> None:
    finding = await _redis_with(redis_server.url)
    assert finding.level == "ok"
    assert redis_server.command("DBSIZE") == ":0"


async def test_a_redis_that_takes_no_password_or_another_one_says_so(
    redis_server: RedisServer,
) -> None:
    url = redis_server.url.replace("redis://", "redis://:a-wrong-one@")
    finding = await _redis_with(url)
    assert finding.level == "failed"
    assert "without any password configured" in finding.text
    assert redis_server.command("CONFIG SET requirepass the-right-one") == "+OK"
    finding = await _redis_with(url)
    assert finding.level == "failed"
    assert "invalid username-password pair" in finding.text
    finding = await _redis_with(redis_server.url)
    assert "Authentication required" in finding.text


async def test_a_redis_user_who_may_only_read_is_a_failure(redis_server: RedisServer) -> None:
    rights = "on >reads ~* -@all +@read +@connection +time +eval"
    assert redis_server.command(f"ACL SETUSER reader {rights}") == "+OK"
    url = redis_server.url.replace("redis://", "redis://reader:reads@")
    finding = await _redis_with(url)
    assert finding.level == "failed"
    # Redis 7.0 and Valkey 9 say so in words of their own.
    assert any(words in finding.text for words in ("can't run this command", "no permissions"))
    assert "write" in finding.advice


async def test_no_password_is_told(tmp_path: Path, nowhere: int) -> None:
    password = "very-secret"
    url = f"postgresql+asyncpg://user:{password}@127.0.0.1:{nowhere}/db"
    settings = Settings(
        data_dir=tmp_path,
        store=StoreSettings(url=url),
        redis=RedisSettings(url=SecretStr(f"redis://:{password}@127.0.0.1:{nowhere}/0")),
    )
    findings = [*await services.store(settings), *await services.redis(settings)]
    assert [one.level for one in findings] == ["failed", "failed"]
    assert password not in str(findings)


async def test_the_embedded_policy_decides(tmp_path: Path) -> None:
    (finding,) = await services.policy(Settings(data_dir=tmp_path))
    assert (finding.level, finding.text) == ("ok", "embedded Rego decides")


async def test_an_opa_that_is_away_is_a_failure(
    tmp_path: Path, nowhere: int, caplog: pytest.LogCaptureFixture
) -> None:
    policy = PolicySettings(engine="opa", opa_url=f"http://me:hidden@127.0.0.1:{nowhere}")
    (finding,) = await services.policy(Settings(data_dir=tmp_path, policy=policy))
    assert finding.level == "failed"
    assert "hidden" not in f"{finding}{caplog.text}"


async def test_without_otel_variables_nothing_is_sent_and_nobody_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    (finding,) = await services.collector(Settings())
    assert (finding.level, finding.text) == ("ok", "none is named, nothing is sent")


async def test_a_collector_is_only_called_when_it_is_named(
    monkeypatch: pytest.MonkeyPatch, nowhere: int
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{nowhere}")
    assert {one.level for one in await services.collector(Settings())} == {"warning"}
    with socket.socket() as collector:
        collector.bind(("127.0.0.1", 0))
        collector.listen(4)
        port = collector.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        assert {one.level for one in await services.collector(Settings())} == {"ok"}


async def test_each_of_several_tritons_is_asked_by_its_name(nowhere: int, tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.toml"
    entry = (
        '[[model]]\nid = "acme/chat"\nname = "chat"\ntask = "generate"\ncontext_tokens = 64\n'
        'tritons = ["a", "b"]\n[model.engine]\ncheckpoint = "-"\n'
    )
    catalogue.write_text(entry, encoding="utf-8")
    there = TritonConnection(url=f"127.0.0.1:{nowhere}")
    triton = TritonSettings(mode="remote", endpoints={"a": there, "b": there})
    findings = await services.remote_triton(Settings(catalogue=catalogue, triton=triton))
    assert [(one.subject, one.level) for one in findings] == [
        ("triton a", "failed"),
        ("triton b", "failed"),
    ]
    triton = TritonSettings(mode="remote", endpoints={"a": there})
    (finding,) = await services.remote_triton(Settings(catalogue=catalogue, triton=triton))
    assert "`tritons` names `b`" in finding.text


async def test_a_remote_triton_that_is_away_is_named(nowhere: int) -> None:
    triton = TritonSettings(mode="remote", url=f"127.0.0.1:{nowhere}")
    (finding,) = await services.remote_triton(Settings(triton=triton))
    assert (finding.level, finding.text) == ("failed", f"nothing answers at {triton.url}")
