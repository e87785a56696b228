"""WebSockets where there is none."""

from __future__ import annotations

import pytest

from tests.unit.wire.openai.realtime.client import refused
from tests.wire.harness import Bench


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/chat/completions", "/"])
async def test_a_path_without_a_socket_is_404_over_http(service: Bench, path: str) -> None:
    status, headers, body = await refused(service.app, path=path)
    assert status == 404
    assert body["error"]["reason"] == "unknown_url"
    assert headers[b"x-request-id"].decode() == body["error"]["request_id"]


async def test_the_path_in_the_message_is_not_endless(service: Bench) -> None:
    _, _, body = await refused(service.app, path="/" + "x" * 5000)
    assert len(body["error"]["message"]) < 300
