"""Realtime sessions over the real port, by the official SDK and by a plain WebSocket client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.integration.limited import (
    MODEL,
    bearer,
    chat,
    new_key,
    post,
    wait_for_room_in_the_minute,
)
from tests.integration.scripted.repository import ScriptedRepository, script
from tests.integration.serving import Serving

TIMEOUT_S = 60.0
CLIENTS = 100


def address(serving: Serving, model: str = MODEL, prefix: str = "/v1") -> str:
    return f"ws://127.0.0.1:{serving.port}{prefix}/realtime?model={model}"


def client_of(serving: Serving) -> AsyncOpenAI:
    sockets = serving.base_url.replace("http:", "ws:")
    return AsyncOpenAI(
        base_url=serving.base_url, websocket_base_url=sockets, api_key=serving.key, max_retries=0
    )


def said(prompt: str) -> dict[str, Any]:
    content = [{"type": "input_text", "text": prompt}]
    return {"type": "message", "role": "user", "content": content}


def create(**fields: Any) -> str:
    """A `response.create` beside the conversation; the scripted model does `fields`."""
    response = {"conversation": "none", "input": [said(script(**fields))]}
    return json.dumps({"type": "response.create", "response": response})


@asynccontextmanager
async def session(serving: Serving, key: str | None = None) -> AsyncIterator[ClientConnection]:
    async with connect(
        address(serving), additional_headers=bearer(key or serving.key), proxy=None
    ) as client:
        await until(client, "session.created")
        yield client


async def until(client: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """The events up to the next one of that type."""
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(TIMEOUT_S):
        while not events or events[-1]["type"] != kind:
            events.append(json.loads(await client.recv()))
    return events


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Returns when it does."""
    async with asyncio.timeout(TIMEOUT_S):
        while not await holds():  # noqa: ASYNC110  # another process changes it
            await asyncio.sleep(0.1)


async def test_the_sdk_holds_a_conversation_in_the_ga_dialect(scripted_appliance: Serving) -> None:
    client = client_of(scripted_appliance)
    async with client.realtime.connect(model=MODEL) as connection:
        await connection.session.update(
            session={"type": "realtime", "output_modalities": ["text"], "max_output_tokens": 500}
        )
        for words in ("Hello there", "Hello again"):
            item: Any = said(script(emit=words))
            await connection.conversation.item.create(item=item)
            await connection.response.create()
            text = ""
            async for event in connection:
                if event.type == "response.output_text.delta":
                    text += event.delta
                elif event.type == "response.done":
                    break
            assert text == words
            assert event.type == "response.done"
            assert event.response.status == "completed"
            usage = event.response.usage
            assert usage is not None
            assert usage.output_tokens == len(words)
            assert usage.input_tokens
            assert usage.total_tokens == usage.input_tokens + usage.output_tokens
            assert event.response.output is not None
            output = event.response.output[0]
            assert output.type == "message"
            assert output.role == "assistant"
            assert output.content[0].text == words


async def test_the_sdk_holds_a_conversation_in_the_beta_dialect(
    scripted_appliance: Serving,
) -> None:
    client = client_of(scripted_appliance)
    async with client.beta.realtime.connect(model=MODEL) as connection:
        await connection.session.update(session={"modalities": ["text"]})
        item: Any = said(script(emit="Hello there"))
        await connection.conversation.item.create(item=item)
        await connection.response.create()
        seen, text = [], ""
        async for event in connection:
            seen.append(event.type)
            if event.type == "response.text.delta":
                text += event.delta
            elif event.type == "response.done":
                break
        assert text == "Hello there"
        assert seen[:4] == [
            "session.created",
            "conversation.created",
            "session.updated",
            "conversation.item.created",
        ]
        assert event.type == "response.done"
        assert event.response.modalities == ["text"]


async def test_the_text_is_that_of_a_chat_in_every_way(appliance: Serving) -> None:
    prompt = "What is the capital of France?"
    async with client_of(appliance) as client:
        whole = await client.chat.completions.create(
            model="demo/chat",
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=40,
        )
    async with connect(
        address(appliance, "demo/chat", "/api/v1"),
        additional_headers=bearer(appliance.key),
        proxy=None,
    ) as socket:
        response = {
            "input": [said(prompt)],
            "temperature": 0,
            "max_output_tokens": 40,
            "conversation": "none",
        }
        await socket.send(json.dumps({"type": "response.create", "response": response}))
        done = (await until(socket, "response.done"))[-1]["response"]
    choice = whole.choices[0]
    assert done["output"][0]["content"][0]["text"] == choice.message.content
    assert (done["status"] == "incomplete") == (choice.finish_reason == "length")
    assert whole.usage is not None
    assert done["usage"]["input_tokens"] == whole.usage.prompt_tokens
    assert done["usage"]["output_tokens"] == whole.usage.completion_tokens


@pytest.mark.parametrize(
    ("key", "model", "status"),
    [
        (None, MODEL, 401),
        ("op_live_0000_" + "0" * 32, MODEL, 401),
        ("good", "scripted/nothing", 404),
        ("narrow", MODEL, 403),
        ("good", "", 400),
    ],
)
async def test_refusals_come_as_http_before_the_upgrade(
    scripted_appliance: Serving, key: str | None, model: str, status: int
) -> None:
    secrets = {"good": scripted_appliance.key}
    if key == "narrow":
        secrets["narrow"] = new_key(scripted_appliance, allowed_models=["other"])[0]
    headers = bearer(secrets.get(key, key)) if key else {}
    with pytest.raises(InvalidStatus) as caught:
        await connect(address(scripted_appliance, model), additional_headers=headers, proxy=None)
    response = caught.value.response
    assert response.status_code == status
    error = json.loads(response.body or b"")["error"]
    assert error["request_id"] == response.headers["x-request-id"]


async def test_a_key_in_a_subprotocol_opens_and_stays_out_of_reply_and_log(
    scripted_appliance: Serving,
) -> None:
    secret, _ = new_key(scripted_appliance)
    protocols: Any = ["realtime", f"openai-insecure-api-key.{secret}"]
    async with connect(
        address(scripted_appliance), subprotocols=protocols, proxy=None, origin=None
    ) as client:
        assert client.subprotocol == "realtime"
        assert client.response is not None
        assert secret not in str(client.response.headers)
        await until(client, "session.created")
    assert secret not in scripted_appliance.log


async def test_each_response_counts_against_the_limits_and_so_does_the_upgrade(
    scripted_appliance: Serving,
) -> None:
    wait_for_room_in_the_minute(20)
    secret, _ = new_key(scripted_appliance, rpm_limit=1, tpd_limit=100_000)
    async with session(scripted_appliance, secret) as client:
        await client.send(create(emit="one"))
        limits = (await until(client, "rate_limits.updated"))[-1]["rate_limits"]
        assert [(one["name"], one["limit"]) for one in limits] == [
            ("requests", 1),
            ("tokens", 100_000),
        ]
        assert limits[0]["remaining"] == 0
        assert 0 < limits[0]["reset_seconds"] <= 60
        await client.send(create(emit="two"))
        events = await until(client, "rate_limits.updated")
        done = events[-2]["response"]
        assert done["status"] == "failed"
        assert done["status_details"]["error"]["code"] == "rate_limit_exceeded"
        assert events[-1]["rate_limits"][0]["remaining"] == 0
        with pytest.raises(InvalidStatus) as caught:
            await connect(
                address(scripted_appliance), additional_headers=bearer(secret), proxy=None
            )
    response = caught.value.response
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) > 0
    assert response.headers["x-ratelimit-limit-requests"] == "1"
    assert post(scripted_appliance, secret, chat("hi")).status_code == 429


async def test_a_revoked_key_gets_no_further_response(scripted_appliance: Serving) -> None:
    secret, key_id = new_key(scripted_appliance)
    async with session(scripted_appliance, secret) as client:
        await client.send(create(emit="one"))
        await until(client, "rate_limits.updated")
        async with httpx2.AsyncClient(headers=bearer(scripted_appliance.key)) as admin:
            gone = await admin.delete(f"{scripted_appliance.base_url}/keys/{key_id}")
            assert gone.status_code == 204
            await client.send(create(emit="two"))
            error = (await until(client, "error"))[-1]["error"]
            assert error["code"] == "invalid_api_key"
            await client.send(json.dumps({"type": "session.update", "session": {}}))
            await until(client, "session.updated")

            async def is_audited() -> bool:
                query = {"action": "request.denied"}
                audit = await admin.get(f"{scripted_appliance.base_url}/audit", params=query)
                return key_id in audit.text

            await eventually(is_audited)


async def test_every_response_is_in_the_books(scripted_appliance: Serving) -> None:
    secret, key_id = new_key(scripted_appliance)
    async with session(scripted_appliance, secret) as client:
        for words in ("one", "three"):
            await client.send(create(emit=words))
            await until(client, "rate_limits.updated")
    async with httpx2.AsyncClient(headers=bearer(scripted_appliance.key)) as admin:

        async def is_booked() -> bool:
            query = {"key_id": key_id}
            usage = await admin.get(f"{scripted_appliance.base_url}/usage", params=query)
            total = usage.json()["total"]
            tokens = total["completion_tokens"]
            return (total["requests"], tokens) == (2, len("one") + len("three"))

        await eventually(is_booked)


async def test_an_engine_that_fails_leaves_the_session_usable(scripted_appliance: Serving) -> None:
    async with session(scripted_appliance) as client:
        await client.send(create(emit="Hello", fail_at=3))
        failed = (await until(client, "response.done"))[-1]["response"]
        assert failed["status"] == "failed"
        assert failed["output"][0]["content"][0]["text"] == "Hel"
        assert "secret" not in json.dumps(failed)
        await client.send(create(emit="Fine"))
        done = (await until(client, "response.done"))[-1]["response"]
        assert done["output"][0]["content"][0]["text"] == "Fine"


async def test_a_cancel_stops_the_engine(
    scripted_appliance: Serving, scripted_repository: ScriptedRepository
) -> None:
    seen = len(scripted_repository.events())
    async with session(scripted_appliance) as client:
        response = {"input": [said(script(emit="x", repeat=2000, delay_ms=10))]}
        await client.send(json.dumps({"type": "response.create", "response": response}))
        await until(client, "response.output_text.delta")
        await client.send(json.dumps({"type": "response.cancel"}))
        done = (await until(client, "response.done"))[-1]["response"]
        assert done["status"] == "cancelled"
        assert set(done["output"][0]["content"][0]["text"]) == {"x"}
    await engines_are_idle(scripted_repository, seen, 1)


async def test_a_hundred_clients_that_disconnect_leave_no_engine_running(
    scripted_appliance: Serving, scripted_repository: ScriptedRepository
) -> None:
    seen = len(scripted_repository.events())
    places = asyncio.Semaphore(25)

    async def one(number: int) -> None:
        async with places, session(scripted_appliance) as client:
            await client.send(create(emit="x", repeat=4000, delay_ms=20))
            if number % 2:
                await until(client, "response.output_text.delta")
            if number % 4 < 2:
                client.transport.abort()

    await asyncio.gather(*(one(number) for number in range(CLIENTS)))
    await engines_are_idle(scripted_repository, seen, CLIENTS // 2)


async def engines_are_idle(repository: ScriptedRepository, seen: int, least: int) -> None:
    """Returns when all that began since `seen` has ended, and that was at least `least`."""

    def names(event: str) -> set[str]:
        return {one["id"] for one in repository.events()[seen:] if one["event"] == event}

    async def are_idle() -> bool:
        return len(names("start")) >= least and names("start") == names("final")

    await eventually(are_idle)
