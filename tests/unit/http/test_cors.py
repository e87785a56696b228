"""What browsers are told; `tests/integration/test_every_route.py` has it on every route."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.http.cors import EXPOSED, cors_of
from orchestrator.settings import ServerSettings
from tests.wire.harness import KEY, bench

PAGE = "https://a.test"
ANY = cors_of(ServerSettings(cors_origins=("*",)))
ASK = {b"origin": PAGE.encode(), b"access-control-request-method": b"POST"}
ALWAYS_READABLE = {"cache-control", "content-length", "content-type"}
"""Those among the names that the Fetch standard lists which replies have here."""
NOT_FOR_PAGES = {"vary", "x-accel-buffering"}


def test_by_default_nothing_is_said() -> None:
    assert cors_of(ServerSettings()) is None


def test_any_origin_is_a_star_and_no_reason_to_vary() -> None:
    assert ANY is not None
    for origin in (PAGE.encode(), b"null", None):
        names = dict(ANY.reply_headers("/v1/models", origin))
        assert names[b"access-control-allow-origin"] == b"*"
        assert b"vary" not in names


@pytest.mark.parametrize(
    "path", ["/v1/keys", "/api/v1/keys/key_1", "/v1/policies", "/v1/usage", "/v1/audit", "/metrics"]
)
def test_any_origin_does_not_mean_management(path: str) -> None:
    assert ANY is not None
    assert ANY.reply_headers(path, PAGE.encode()) == []
    assert ANY.preflight_headers(path, ASK, ["GET"]) == []


@pytest.mark.parametrize(
    "wanted", [b"a\r\nset-cookie: b", b"a:b", b"a, ,", b"\xff", b"a," * 3000 + b"a"]
)
def test_what_is_no_list_of_names_is_not_repeated(wanted: bytes) -> None:
    assert ANY is not None
    asked = {**ASK, b"access-control-request-headers": wanted}
    told = dict(ANY.preflight_headers("/v1/models", asked, ["GET"]))
    assert b"access-control-allow-headers" not in told
    assert told[b"access-control-allow-methods"] == b"GET"


def test_an_address_in_a_private_network_may_be_asked() -> None:
    assert ANY is not None
    asked = {**ASK, b"access-control-request-private-network": b"true"}
    told = dict(ANY.preflight_headers("/v1/models", asked, ["GET"]))
    assert told[b"access-control-allow-private-network"] == b"true"
    assert b"access-control-allow-private-network" not in dict(
        ANY.preflight_headers("/v1/models", ASK, ["GET"])
    )


async def test_a_page_can_read_every_header_of_a_reply(tmp_path: Path) -> None:
    server = ServerSettings(cors_origins=(PAGE,))
    async with bench(tmp_path, server=server) as service:
        chat = {"model": "acme/chat", "messages": [{"role": "user", "content": "hi"}]}
        replies = [
            await service.post("/v1/chat/completions", {**chat, **more}, headers=page)
            for page in ({"origin": PAGE},)
            for more in ({}, {"stream": True}, {"model": 5}, {"model": "none"})
        ]
        replies += [
            await service.client.get("/v1/models", headers={"origin": PAGE}),
            await service.client.put("/v1/models", headers={"origin": PAGE}),
            await service.client.post(
                "/v1/messages",
                headers={"origin": PAGE, "content-encoding": "br", "x-api-key": KEY},
            ),
        ]
    for reply in replies:
        assert reply.headers["access-control-allow-origin"] == PAGE
        names = {name for name in reply.headers if not name.startswith("access-control")}
        assert names - ALWAYS_READABLE - NOT_FOR_PAGES <= set(EXPOSED)
