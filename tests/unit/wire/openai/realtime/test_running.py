"""Responses while they are made: one after another, cut, refused, failed, in time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.core.errors import (
    ContextLengthExceeded,
    GatewayError,
    InvalidRequest,
    PolicyDenied,
    RateLimited,
    UpstreamFailed,
)
from orchestrator.core.events import GenerationFinished, GenerationStarted, PartDelta, PartStarted
from orchestrator.core.request import ChatPrompt, GenerationRequest
from tests.unit.wire.openai.realtime.client import HELLO, TIMEOUT_S, SocketClient, connected, types
from tests.wire.harness import Bench, answer

pytestmark = pytest.mark.slow

CREATE = {"type": "response.create", "event_id": "evt_1"}
ITEM = {"type": "conversation.item.create", "item": HELLO}


async def respond(client: SocketClient, **response: Any) -> dict[str, Any]:
    """The `response` of the `response.done` that a `response.create` leads to."""
    client.send({**CREATE, "response": response})
    events = await client.until("response.done")
    assert (await client.event())["type"] == "rate_limits.updated"
    done: dict[str, Any] = events[-1]["response"]
    return done


def prompts(service: Bench) -> list[list[str]]:
    """The texts of every prompt so far."""
    made = []
    for request in service.backend.asked:
        assert isinstance(request, GenerationRequest)
        assert isinstance(request.prompt, ChatPrompt)
        made.append([message.text for message in request.prompt.messages])
    return made


async def test_an_answer_becomes_part_of_the_next_question(service: Bench) -> None:
    async with connected(service.app) as client:
        client.send(ITEM)
        await client.until("conversation.item.done")
        first = await respond(client)
        assert first["status"] == "completed"
        assert first["output"][0]["content"][0]["text"] == "Hello there"
        await respond(client)
    assert prompts(service) == [["Hi"], ["Hi", "Hello there"]]


async def test_every_response_is_a_generation_of_its_own(service: Bench) -> None:
    async with connected(service.app, headers=[(b"x-request-id", b"mine")]) as client:
        for _ in range(2):
            await respond(client, input=[HELLO])
    first, second = service.backend.ids
    assert first.startswith("mine-req_")
    assert first.removesuffix("-1") == second.removesuffix("-2")


async def test_one_response_at_a_time_writes_to_the_conversation(service: Bench) -> None:
    service.backend.events, service.backend.hangs = answer("Hello")[:3], True
    async with connected(service.app) as client:
        client.send({**CREATE, "response": {"input": [HELLO]}})
        events = await client.until("response.output_text.delta")
        error = (await client.ask({**CREATE, "response": {"input": [HELLO]}}))["error"]
        assert error["code"] == "conversation_already_has_active_response"
        assert error["event_id"] == "evt_1"
        assert events[0]["response"]["id"] in error["message"]


async def test_others_run_beside_it_and_are_cancelled_by_their_id(service: Bench) -> None:
    service.backend.events = answer("Hello")[:3]
    service.backend.hangs = True
    async with connected(service.app) as client:
        ids = []
        for _ in range(4):
            client.send({**CREATE, "response": {"input": [HELLO], "conversation": "none"}})
            events = await client.until("response.output_text.delta")
            ids.append(events[0]["response"]["id"])
        error = await client.ask({**CREATE, "response": {"input": [HELLO], "conversation": "none"}})
        assert error["error"]["code"] == "too_many_active_responses"
        assert (await client.ask({"type": "response.cancel"}))["type"] == "error"
        client.send({"type": "response.cancel", "response_id": ids[2]})
        done = (await client.until("response.done"))[-1]["response"]
        assert (done["id"], done["status"]) == (ids[2], "cancelled")


async def test_a_cancel_stops_the_engine_and_keeps_what_was_written(service: Bench) -> None:
    service.backend.events = answer("Hel", "lo")[:4]
    service.backend.hangs = True
    async with connected(service.app) as client:
        client.send({**CREATE, "response": {"input": [HELLO]}})
        async with asyncio.timeout(TIMEOUT_S):
            await service.backend.running.wait()
        client.send({"type": "response.cancel"})
        events = await client.until("response.done")
        assert service.backend.closed.is_set()
        assert types(events)[-5:] == [
            "response.output_text.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
        ]
        done = events[-1]["response"]
        assert done["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
        assert done["output"][0]["content"][0]["text"] == "Hello"
        assert (done["usage"]["input_tokens"], done["usage"]["output_tokens"]) == (3, 2)
        service.backend.hangs, service.backend.events = False, answer("Again")
        assert (await client.event())["type"] == "rate_limits.updated"
        assert (await respond(client))["status"] == "completed"
    assert prompts(service)[1] == ["Hello"]


async def test_a_cancel_before_the_first_event_is_told_like_any_other(service: Bench) -> None:
    service.backend.events, service.backend.hangs = (), True
    async with connected(service.app) as client:
        client.send({**CREATE, "response": {"input": [HELLO]}})
        async with asyncio.timeout(TIMEOUT_S):
            await service.backend.running.wait()
        client.send({"type": "response.cancel"})
        events = await client.until("response.done")
        assert types(events) == ["response.created", "response.done"]
        assert events[1]["response"]["status"] == "cancelled"


async def test_a_cancel_right_after_the_request_is_not_lost(service: Bench) -> None:
    service.backend.events, service.backend.hangs = answer("Hello")[:3], True
    async with connected(service.app) as client:
        client.send({**CREATE, "response": {"input": [HELLO]}})
        client.send({"type": "response.cancel"})
        done = (await client.until("response.done"))[-1]["response"]
        assert done["status"] == "cancelled"


async def test_there_is_nothing_to_cancel_once_it_is_done(service: Bench) -> None:
    async with connected(service.app) as client:
        await respond(client, input=[HELLO])
        error = (await client.ask({"type": "response.cancel", "event_id": "evt_2"}))["error"]
        assert (error["code"], error["event_id"]) == ("response_cancel_not_active", "evt_2")


@pytest.mark.parametrize("after", [0, 3])
async def test_a_failed_engine_fails_the_response_and_not_the_session(
    service: Bench, after: int
) -> None:
    service.backend.events = answer("Hel", "lo")[:after]
    service.backend.error = UpstreamFailed("The engine failed.")
    async with connected(service.app) as client:
        failed = await respond(client, input=[HELLO])
        assert failed["status"] == "failed"
        assert failed["status_details"]["error"]["code"] == "upstream_error"
        service.backend.events, service.backend.error = answer("Fine"), None
        assert (await respond(client, input=[HELLO]))["status"] == "completed"


async def test_a_fault_of_ours_is_told_without_saying_which(service: Bench) -> None:
    service.backend.error = ValueError("secret")
    service.backend.events = answer("x")[:3]
    async with connected(service.app) as client:
        failed = await respond(client, input=[HELLO])
        assert failed["status_details"]["error"]["code"] == "internal_error"
        assert "secret" not in str(failed)


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (PolicyDenied("No.", reason="model_not_allowed"), "model_not_allowed"),
        (InvalidRequest("No."), "invalid_value"),
    ],
)
async def test_a_refusal_is_an_error_that_names_the_clients_event(
    service: Bench, refusal: GatewayError, code: str
) -> None:
    service.backend.events, service.backend.error = (), refusal
    async with connected(service.app) as client:
        error = (await client.ask({**CREATE, "response": {"input": [HELLO]}}))["error"]
        assert (error["code"], error["event_id"]) == (code, "evt_1")
        service.backend.events, service.backend.error = answer("Fine"), None
        assert (await respond(client, input=[HELLO]))["status"] == "completed"


async def test_a_used_up_limit_is_a_failed_response_as_clients_wait_for_its_end(
    service: Bench,
) -> None:
    service.backend.events = ()
    service.backend.error = RateLimited("Too many.")
    async with connected(service.app) as client:
        client.send({**CREATE, "response": {"input": [HELLO]}})
        done = (await client.until("response.done"))[-1]["response"]
        assert done["status"] == "failed"
        assert done["status_details"]["error"]["code"] == "rate_limit_exceeded"
        assert (await client.event())["type"] == "rate_limits.updated"


async def test_the_oldest_items_are_left_out_until_the_rest_fits(service: Bench) -> None:
    prepare = service.backend.prepare

    async def at_most_two(served: Any, request: GenerationRequest, *others: Any) -> Any:
        assert isinstance(request.prompt, ChatPrompt)
        if len(request.prompt.messages) > 2:
            raise ContextLengthExceeded("Too long.")
        return await prepare(served, request, *others)

    service.backend.prepare = at_most_two  # type: ignore[method-assign,assignment]  # a smaller context
    async with connected(service.app) as client:
        for name in "abcde":
            content = [{"type": "input_text", "text": name}]
            client.send({**ITEM, "item": {**HELLO, "content": content}})
            await client.until("conversation.item.done")
        assert (await respond(client))["status"] == "completed"
        client.send({**CREATE, "response": {"truncation": "disabled"}})
        error = (await client.event())["error"]
        assert error["code"] == "context_length_exceeded"
    assert prompts(service) == [["d", "e"]]


async def test_a_slow_reader_holds_the_engine_up_and_not_the_memory(service: Bench) -> None:
    taken = 0

    def many() -> Any:
        nonlocal taken
        yield GenerationStarted("gen-1", "acme/chat", 1, 9)
        yield PartStarted(0, "text")
        for _ in range(10_000):
            taken += 1
            yield PartDelta(0, "text", "x")
        yield GenerationFinished(answer("x")[-1].usage)  # type: ignore[union-attr]

    service.backend.events = many()
    async with connected(service.app) as client:
        client.reads.clear()
        client.send({**CREATE, "response": {"input": [HELLO]}})
        for _ in range(500):
            await asyncio.sleep(0)
        assert taken <= 1
        assert client.unread == 0
        client.reads.set()
        await client.until("response.done")
    assert taken == 10_000


async def test_a_client_that_leaves_stops_every_engine(service: Bench) -> None:
    service.backend.events, service.backend.hangs = answer("Hello")[:3], True
    async with connected(service.app) as client:
        client.send({**CREATE, "response": {"input": [HELLO]}})
        await client.until("response.output_text.delta")
        await client.leave()
        assert service.backend.closed.is_set()
