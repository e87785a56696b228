"""The routes of stored responses, through the front door."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import select

from orchestrator.core.errors import ModelUnavailable
from orchestrator.core.request import ChatPrompt, GenerationRequest
from orchestrator.settings import ResponsesSettings
from orchestrator.store.database import Database
from orchestrator.store.tables import StoredResponse
from tests.wire.harness import KEY, STRANGERS_KEY, Bench, answer, bench, call

pytestmark = pytest.mark.slow

ASKED = {"model": "acme/chat", "input": "Hello!"}
SECRET = "the quick brown fox"
QUICK = ResponsesSettings(poll_s=0.01, lost_after_s=2)


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench whose background does not let tests wait."""
    async with bench(tmp_path, responses=QUICK) as made:
        yield made


async def made(service: Bench, **more: Any) -> dict[str, Any]:
    """A response, as the reply tells it."""
    reply = await service.post("/v1/responses", ASKED | more)
    assert reply.status_code == 200, reply.text
    document: dict[str, Any] = reply.json()
    return document


async def found(service: Bench, response_id: str) -> dict[str, Any]:
    """The stored response, as the reply tells it."""
    reply = await service.get(f"/v1/responses/{response_id}")
    assert reply.status_code == 200, reply.text
    document: dict[str, Any] = reply.json()
    return document


async def until(service: Bench, response_id: str, status: str) -> dict[str, Any]:
    """The stored response once it has that status."""
    async with asyncio.timeout(60):
        while True:
            document = await found(service, response_id)
            if document["status"] == status:
                return document


def hang(service: Bench) -> None:
    """Makes the engine say one word and then nothing."""
    service.backend.hangs = True
    service.backend.events = service.backend.events[:3]


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, whose end is marked."""
    *lines, end = [line for line in text.split("\n") if line.startswith("data: ")]
    assert end == "data: [DONE]"
    assert text.endswith("data: [DONE]\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def said(service: Bench) -> list[tuple[str, str]]:
    """Role and text of every message of the last prompt."""
    request = service.backend.asked[-1]
    assert isinstance(request, GenerationRequest)
    assert isinstance(request.prompt, ChatPrompt)
    return [(message.role, message.text) for message in request.prompt.messages]


def at_rest(service: Bench) -> bytes:
    """All that lies in the data folder."""
    files = [path for path in service.settings.data_dir.rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in files)


async def rows(service: Bench, change: Callable[[StoredResponse], None] | None = None) -> int:
    """How many responses are stored; each is changed first by `change`."""
    database = Database(service.settings)
    async with database.unit_of_work() as session:
        stored = (await session.exec(select(StoredResponse))).all()
        for row in stored:
            if change is not None:
                change(row)
    await database.close()
    return len(stored)


async def test_a_response_is_found_again_and_continued(service: Bench) -> None:
    first = await made(service, instructions="Be brief.")
    assert await found(service, first["id"]) == first
    second = await made(service, input="More!", previous_response_id=first["id"])
    # Instructions are of their own turn only.
    assert said(service) == [("user", "Hello!"), ("assistant", "Hello there"), ("user", "More!")]
    assert second["previous_response_id"] == first["id"]
    await made(
        service,
        input=[{"type": "item_reference", "id": first["output"][0]["id"]}, *_turn("And?")],
    )
    assert said(service) == [("assistant", "Hello there"), ("user", "And?")]


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_what_cannot_be_stored_is_refused_before_the_engine_works(service: Bench) -> None:
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(260):
        deep = {"items": deep}
    tool = {"type": "function", "name": "f", "parameters": deep}
    reply = await service.post("/v1/responses", {**ASKED, "tools": [tool]})
    assert reply.status_code == 400, reply.text
    assert "nested more than 254 deep" in reply.text
    assert service.backend.asked == []
    assert await rows(service) == 0


async def test_a_stream_is_stored_before_its_last_event(service: Bench) -> None:
    reply = await service.post("/v1/responses", {**ASKED, "stream": True})
    last = events(reply.text)[-1]
    assert last["type"] == "response.completed"
    assert await found(service, last["response"]["id"]) == last["response"]


async def test_what_was_put_in_is_listed_in_pages_with_what_came_before(service: Bench) -> None:
    first = await made(service)
    second = await made(service, input=_turn("a") + _turn("b"), previous_response_id=first["id"])
    path = f"/v1/responses/{second['id']}/input_items"
    newest = (await service.get(path)).json()
    texts = [item["content"][0]["text"] for item in newest["data"]]
    assert texts == ["b", "a", "Hello there", "Hello!"]
    assert newest["has_more"] is False
    assert (newest["first_id"], newest["last_id"]) == (
        newest["data"][0]["id"],
        newest["data"][-1]["id"],
    )
    page = (await service.get(f"{path}?order=asc&limit=3")).json()
    assert page["has_more"] is True
    rest = (await service.get(f"{path}?order=asc&limit=3&after={page['last_id']}")).json()
    assert [*page["data"], *rest["data"]] == newest["data"][::-1]
    assert rest["has_more"] is False
    for query, param in (("order=up", "order"), ("limit=0", "limit"), ("after=x", "after")):
        reply = await service.get(f"{path}?{query}")
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    # With what came before gone, the own input is left.
    await service.client.delete(f"/v1/responses/{first['id']}", headers=_good())
    assert len((await service.get(path)).json()["data"]) == 2


def _good(key: str = KEY) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_a_deleted_response_is_gone_with_its_text(service: Bench) -> None:
    first = await made(service, input=SECRET)
    path = f"/v1/responses/{first['id']}"
    assert SECRET.encode() in at_rest(service)
    reply = await service.client.delete(path, headers=_good())
    assert reply.json() == {"id": first["id"], "object": "response", "deleted": True}
    assert await rows(service) == 0
    for again in (
        await service.client.delete(path, headers=_good()),
        await service.get(path),
        await service.get(f"{path}?stream=true"),
        await service.get(f"{path}/input_items"),
        await service.post(f"{path}/cancel", None),
    ):
        assert again.status_code == 404
        assert again.json()["error"]["code"] == "response_not_found"
    reply = await service.post("/v1/responses", {**ASKED, "previous_response_id": first["id"]})
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "previous_response_not_found"
    assert reply.json()["error"]["param"] == "previous_response_id"


async def test_what_is_not_to_be_stored_is_nowhere(service: Bench) -> None:
    service.backend.events = answer(f"I saw {SECRET}.")
    for stream in (False, True):
        asked = {**ASKED, "input": SECRET, "store": False, "stream": stream}
        reply = await service.post("/v1/responses", asked)
        assert SECRET in reply.text
    document = await made(service, input=SECRET, store=False)
    assert document["store"] is False
    assert (await service.get(f"/v1/responses/{document['id']}")).status_code == 404
    assert await rows(service) == 0
    assert SECRET.encode() not in at_rest(service)


async def test_another_tenant_finds_nothing(service: Bench) -> None:
    first = await made(service)
    path, stranger = f"/v1/responses/{first['id']}", _good(STRANGERS_KEY)
    client = service.client
    answers = [
        await client.get(path, headers=stranger),
        await client.get(f"{path}?stream=true", headers=stranger),
        await client.get(f"{path}/input_items", headers=stranger),
        await client.post(f"{path}/cancel", headers=stranger),
        await client.delete(path, headers=stranger),
    ]
    for asked in (
        {**ASKED, "previous_response_id": first["id"]},
        {**ASKED, "input": [{"type": "item_reference", "id": first["output"][0]["id"]}]},
    ):
        answers.append(await client.post("/v1/responses", json=asked, headers=stranger))
    assert [answer.status_code for answer in answers] == [404] * len(answers)
    assert all("Hello" not in answer.text for answer in answers)
    assert await found(service, first["id"]) == first


async def test_a_finished_response_is_streamed_again_from_where_it_is_asked_for(
    service: Bench,
) -> None:
    first = await made(service)
    path = f"/v1/responses/{first['id']}?stream=true"
    whole = events((await service.get(path)).text)
    assert whole[-1]["response"] == first
    rest = events((await service.get(f"{path}&starting_after=3")).text)
    assert rest == whole[4:]
    for query in ("starting_after=3", "stream=maybe", "starting_after=x&stream=true", "x=1"):
        reply = await service.get(f"/v1/responses/{first['id']}?{query}")
        assert reply.status_code == 400


async def test_the_background_needs_no_reader(quick: Bench) -> None:
    queued = await made(quick, background=True, input=SECRET)
    assert (queued["status"], queued["background"], queued["output"]) == ("queued", True, [])
    document = await until(quick, queued["id"], "completed")
    assert document["output"][0]["content"][0]["text"] == "Hello there"
    assert document["usage"]["total_tokens"] == 11
    # All it has said is told again, with the same numbers.
    path = f"/v1/responses/{queued['id']}?stream=true"
    whole = events((await quick.get(path)).text)
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert whole[-1]["response"] == document
    assert events((await quick.get(f"{path}&starting_after=5")).text) == whole[6:]
    assert events((await quick.get(f"{path}&starting_after=99")).text) == []
    # And nothing of it stays.
    await quick.client.delete(f"/v1/responses/{queued['id']}", headers=_good())
    assert await rows(quick) == 0


async def test_a_background_stream_is_followed_live_and_cancelled_from_elsewhere(
    quick: Bench,
) -> None:
    hang(quick)
    queued = await made(quick, background=True)
    path = f"/v1/responses/{queued['id']}"
    following = asyncio.create_task(quick.get(f"{path}?stream=true"))
    await asyncio.wait_for(quick.backend.running.wait(), 60)
    assert (await until(quick, queued["id"], "in_progress"))["output"] == []
    reply = await quick.post(f"{path}/cancel", None)
    assert reply.json()["status"] == "cancelled"
    await asyncio.wait_for(quick.backend.closed.wait(), 60)
    followed = events((await asyncio.wait_for(following, 60)).text)
    assert followed[0]["type"] == "response.created"
    assert all(event["type"] != "response.completed" for event in followed)
    # Twice is once, and it cannot be gone on from.
    again = await quick.post(f"{path}/cancel", None)
    assert again.json() == reply.json() == await found(quick, queued["id"])
    continued = await quick.post("/v1/responses", {**ASKED, "previous_response_id": queued["id"]})
    assert continued.status_code == 400
    assert "it is cancelled" in continued.json()["error"]["message"]


async def test_a_deleted_background_response_is_stopped(quick: Bench) -> None:
    hang(quick)
    queued = await made(quick, background=True)
    await asyncio.wait_for(quick.backend.running.wait(), 60)
    following = asyncio.create_task(quick.get(f"/v1/responses/{queued['id']}?stream=true"))
    await quick.client.delete(f"/v1/responses/{queued['id']}", headers=_good())
    await asyncio.wait_for(quick.backend.closed.wait(), 60)
    await asyncio.wait_for(following, 60)


async def test_only_the_background_can_be_cancelled(service: Bench) -> None:
    first = await made(service)
    reply = await service.post(f"/v1/responses/{first['id']}/cancel", None)
    assert reply.status_code == 400
    assert "does not run in the background" in reply.json()["error"]["message"]


async def test_a_background_stream_tells_all_to_who_asked(quick: Bench) -> None:
    reply = await quick.post("/v1/responses", {**ASKED, "background": True, "stream": True})
    told = events(reply.text)
    assert [event["type"] for event in told][:3] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    assert told[-1]["type"] == "response.completed"


async def test_errors_of_the_background_are_told_in_the_response(quick: Bench) -> None:
    quick.backend.error = ModelUnavailable("The engine went away.")
    quick.backend.events = quick.backend.events[:3]
    queued = await made(quick, background=True)
    document = await until(quick, queued["id"], "failed")
    assert document["error"] == {"code": "server_error", "message": "The engine went away."}
    assert document["output"][0]["status"] == "incomplete"
    quick.backend.error = ValueError("a fault of ours")
    queued = await made(quick, background=True)
    document = await until(quick, queued["id"], "failed")
    assert "a fault of ours" not in document["error"]["message"]


async def test_what_can_be_told_at_once_is_not_put_into_the_background(service: Bench) -> None:
    for model, status in (("acme/nothing", 404), ("acme/absent", 503)):
        asked = {**ASKED, "model": model, "background": True}
        assert (await service.post("/v1/responses", asked)).status_code == status
    assert await rows(service) == 0


async def test_more_than_can_run_are_refused(tmp_path: Path) -> None:
    async with bench(
        tmp_path, responses=QUICK.model_copy(update={"most_running": 1, "lost_after_s": 60})
    ) as service:
        hang(service)
        await made(service, background=True)
        reply = await service.post("/v1/responses", {**ASKED, "background": True})
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "overloaded"
        assert reply.headers["retry-after"] == "1"


async def test_a_response_whose_worker_is_gone_has_failed_and_says_so_to_followers(
    quick: Bench,
) -> None:
    hang(quick)
    queued = await made(quick, background=True)
    await asyncio.wait_for(quick.backend.running.wait(), 60)
    await until(quick, queued["id"], "in_progress")

    def silence(row: StoredResponse) -> None:
        row.seen_at = 0

    # As after a kill, where nobody says any more that it lives; here somebody still does.
    document = await found(quick, queued["id"])
    while document["status"] != "failed":
        await rows(quick, silence)
        document = await found(quick, queued["id"])
    assert document["error"]["code"] == "server_error"
    assert "has ended" in document["error"]["message"]
    followed = events((await quick.get(f"/v1/responses/{queued['id']}?stream=true")).text)
    assert followed[-1]["type"] == "response.failed"
    assert followed[-1]["sequence_number"] == len(followed) - 1


async def test_a_stream_that_breaks_ends_with_the_failure_and_keeps_it(service: Bench) -> None:
    service.backend.error = ModelUnavailable("The engine went away.")
    service.backend.events = service.backend.events[:3]
    reply = await service.post("/v1/responses", {**ASKED, "stream": True})
    told = events(reply.text)
    assert reply.status_code == 200
    assert told[-1]["type"] == "response.failed"
    failed = told[-1]["response"]
    assert failed["error"] == {"code": "server_error", "message": "The engine went away."}
    assert await found(service, failed["id"]) == failed
    service.backend.error = ValueError("a fault of ours")
    reply = await service.post("/v1/responses", {**ASKED, "stream": True})
    assert events(reply.text)[-1]["type"] == "response.failed"
    assert "a fault of ours" not in reply.text
    # Nothing has been sent of an answer in one piece, so it is a plain error.
    reply = await service.post("/v1/responses", ASKED)
    assert reply.status_code == 500


async def test_without_a_database_answers_are_given_and_said_not_to_be_stored(
    service: Bench,
) -> None:
    first = await made(service)
    await _break(service)
    document = await made(service)
    assert document["store"] is False
    # Known to be out of reach, it is not tried again for everybody; without it all goes on.
    reply = await service.post("/v1/responses", ASKED)
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "store_unavailable"
    assert (await service.post("/v1/responses", {**ASKED, "store": False})).status_code == 200
    for reply in (
        await service.get(f"/v1/responses/{first['id']}"),
        await service.post("/v1/responses", {**ASKED, "previous_response_id": first["id"]}),
        await service.post("/v1/responses", {**ASKED, "background": True}),
        await service.client.delete(f"/v1/responses/{first['id']}", headers=_good()),
    ):
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "store_unavailable"


async def _break(service: Bench) -> None:
    """Takes the tables of responses away; keys are still found."""
    database = Database(service.settings)
    async with database.unit_of_work() as session:
        connection = await session.connection()
        await connection.execute(text("ALTER TABLE stored_response RENAME TO elsewhere"))
    await database.close()


async def test_followers_learn_that_the_database_is_gone_and_can_come_back(quick: Bench) -> None:
    hang(quick)
    queued = await made(quick, background=True)
    await asyncio.wait_for(quick.backend.running.wait(), 60)
    following = asyncio.create_task(quick.get(f"/v1/responses/{queued['id']}?stream=true"))
    await until(quick, queued["id"], "in_progress")
    await _break(quick)
    last = events((await asyncio.wait_for(following, 60)).text)[-1]
    assert (last["type"], last["code"]) == ("error", "store_unavailable")


async def test_an_appliance_that_stores_nothing_says_so(tmp_path: Path) -> None:
    async with bench(tmp_path, responses=ResponsesSettings(store=False)) as service:
        document = await made(service)
        assert document["store"] is False
        for name, value in (
            ("store", True),
            ("background", True),
            ("previous_response_id", "resp_1"),
        ):
            reply = await service.post("/v1/responses", {**ASKED, name: value})
            assert reply.status_code == 400
            assert reply.json()["error"]["param"] == name
        assert await rows(service) == 0


async def test_the_oldest_go_when_there_is_no_more_room(tmp_path: Path) -> None:
    async with bench(tmp_path, responses=ResponsesSettings(most_stored=2)) as service:
        ids = [(await made(service))["id"] for _ in range(3)]
        statuses = [(await service.get(f"/v1/responses/{one}")).status_code for one in ids]
        assert statuses == [404, 200, 200]
    async with bench(tmp_path / "small", responses=ResponsesSettings(most_bytes=1024)) as service:
        assert (await made(service, input="x" * 1000))["store"] is False
        asked = {**ASKED, "input": "x" * 1000, "background": True}
        assert (await service.post("/v1/responses", asked)).status_code == 400


async def test_a_client_that_leaves_ends_its_response_and_stores_nothing(service: Bench) -> None:
    hang(service)

    async def leave() -> dict[str, Any]:
        if not service.backend.running.is_set() and not left:
            left.append(True)
            return {"type": "http.request", "body": json.dumps(ASKED).encode()}
        await service.backend.running.wait()
        return {"type": "http.disconnect"}

    left: list[bool] = []
    await call(service.app, path="/v1/responses", receive=leave)
    await asyncio.wait_for(service.backend.closed.wait(), 60)
    assert await rows(service) == 0


async def test_odd_ids_are_not_found(service: Bench) -> None:
    for path in ("/v1/responses/%00", "/v1/responses/x%20y", "/v1/responses/" + "x" * 500):
        assert (await service.get(path)).status_code == 404
    for given in ("\0", "x" * 500, ""):
        reply = await service.post("/v1/responses", {**ASKED, "previous_response_id": given})
        assert reply.status_code == 404


async def test_tools_that_are_not_here_are_left_out_and_named(service: Bench) -> None:
    function = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    tools = [{"type": "web_search"}, function, {"type": "image_generation"}]
    for stream in (False, True):
        reply = await service.post("/v1/responses", ASKED | {"tools": tools, "stream": stream})
        assert reply.status_code == 200, reply.text
        told = reply.headers["x-op-warning"]
        assert told == "tools left out: web_search, image_generation"
    request = service.backend.asked[-1]
    assert isinstance(request, GenerationRequest)
    assert isinstance(request.prompt, ChatPrompt)
    assert [tool.name for tool in request.prompt.tools] == ["f"]
    reply = await service.post("/v1/responses", ASKED | {"tools": [function]})
    assert "x-op-warning" not in reply.headers
