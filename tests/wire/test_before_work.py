"""What is refused before it is read, decoded or rendered, in every dialect, and what that costs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from orchestrator.core.fair_threads import FairThreads
from orchestrator.core.shares import Shares
from orchestrator.http.intake import MAX_MANAGEMENT_BYTES, SMALL_BODY_BYTES
from orchestrator.rendering import Renderer
from tests.wire.harness import call
from tests.wire.policy_bench import ADMIN, PLAIN, PolicyBench, policy_bench

NOW = 1_795_000_000.0
LARGE = SMALL_BODY_BYTES + 1
LONG_TEXT = "hello " * 670
"""Long enough for a thread, and too long for the model when its words are counted."""
CONTENT = {"parts": [{"text": "hello"}]}
USER = [{"role": "user", "content": "hello"}]
GENERATING: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "acme/chat", "messages": USER, "max_tokens": 5},
    "/v1/completions": {"model": "acme/chat", "prompt": "hello", "max_tokens": 5},
    "/v1/messages": {"model": "acme/chat", "messages": USER, "max_tokens": 5},
    "/v1beta/models/acme/chat:generateContent": {"contents": [CONTENT]},
    "/v1beta/models/acme/chat:streamGenerateContent": {"contents": [CONTENT]},
    "/v1/embeddings": {"model": "acme/embed", "input": "hello"},
    "/v1beta/models/acme/embed:embedContent": {"content": CONTENT},
    "/v1beta/models/acme/embed:batchEmbedContents": {"requests": [{"content": CONTENT}]},
}
COUNTING: dict[str, dict[str, Any]] = {
    "/tokenize": {"model": "acme/chat", "prompt": "hello"},
    "/v1/detokenize": {"model": "acme/chat", "tokens": [0]},
    "/v1/messages/count_tokens": {"model": "acme/chat", "messages": USER},
    "/v1beta/models/acme/chat:countTokens": {"contents": [CONTENT]},
}
MANAGING = ["/v1/keys", "/v1/policies"]


@pytest_asyncio.fixture
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyBench]:
    async with policy_bench(tmp_path_factory.mktemp("before"), now=lambda: NOW) as made:
        yield made


async def unread(bench: PolicyBench, path: str, key: str, size: int = LARGE) -> tuple[int, Any]:
    """Status, headers and error of a request whose body must not be read."""

    async def receive() -> dict[str, Any]:
        raise AssertionError(f"the body for {path} was read")

    headers = [(b"content-length", b"%d" % size), (b"content-type", b"application/json")]
    app = bench.client._transport.app  # type: ignore[attr-defined]  # of an ASGI transport
    start, *bodies = await call(app, path=path, key=key, headers=headers, receive=receive)
    told = b"".join(one["body"] for one in bodies).decode()
    return start["status"], {**dict(start["headers"]), "message": told}


@pytest.mark.parametrize("path", GENERATING)
async def test_a_large_body_is_not_read_when_the_minute_is_used_up(
    bench: PolicyBench, path: str
) -> None:
    _, key = await bench.new_key(rpm_limit=1)
    assert (await bench.call("POST", path, GENERATING[path], key)).status_code == 200
    status, told = await unread(bench, path, key)
    assert (status, b"retry-after" in told) == (429, True)
    assert "1 requests a minute" in told["message"]


@pytest.mark.parametrize("path", COUNTING)
async def test_calls_that_count_have_ten_places_in_a_minute_of_their_own(
    bench: PolicyBench, path: str
) -> None:
    _, key = await bench.new_key(rpm_limit=1, concurrency_limit=1, tpd_limit=6)
    replies = [await bench.call("POST", path, COUNTING[path], key) for _ in range(11)]
    assert [reply.status_code for reply in replies] == [200] * 10 + [429]
    status, told = await unread(bench, path, key)
    assert (status, "10 requests a minute" in told["message"]) == (429, True)
    assert (await bench.chat(key)).status_code == 200


async def test_a_used_up_day_refuses_a_large_body_before_it_is_read(bench: PolicyBench) -> None:
    _, key = await bench.new_key(tpd_limit=5)
    # The scripted engine produces three tokens for two of the prompt.
    assert (await bench.chat(key, max_tokens=4)).status_code == 200
    status, told = await unread(bench, "/v1/chat/completions", key)
    assert (status, "tokens a day" in told["message"]) == (429, True)


def shares_of(bench: PolicyBench, shares: Shares) -> None:
    bench.client._transport.app.edge._intake.shares = shares  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", [*GENERATING, *COUNTING])
async def test_a_body_is_not_read_without_room_for_it(bench: PolicyBench, path: str) -> None:
    shares_of(bench, Shares(2 * LARGE, LARGE - 1))
    status, told = await unread(bench, path, PLAIN)
    assert (status, told[b"retry-after"]) == (429, b"1")
    assert f"hold {LARGE - 1} bytes" in told["message"]
    full = Shares(2 * LARGE, 2 * LARGE)
    full.lease("another", LARGE)
    full.lease("yet another", 1)
    shares_of(bench, full)
    status, told = await unread(bench, path, PLAIN)
    assert (status, told[b"retry-after"]) == (503, b"1")
    # Small ones pass all the same.
    body = {**GENERATING, **COUNTING}[path]
    assert (await bench.call("POST", path, body, PLAIN)).status_code == 200


@pytest.mark.parametrize("path", MANAGING)
async def test_management_takes_small_bodies_only(bench: PolicyBench, path: str) -> None:
    status, told = await unread(bench, path, ADMIN, MAX_MANAGEMENT_BYTES + 1)
    assert (status, f"{MAX_MANAGEMENT_BYTES} bytes" in told["message"]) == (413, True)


async def test_a_body_without_a_length_counts_as_it_comes(bench: PolicyBench) -> None:
    shares = Shares(10 * LARGE, 100_000)
    shares_of(bench, shares)
    pieces, held = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal pieces
        pieces += 1
        held.append(shares.total)
        return {"type": "http.request", "body": b" " * 40_000, "more_body": True}

    app = bench.client._transport.app  # type: ignore[attr-defined]
    start, _ = await call(app, key=PLAIN, receive=receive)
    assert (start["status"], pieces, held) == (429, 3, [0, 0, 80_000])
    assert shares.total == 0


@pytest.mark.parametrize("path", [*GENERATING, *COUNTING])
async def test_what_is_in_a_large_body_is_counted_before_it_is_decoded(
    bench: PolicyBench, path: str
) -> None:
    given = b'{"x":[' + b"[]," * 140_000 + b"0]}"
    reply = await bench.client.post(
        path, content=given, headers={"authorization": f"Bearer {PLAIN}"}
    )
    assert reply.status_code == 400
    assert "131072 texts, objects and lists" in reply.json()["error"]["message"]


async def test_a_prompt_that_needs_more_than_is_left_is_refused_before_it_is_rendered(
    bench: PolicyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(*_: Any) -> None:
        raise AssertionError

    _, key = await bench.new_key(rpm_limit=1, tpd_limit=61)
    with monkeypatch.context() as patched:
        patched.setattr(Renderer, "render", render)
        reply = await bench.chat(key, messages=[{"role": "user", "content": LONG_TEXT}])
        assert (reply.status_code, reply.json()["error"]["limit"]["kind"]) == (429, "tpd")
        much = await bench.chat(key, messages=[{"role": "user", "content": "hello " * 5000}])
        assert much.json()["error"]["code"] == "context_length_exceeded"
    # Neither has used the one place of the minute.
    assert (await bench.chat(key)).status_code == 200


@pytest.mark.parametrize(
    "members",
    [
        {"messages": [{"role": "user", "content": "hello hello hello"}], "max_tokens": 63},
        {"messages": [{"role": "user", "content": LONG_TEXT}]},
    ],
    ids=["short", "long"],
)
async def test_a_prompt_that_was_rendered_and_then_refused_has_used_its_place(
    bench: PolicyBench, members: dict[str, Any]
) -> None:
    _, key = await bench.new_key(rpm_limit=1)
    refused = await bench.chat(key, **members)
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    again = await bench.chat(key)
    assert (again.status_code, again.json()["error"]["limit"]["kind"]) == (429, "rpm")


async def test_a_client_that_leaves_frees_nothing_before_its_work_has_ended(
    bench: PolicyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, let, whole = threading.Event(), threading.Event(), Renderer.render

    def render(renderer: Renderer, *arguments: Any) -> Any:
        begun.set()
        assert let.wait(60)
        return whole(renderer, *arguments)

    shares = Shares(10 * LARGE, 2 * LARGE)
    shares_of(bench, shares)
    _, key = await bench.new_key(rpm_limit=2, concurrency_limit=1)
    messages = [{"role": "user", "content": LONG_TEXT}]
    body = orjson.dumps({"model": "acme/chat", "messages": messages})
    body += b" " * (LARGE - len(body))
    waiting = [{"type": "http.request", "body": body, "more_body": False}]
    left = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    monkeypatch.setattr(Renderer, "render", render)
    app = bench.client._transport.app  # type: ignore[attr-defined]
    task = asyncio.create_task(call(app, key=key, receive=receive))
    assert await asyncio.to_thread(begun.wait, 60)
    left.set()
    await asyncio.sleep(0.05)
    assert not task.done()
    assert shares.total == LARGE
    busy = await bench.chat(key)
    assert (busy.status_code, busy.json()["error"]["limit"]["kind"]) == (429, "concurrency")
    let.set()
    assert await task == []
    assert shares.total == 0
    monkeypatch.undo()
    # One place is used by the prompt that was rendered, one is left.
    assert [(await bench.chat(key)).status_code for _ in range(2)] == [200, 429]


async def test_long_prompts_of_every_kind_take_the_turn_of_their_tenant(
    bench: PolicyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: list[str] = []
    run = FairThreads.run

    async def noted(threads: FairThreads, owner: str, size: int, work: Any) -> Any:
        owners.append(owner)
        return await run(threads, owner, size, work)

    monkeypatch.setattr(FairThreads, "run", noted)
    await bench.chat(messages=[{"role": "user", "content": LONG_TEXT}])
    body = {"model": "acme/embed", "input": [LONG_TEXT]}
    await bench.call("POST", "/v1/embeddings", body, PLAIN)
    await bench.call("POST", "/tokenize", {"model": "acme/chat", "prompt": LONG_TEXT}, PLAIN)
    assert len(set(owners)) == 1
    assert owners[0].startswith("ten_")
    assert len(owners) == 3


BATCH: dict[str, Any] = {
    "model": "acme/chat",
    "prompt": ["hello you", "you", "hello"],
    "max_tokens": 5,
}


@pytest.mark.parametrize(
    "limits",
    [{"rpm_limit": 2}, {"concurrency_limit": 2}, {"tpd_limit": 15}],
    ids=["a minute", "at the same time", "a day"],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_batch_takes_its_limits_for_all_prompts_or_for_none(
    bench: PolicyBench, limits: dict[str, int], stream: bool
) -> None:
    roomy = {"rpm_limit": 9, "concurrency_limit": 9, "tpd_limit": 999}
    _, key = await bench.new_key(**{**roomy, **limits})
    refused = await bench.call("POST", "/v1/completions", {**BATCH, "stream": stream}, key)
    assert refused.status_code == 429
    # It would not fit later either.
    assert refused.headers["x-should-retry"] == "false"
    most = {**roomy, **limits}
    # Refused by the tokens its prompts had been rendered by then, so their places are used.
    places = most["rpm_limit"] - (3 if "tpd_limit" in limits else 0)
    assert refused.headers["x-ratelimit-remaining-requests"] == str(places)
    assert refused.headers["x-ratelimit-remaining-tokens"] == str(most["tpd_limit"])
    # As many as there is room for are all still possible.
    fitting = {**BATCH, "prompt": BATCH["prompt"][:2]}
    assert (await bench.call("POST", "/v1/completions", fitting, key)).status_code == 200


async def test_a_batch_counts_as_its_prompts(bench: PolicyBench) -> None:
    _, key = await bench.new_key(rpm_limit=9, concurrency_limit=3, tpd_limit=999)
    reply = await bench.call("POST", "/v1/completions", BATCH, key)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-ratelimit-remaining-requests"] == "6"
    # All of it has ended, and the next one finds the room of it.
    again = await bench.call("POST", "/v1/completions", BATCH, key)
    assert again.headers["x-ratelimit-remaining-requests"] == "3"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**GENERATING["/v1/chat/completions"], "n": 3}),
        ("/v1/completions", {**GENERATING["/v1/completions"], "n": 3}),
        (
            "/v1beta/models/acme/chat:generateContent",
            {"contents": [CONTENT], "generationConfig": {"candidateCount": 3}},
        ),
        ("/v1/embeddings", {"model": "acme/embed", "input": ["hello"] * 40}),
        (
            "/v1beta/models/acme/embed:batchEmbedContents",
            {"requests": [{"model": "models/acme/embed", "content": CONTENT}] * 40},
        ),
    ],
)
async def test_several_answers_to_one_prompt_and_a_batch_of_inputs_are_one_request(
    bench: PolicyBench, path: str, body: dict[str, Any]
) -> None:
    _, key = await bench.new_key(rpm_limit=2, concurrency_limit=1, tpd_limit=999)
    reply = await bench.call("POST", path, body, key)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-ratelimit-remaining-requests"] == "1"


async def test_prompts_that_are_repeated_count_in_no_limit_of_their_own(
    bench: PolicyBench,
) -> None:
    _, key = await bench.new_key(rpm_limit=2)
    for _ in range(20):
        counted = await bench.call("POST", "/tokenize", COUNTING["/tokenize"], key)
        assert counted.status_code == 200
    body = {"model": "acme/chat", "prompt": [[0, 1], [1, 0]], "max_tokens": 5, "echo": True}
    reply = await bench.call("POST", "/v1/completions", body, key)
    assert reply.status_code == 200, reply.text
    assert [choice["text"][:9] for choice in reply.json()["choices"]] == ["hello you", "you hello"]
