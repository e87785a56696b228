"""The socket of a session: errors that leave it open, its ends, and what the log says."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from orchestrator.http.exchange import DRAIN
from orchestrator.settings import RealtimeSettings, ServerSettings
from orchestrator.wire.surfaces import Application
from tests.unit.wire.openai.realtime.client import HELLO, TIMEOUT_S, SocketClient, connected
from tests.wire.harness import KEY, Bench, answer, bench

CREATE = {"type": "response.create", "response": {"input": [HELLO]}}


async def ended(client: SocketClient) -> None:
    """Returns when the application has nothing more to do for the client."""
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.wait([client.running])


@pytest.mark.parametrize(
    ("sent", "code", "event_id"),
    [
        ("{", "invalid_event", None),
        ("[]", "invalid_event", None),
        ({"event_id": "evt_1"}, "invalid_event", "evt_1"),
        ({"type": "nonsense", "event_id": "evt_1"}, "invalid_value", "evt_1"),
        ({"type": "session.update", "session": 5, "event_id": "evt_1"}, "invalid_value", "evt_1"),
        ({"type": "input_audio_buffer.commit"}, "invalid_value", None),
    ],
)
async def test_an_error_leaves_the_socket_open(
    service: Bench, sent: Any, code: str, event_id: str | None
) -> None:
    async with connected(service.app) as client:
        error = await client.ask(sent)
        assert error["type"] == "error"
        assert (error["error"]["code"], error["error"]["event_id"]) == (code, event_id)
        client.send(CREATE)
        assert (await client.until("response.done"))[-1]["response"]["status"] == "completed"


async def test_integers_of_any_size_in_a_tool_are_told(service: Bench) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer", "default": 2**70 + 1}}}
    tool = {"type": "function", "name": "f", "parameters": parameters}
    async with connected(service.app) as client:
        updated = await client.ask({"type": "session.update", "session": {"tools": [tool]}})
        assert updated["session"]["tools"][0]["parameters"] == parameters


async def test_every_event_has_an_id_of_its_own(service: Bench) -> None:
    async with connected(service.app) as client:
        client.send(CREATE)
        events = await client.until("rate_limits.updated")
        ids = [event["event_id"] for event in events]
        assert all(one.startswith("event_") for one in ids)
        assert len(set(ids)) == len(ids)


async def test_an_event_may_come_in_a_binary_message(service: Bench) -> None:
    async with connected(service.app) as client:
        raw = b'{"type": "session.update", "session": {"modalities": ["text"]}}'
        client.put({"type": "websocket.receive", "bytes": raw})
        assert (await client.event())["type"] == "session.updated"


async def test_a_silent_session_is_closed_with_an_error_first(tmp_path: Path) -> None:
    quick = RealtimeSettings(idle_s=0.05)
    async with bench(tmp_path, realtime=quick) as service, connected(service.app) as client:
        assert (await client.event())["error"]["code"] == "session_idle_timeout"
        close = await client.message()
        assert (close["type"], close["code"]) == ("websocket.close", 1001)
        await ended(client)


async def test_a_session_that_answers_is_not_silent(tmp_path: Path) -> None:
    async with bench(tmp_path, realtime=RealtimeSettings(idle_s=0.05)) as service:
        service.backend.events, service.backend.hangs = answer("Hello")[:3], True
        async with connected(service.app) as client:
            client.send(CREATE)
            await client.until("response.output_text.delta")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.message()
            client.send({"type": "response.cancel"})
            await client.until("rate_limits.updated")
            assert (await client.event())["error"]["code"] == "session_idle_timeout"


async def test_a_session_ends_with_its_time_whatever_runs(tmp_path: Path) -> None:
    async with bench(tmp_path, realtime=RealtimeSettings(session_s=0.2)) as service:
        service.backend.events, service.backend.hangs = answer("Hello")[:3], True
        async with connected(service.app) as client:
            client.send(CREATE)
            await client.until("response.output_text.delta")
            assert (await client.event())["error"]["code"] == "session_expired"
            assert service.backend.closed.is_set()
            assert (await client.message())["code"] == 1001
            await ended(client)


async def test_a_drain_lets_what_runs_end(service: Bench) -> None:
    service.backend.events = answer(*("x" for _ in range(100)))
    async with connected(service.app) as client:
        client.send(CREATE)
        client.put({"type": DRAIN})
        events = await client.until("rate_limits.updated")
        assert events[-2]["response"]["status"] == "completed"
        close = await client.message()
        assert (close["type"], close["code"]) == ("websocket.close", 1012)
        await ended(client)


async def test_a_drain_that_takes_too_long_fails_what_runs(tmp_path: Path) -> None:
    async with bench(tmp_path, server=ServerSettings(drain_s=0.1)) as service:
        service.backend.events, service.backend.hangs = answer("Hello")[:3], True
        async with connected(service.app) as client:
            client.send(CREATE)
            await client.until("response.output_text.delta")
            client.put({"type": DRAIN})
            events = await client.until("rate_limits.updated")
            failed = events[-2]["response"]
            assert failed["status"] == "failed"
            assert failed["status_details"]["error"]["code"] == "model_unavailable"
            assert (await client.message())["code"] == 1012
            await ended(client)


async def test_an_idle_session_is_drained_at_once(service: Bench) -> None:
    async with connected(service.app) as client:
        client.put({"type": DRAIN})
        assert (await client.message())["code"] == 1012
        await ended(client)


async def test_a_client_that_is_gone_is_no_fault(
    service: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(service.app) as client:
        client.gone = True
        client.send(CREATE)
        await client.leave()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_the_log_has_one_line_with_the_tokens_of_all_responses_and_no_key(
    service: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    protocols = ["realtime", f"openai-insecure-api-key.{KEY}"]
    async with connected(service.app, key=None, subprotocols=protocols) as client:
        for _ in range(2):
            client.send(CREATE)
            await client.until("rate_limits.updated")
    assert KEY not in caplog.text
    lines = [record for record in caplog.records if record.name == "orchestrator.requests"]
    assert len(lines) == 1
    told = str(vars(lines[0]))
    assert "101" in told
    assert "18" in told


async def test_what_a_session_holds_counts_among_the_bytes_of_its_tenant(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, server=ServerSettings(max_body_bytes=100_000)) as service:
        assert isinstance(service.app, Application)
        shares = service.app.edge._intake.shares

        def item(item_id: str) -> dict[str, Any]:
            content = [{"type": "input_text", "text": "x" * 70_000}]
            return {
                "type": "conversation.item.create",
                "item": {**HELLO, "id": item_id, "content": content},
            }

        async with connected(service.app) as client, connected(service.app) as other:
            for name in ("one", "two"):
                client.send(item(name))
                await client.until("conversation.item.done")
            assert shares.total >= 140_000
            error = (await other.ask(item("three")))["error"]
            assert "may hold 200000 bytes" in error["message"]
            client.send({"type": "conversation.item.delete", "item_id": "one"})
            await client.until("conversation.item.deleted")
            other.send(item("three"))
            await other.until("conversation.item.done")
        assert shares.total == 0


async def test_a_configuration_counts_too_and_its_successor_replaces_it(tmp_path: Path) -> None:
    async with bench(tmp_path, server=ServerSettings(max_body_bytes=100_000)) as service:
        assert isinstance(service.app, Application)
        shares = service.app.edge._intake.shares
        async with connected(service.app) as client:
            for size in (90_000, 70_000, 1):
                update = {"type": "realtime", "instructions": "x" * size}
                client.send({"type": "session.update", "session": update})
                await client.until("session.updated")
                await asyncio.sleep(0)
                counted = shares.total
                assert size <= counted < size + 2_000 if size > 1 else counted == 0
