"""What `explain` tells is what the call then meets, and telling it costs nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.policy_bench import ADMIN, PolicyBench, policy_bench

pytestmark = pytest.mark.slow

NOW = 1_795_000_000.0
"""A Wednesday, 11:06:40 UTC; the clock of policies and limits stands still."""
CHAT = ["acme/chat"] * 8 + ["gemma4:26b", "gemma4:26b", "acme/embed", "acme/absent", "acme/no"]
EMBED = ["acme/embed"] * 8 + ["acme/chat", "acme/absent", "acme/no"]
MODULE = """package gateway.custom

import rego.v1

deny contains {"rule": "no_aliases", "reason": msg} if {
	input.model.requested != input.model.id
	msg := sprintf("Call '%s' by its name.", [input.model.id])
}

deny contains "Not at eleven." if {
	input.time.hour == 11
	input.key.label == "early"
}

local_only if input.key.plan == "free"
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyBench]:
    async with policy_bench(tmp_path_factory.mktemp("explain"), now=lambda: NOW) as made:
        yield made


def members(**possible: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with any of these members, most of them missing."""
    absent = st.just(None)
    drawn = {name: st.one_of(absent, absent, one) for name, one in possible.items()}
    return st.fixed_dictionaries(drawn).map(
        lambda made: {name: value for name, value in made.items() if value is not None}
    )


def mostly(usual: st.SearchStrategy[Any], *rare: Any) -> st.SearchStrategy[Any]:
    """One in ten times something rare."""
    return st.integers(0, 9).flatmap(lambda dice: st.sampled_from(rare) if not dice else usual)


names = st.lists(st.sampled_from(["acme/chat", "gemma4:26b", "acme/embed", "*"]), min_size=1)
limits = st.integers(1, 3)
tokens = st.integers(1, 80)
documents = members(
    limits=members(rpm=limits, tpd=tokens, concurrency=limits),
    allowed_models=mostly(names, []),
    plan_models=members(free=names, pro=names),
    allowed_routes=st.sampled_from([["local"], ["local", "cloud"]]),
    client_networks=mostly(st.just(["10.0.0.0/8", "203.0.113.0/24"]), ["10.0.0.0/8"], []),
    time_window=st.fixed_dictionaries(
        {"days": st.sampled_from([["tue"], ["mon", "wed"], ["mon", "tue", "wed"]])},
        optional={
            "from": st.sampled_from(["00:00", "11:06", "11:07", "22:00"]),
            "to": st.sampled_from(["11:06", "11:07", "24:00"]),
            "timezone": st.sampled_from(["UTC", "Asia/Tokyo", "America/Los_Angeles"]),
        },
    ),
    api_disabled=mostly(st.just(False), True),
)
policies = st.fixed_dictionaries(
    {"document": documents, "module": st.sampled_from([None, None, MODULE])}
)
made_keys = members(
    label=st.sampled_from(["early", "late"]),
    allowed_models=names,
    rpm_limit=limits,
    tpd_limit=tokens,
    concurrency_limit=limits,
    plan=st.sampled_from(["free", "pro"]),
    route_policy=st.sampled_from(["local-only", "cloud-ok"]),
)
words = st.integers(1, 30).map(lambda count: " ".join(["hello"] * count))
hints = mostly(st.sampled_from(["local-only", "cloud-ok"]), "moon")
message = st.fixed_dictionaries(
    {"role": st.just("user"), "content": mostly(words, "", "you " * 70)}
)
chats = st.builds(
    lambda fixed, more: {**fixed, **more},
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(CHAT),
            "messages": mostly(st.lists(message, min_size=1, max_size=2), []),
            "max_tokens": mostly(st.integers(1, 20), 0, 70, None),
        }
    ),
    members(n=mostly(st.integers(1, 2), 9), route_hint=hints),
)
embeddings = st.builds(
    lambda fixed, more: {**fixed, **more},
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(EMBED),
            "input": mostly(st.lists(words, min_size=1, max_size=2), "", [], "you " * 70),
        }
    ),
    members(
        route_hint=hints,
        dimensions=mostly(st.just(2), 3),
        encoding_format=mostly(st.sampled_from(["float", "base64"]), "hex"),
    ),
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    policies,
    made_keys,
    st.lists(st.one_of(chats, chats, embeddings), min_size=2, max_size=6),
    mostly(st.just(False), True),
)
async def test_explain_tells_what_the_call_meets(
    bench: PolicyBench,
    policy: dict[str, Any],
    made_key: dict[str, Any],
    bodies: list[dict[str, Any]],
    revoked: bool,
) -> None:
    policy_id = await bench.new_policy(**policy)
    key_id, secret = await bench.new_key(policy_id=policy_id, **made_key)
    for number, body in enumerate(bodies):
        if revoked and number == len(bodies) - 1:
            await bench.call("DELETE", f"/v1/keys/{key_id}")
        told = await explain(bench, key_id, body)
        assert told == await explain(bench, key_id, body), "telling it has cost something"
        await check(bench, body, secret, told)


async def explain(bench: PolicyBench, key_id: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = await bench.call(
        "POST", f"/v1/keys/{key_id}/explain", {"request": body, "at": NOW}, ADMIN
    )
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    return told


async def check(
    bench: PolicyBench, body: dict[str, Any], secret: str, told: dict[str, Any]
) -> None:
    path = "/v1/chat/completions" if "messages" in body else "/v1/embeddings"
    reply = await bench.call("POST", path, body, secret)
    # What ended is settled before the next question is asked.
    await bench.gateway.close()
    assert reply.status_code == told["status"], (reply.text, told)
    assert told["allow"] == reply.is_success
    if reply.is_success:
        assert told["error"] is None
        assert told["decision"]["allow"]
        assert reply.headers["x-op-route"] == told["route"]
        assert reply.headers.get("x-op-route-reason") == told["route_reason"]
    else:
        met = reply.json()["error"]
        assert {name: met[name] for name in told["error"]} == told["error"]
    if reply.status_code == 403:
        assert reply.headers["x-op-policy-rule"] == told["decision"]["rule"]
    if reply.status_code == 429:
        assert met["limit"] == told["limit"]


async def test_the_limit_that_bites_first_and_the_tokens_are_told(bench: PolicyBench) -> None:
    policy = await bench.new_policy(document={"limits": {"rpm": 3, "tpd": 1000}})
    key_id, secret = await bench.new_key(policy_id=policy)
    body = {
        "model": "acme/chat",
        "messages": [{"role": "user", "content": "hello hello hello"}],
        "max_tokens": 7,
        "n": 2,
    }
    told = await explain(bench, key_id, body)
    assert told["tokens"] == {"prompt_tokens": 3, "completion_tokens": 14, "total_tokens": 17}
    assert (told["limit"]["kind"], told["limit"]["limit"]) == ("rpm", 3)
    for _ in range(3):
        assert (await bench.call("POST", "/v1/chat/completions", body, secret)).status_code == 200
    told = await explain(bench, key_id, body)
    assert (told["status"], told["limit"]["kind"], told["limit"]["remaining"]) == (429, "rpm", 0)


async def test_explain_may_be_asked_from_elsewhere_and_for_later(bench: PolicyBench) -> None:
    policy = await bench.new_policy(
        document={"client_networks": ["10.0.0.0/8"], "time_window": {"days": ["wed"]}}
    )
    key_id, _ = await bench.new_key(policy_id=policy)
    chat = {"model": "acme/chat", "messages": [{"role": "user", "content": "hello"}]}
    path = f"/v1/keys/{key_id}/explain"
    outside = (await bench.call("POST", path, {"request": chat, "at": NOW})).json()
    assert outside["decision"]["rule"] == "client_network"
    inside = {"request": chat, "client_ip": "10.9.8.7", "at": NOW}
    assert (await bench.call("POST", path, inside)).json()["allow"]
    later = {**inside, "at": NOW + 86_400}
    assert (await bench.call("POST", path, later)).json()["decision"]["rule"] == "time_window"
    never = await bench.call("POST", path, {"request": chat, "at": 1e300})
    assert (never.status_code, never.json()["code"]) == (400, "invalid_request")
    nonsense = await bench.call("POST", path, {"request": {"model": "acme/chat"}})
    assert (nonsense.status_code, nonsense.json()["code"]) == (400, "invalid_request")
