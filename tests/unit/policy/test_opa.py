"""Decisions over HTTP from a server that evaluates the same files, and from one that fails."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from orchestrator.core.errors import PolicyUnavailable
from orchestrator.policy import PolicyInput
from orchestrator.policy.opa import OpaHttp
from orchestrator.policy.question import PolicyVersion
from tests.opa_server import Handler, evaluating, serving
from tests.unit.policy.facts import asked, embedded, version

CASES: list[tuple[PolicyVersion, PolicyInput]] = [
    (version(), asked()),
    (version(), asked(allowed_models=["x"], key_label='a "quote"')),
    (version(limits={"rpm": 4}), asked(route_hint="cloud-ok")),
    (version(client_networks=["192.0.2.0/24"]), asked()),
    (version(api_disabled=True), asked()),
    (version(time_window={"days": ["sun"]}), asked()),
    (version(plan_models={"free": []}), asked(plan="free")),
]


async def test_both_engines_decide_alike() -> None:
    async with embedded() as rego, serving(evaluating()) as url:
        opa = OpaHttp(url, timeout_s=5)
        for policy, question in CASES:
            assert await opa.decide(policy, question) == await rego.decide(policy, question)
        await opa.close()


async def test_every_decision_is_asked_for_with_the_token_and_without_a_prompt() -> None:
    seen: list[dict[str, Any]] = []
    async with serving(evaluating(seen)) as url:
        opa = OpaHttp(f"{url}/", timeout_s=5, token="let me in")
        for _ in range(3):
            assert (await opa.decide(version(), asked())).allow
        await opa.close()
    assert [one["token"] for one in seen] == ["Bearer let me in"] * 3
    assert set(seen[0]["input"]) == {
        "tenant", "key", "model", "request", "client", "time", "policy",
    }  # fmt: skip
    assert seen[0]["input"]["time"]["weekday"] == "wed"


async def _hangs(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    raise AssertionError


async def _hangs_in_the_middle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'{"result":')
    await asyncio.sleep(30)
    raise AssertionError


async def _cuts(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    raise web.HTTPOk


async def _never_stops(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1000):
        await response.write(b" " * 4096)
    return response


def _says(said: str | bytes, status: int = 200) -> Handler:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=said, status=status)

    return handler


_ALLOW = {"allow": True, "rule": "r", "reason": "", "word": "", "param": "", "routes": ["local"]}
FAULTS: dict[str, Handler] = {
    "hangs": _hangs,
    "hangs in the middle": _hangs_in_the_middle,
    "cuts the connection": _cuts,
    "never stops": _never_stops,
    "500": _says(json.dumps({"result": {"decision": _ALLOW}}), 500),
    "redirect": _says("", 307),
    "garbage": _says("<html>"),
    "not UTF-8": _says(b'{"result": "\xff"}'),
    "nothing": _says(""),
    "a list": _says("[]"),
    "no result": _says("{}"),
    "result is not an object": _says('{"result": true}'),
    "no decision": _says('{"result": {"allow": true}}'),
    "no routes": _says(json.dumps({"result": {"decision": {**_ALLOW, "routes": []}}})),
    "allow is a text": _says(json.dumps({"result": {"decision": {**_ALLOW, "allow": "true"}}})),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_any_fault_of_the_server_refuses_in_time(fault: str) -> None:
    async with serving(FAULTS[fault]) as url:
        opa = OpaHttp(url, timeout_s=0.5)
        with pytest.raises(PolicyUnavailable) as caught:
            async with asyncio.timeout(60):
                await opa.decide(version(), asked())
        await opa.close()
    assert (caught.value.status, caught.value.code) == (503, "policy_unavailable")
    assert caught.value.retry_after_s


async def test_no_server_refuses_and_a_returned_one_is_asked_again() -> None:
    async with serving(evaluating()) as url:
        opa = OpaHttp(url, timeout_s=2)
        assert (await opa.decide(version(), asked())).allow
    with pytest.raises(PolicyUnavailable):
        await opa.decide(version(), asked())
    await opa.close()


async def test_a_module_of_a_policy_is_not_passed_over_in_silence() -> None:
    async with serving(evaluating()) as url:
        opa = OpaHttp(url, timeout_s=2)
        with pytest.raises(PolicyUnavailable):
            await opa.decide(version('deny contains "x"'), asked())
        await opa.close()


async def test_questions_of_one_tenant_leave_room_at_the_server_for_others() -> None:
    waiting, let_go = 0, asyncio.Event()
    answers = evaluating()

    async def slow_for_one(request: web.Request) -> web.StreamResponse:
        nonlocal waiting
        if (await request.json())["input"]["tenant"]["id"] == "greedy":
            waiting += 1
            await let_go.wait()
        return await answers(request)

    async with serving(slow_for_one) as url:
        opa = OpaHttp(url, timeout_s=60)
        greedy = [
            asyncio.create_task(opa.decide(version(), asked(tenant_id="greedy")))
            for _ in range(100)
        ]
        for _ in range(20):
            assert (await opa.decide(version(), asked(tenant_id="modest"))).allow
        assert waiting <= 16
        let_go.set()
        assert all(decision.allow for decision in await asyncio.gather(*greedy))
        await opa.close()
