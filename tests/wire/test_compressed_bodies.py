"""Compressed bodies in every dialect: served as what they hold, within the bounds of any body."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from orchestrator.settings import ServerSettings
from tests.wire.harness import call
from tests.wire.policy_bench import ADMIN, PLAIN, PolicyBench, policy_bench
from tests.wire.test_before_work import COUNTING, GENERATING

NOW = 1_795_000_000.0
MOST = ServerSettings().max_body_bytes
MANAGING: dict[str, dict[str, Any]] = {
    "/v1/keys": {"label": "made", "policy_id": "pol_default"},
    "/v1/policies": {"name": "made"},
}
INFERENCE = {**GENERATING, **COUNTING}
EVERYTHING = {**INFERENCE, **MANAGING}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyBench]:
    async with policy_bench(tmp_path_factory.mktemp("compressed"), now=lambda: NOW) as made:
        yield made


async def post(
    bench: PolicyBench, path: str, body: bytes, coding: bytes, key: str = ADMIN
) -> tuple[int, dict[bytes, bytes], str]:
    """Status, headers and text of the reply to a body in `coding`."""
    headers = [
        (b"content-length", b"%d" % len(body)),
        (b"content-type", b"application/json"),
        (b"content-encoding", coding),
    ]
    app = bench.client._transport.app  # type: ignore[attr-defined]  # of an ASGI transport
    start, *bodies = await call(app, path=path, key=key, headers=headers, body=body)
    text = b"".join(one["body"] for one in bodies).decode()
    return start["status"], dict(start["headers"]), text


@pytest.mark.parametrize("path", EVERYTHING)
async def test_it_is_served_as_what_it_holds(bench: PolicyBench, path: str) -> None:
    body = orjson.dumps(EVERYTHING[path])
    key = ADMIN if path in MANAGING else PLAIN
    plain, _, _ = await post(bench, path, body, b"identity", key)
    for coding, given in ((b"gzip", gzip.compress(body)), (b"deflate", zlib.compress(body))):
        status, _, told = await post(bench, path, given, coding, key)
        assert status == plain < 300, told


@pytest.mark.parametrize("path", EVERYTHING)
async def test_another_coding_is_415_with_those_that_are_known(
    bench: PolicyBench, path: str
) -> None:
    for coding in (b"br", b"zstd", b"gzip, gzip"):
        status, headers, told = await post(bench, path, b"{}", coding)
        assert status == 415
        assert headers[b"accept-encoding"] == b"gzip, deflate"
        assert coding.decode() in told


@pytest.mark.parametrize("path", EVERYTHING)
async def test_what_is_not_compressed_so_is_400(bench: PolicyBench, path: str) -> None:
    status, _, told = await post(bench, path, orjson.dumps(EVERYTHING[path]), b"gzip")
    assert status == 400
    assert "not valid gzip" in told


@pytest.mark.parametrize("path", EVERYTHING)
async def test_a_body_that_holds_too_much_is_413(bench: PolicyBench, path: str) -> None:
    bomb = gzip.compress(b" " * (64 * MOST), compresslevel=1)
    status, _, told = await post(bench, path, bomb, b"gzip")
    assert status == 413, told
    assert "decompressed" in told or "were announced" in told


async def test_what_a_small_body_holds_counts_for_its_tenant(
    bench: PolicyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = orjson.dumps({**GENERATING["/v1/chat/completions"], "user": "x" * 3_000_000})
    small = gzip.compress(body)
    assert len(small) < 10_000
    app: Any = bench.client._transport.app  # type: ignore[attr-defined]  # of an ASGI transport
    shares = app.edge._intake.shares
    monkeypatch.setattr(shares, "_most_each", 1_000_000)
    status, headers, told = await post(bench, "/v1/chat/completions", small, b"gzip", PLAIN)
    assert status == 429, told
    assert b"retry-after" in headers
    assert shares.total == 0


async def test_a_caller_whose_minute_is_used_up_has_no_large_body_inflated(
    bench: PolicyBench,
) -> None:
    _, secret = await bench.new_key(rpm_limit=1)
    assert (await bench.chat(secret)).status_code == 200
    body = gzip.compress(b" " * MOST + b"!")
    status, _, told = await post(bench, "/v1/chat/completions", body, b"gzip", secret)
    # Neither 413, which it is, nor 400.
    assert status == 429, told
