"""Streams over real sockets whose engine takes long to its first token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.integration.scripted.repository import ScriptedRepository, script, write_repository
from tests.integration.serving import Serving, running

PING = ": ping\n\n"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """An appliance of a scripted model that pings after a fifth of a second."""
    folder = tmp_path_factory.mktemp("impatient")
    repository: ScriptedRepository = write_repository(folder / "repository")
    settings = {**repository.settings, "SERVER__PING_AFTER_S": 0.2}
    yield from running(Serving(folder / "run", settings))


def asked(**fields: Any) -> dict[str, Any]:
    """A chat whose model waits for two seconds and then does what `fields` say."""
    text = script(first_delay_ms=2_000, **fields)
    messages = [{"role": "user", "content": text}]
    return {"model": "scripted/scripted", "messages": messages, "stream": True}


@pytest.mark.parametrize(
    ("fields", "end"),
    [({"emit": "Hello"}, '"finish_reason":"stop"'), ({"fail_at": 0}, '"finish_reason":"error"')],
)
def test_the_status_and_pings_come_before_the_first_token(
    impatient: Serving, fields: dict[str, Any], end: str
) -> None:
    headers = {"authorization": f"Bearer {impatient.key}"}
    with (
        httpx2.Client(base_url=impatient.base_url, headers=headers, timeout=120) as client,
        client.stream("POST", "chat/completions", json=asked(**fields)) as reply,
    ):
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        text = "".join(reply.iter_text())
        # The reply has an end of its own: the connection can be used again.
        assert client.get("models").status_code == 200
    assert text.startswith(PING)
    assert end in text
    assert text.endswith("data: [DONE]\n\n")
