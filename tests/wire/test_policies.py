"""Policies over HTTP: kept, refused, in force at once, invisible to other tenants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from orchestrator.audit import log as audit_log
from orchestrator.settings import PolicySettings
from tests.opa_server import evaluating, serving
from tests.wire.policy_bench import OTHER_ADMIN, PLAIN, PolicyBench, policy_bench

pytestmark = pytest.mark.slow

NIGHT = """package gateway.custom

import rego.v1

deny contains {"rule": "no_chat", "reason": "No chat today."} if {
	input.model.id == "acme/chat"
}
"""


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[PolicyBench]:
    async with policy_bench(tmp_path) as made:
        yield made


async def test_the_default_policy_is_there_and_allows_what_the_key_allows(
    bench: PolicyBench,
) -> None:
    listing = (await bench.call("GET", "/v1/policies")).json()
    assert [(one["id"], one["name"], one["document"]) for one in listing["data"]] == [
        ("pol_default", "default", {})
    ]
    reply = await bench.chat()
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-op-route"] == "local"
    assert "x-op-route-reason" not in reply.headers
    _, narrow = await bench.new_key(label="quickstart", allowed_models=["acme/embed"])
    refused = await bench.chat(narrow)
    assert refused.status_code == 403
    assert refused.json()["error"] | {"request_id": ""} == {
        "code": "policy_denied",
        "message": "Key 'quickstart' lacks scope for model 'acme/chat'.",
        "type": "policy",
        "param": "model",
        "request_id": "",
        "reason": "model_not_allowed",
        "limit": None,
    }
    assert refused.headers["x-op-policy-rule"] == "model_not_allowed"


async def test_a_change_is_in_force_with_the_next_request(bench: PolicyBench) -> None:
    policy = await bench.new_policy(document={})
    _, key = await bench.new_key(policy_id=policy)
    assert (await bench.chat(key)).status_code == 200
    reply = await bench.call(
        "PATCH", f"/v1/policies/{policy}", {"document": {"api_disabled": True}}
    )
    assert (reply.json()["active_version"], reply.json()["version"]) == (2, 2)
    refused = await bench.chat(key)
    assert refused.json()["detail"] == "API access is disabled for your account."
    await bench.call("PATCH", f"/v1/policies/{policy}", {"active_version": 1})
    assert (await bench.chat(key)).status_code == 200
    reply = await bench.call("PATCH", f"/v1/policies/{policy}", {"module": NIGHT})
    assert reply.status_code == 200, reply.text
    refused = await bench.chat(key)
    assert (refused.json()["detail"], refused.headers["x-op-policy-rule"]) == (
        "No chat today.",
        "no_chat",
    )
    old = await bench.call("GET", f"/v1/policies/{policy}?version=2")
    assert old.json()["document"] == {"api_disabled": True}


async def test_the_default_policy_can_be_changed_and_not_deleted(bench: PolicyBench) -> None:
    change = {"document": {"allowed_models": ["acme/embed"]}, "name": "ours"}
    reply = await bench.call("PATCH", "/v1/policies/pol_default", change)
    assert (reply.status_code, reply.json()["name"], reply.json()["version"]) == (200, "ours", 2)
    refused = await bench.chat()
    assert refused.headers["x-op-policy-rule"] == "model_not_in_policy"
    assert (await bench.call("DELETE", "/v1/policies/pol_default")).status_code == 409
    theirs = await bench.call("GET", "/v1/policies/pol_default", key=OTHER_ADMIN)
    assert (theirs.json()["name"], theirs.json()["document"]) == ("default", {})


async def test_limits_of_the_policy_bind_each_key(bench: PolicyBench) -> None:
    policy = await bench.new_policy(document={"limits": {"rpm": 2, "tpd": 1000}})
    _, wide = await bench.new_key(policy_id=policy, rpm_limit=50)
    replies = [await bench.chat(wide) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert replies[0].headers["x-ratelimit-limit-requests"] == "2"
    assert replies[0].headers["x-ratelimit-limit-tokens"] == "1000"
    _, narrow = await bench.new_key(policy_id=policy, rpm_limit=1)
    assert [(await bench.chat(narrow)).status_code for _ in range(2)] == [200, 429]


async def test_a_policy_in_use_cannot_be_deleted(bench: PolicyBench) -> None:
    policy = await bench.new_policy()
    key_id, _ = await bench.new_key(policy_id=policy)
    assert (await bench.call("DELETE", f"/v1/policies/{policy}")).status_code == 409
    await bench.call("DELETE", f"/v1/keys/{key_id}")
    assert (await bench.call("DELETE", f"/v1/policies/{policy}")).status_code == 204
    assert (await bench.call("GET", f"/v1/policies/{policy}")).status_code == 404
    assert (await bench.call("DELETE", f"/v1/policies/{policy}")).status_code == 404
    reply = await bench.call("POST", "/v1/keys", {"label": "x", "policy_id": policy})
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("members", "param", "said"),
    [
        ({"name": ""}, "name", "printable"),
        ({"document": {"limits": {"rpm": 0}}}, "document.limits.rpm", "above 0"),
        ({"document": {"modles": []}}, "document.modles", "not a member"),
        ({"document": {"client_networks": ["10.0.0.1/8"]}}, "document.client_networks[0]", "10.0"),
        (
            {"document": {"time_window": {"timezone": "Mars"}}},
            "document.time_window.timezone",
            "Eu",
        ),
        ({"document": {"allowed_routes": ["cloud"]}}, "document.allowed_routes", "local"),
        ({"module": NIGHT + "deny contains x if {"}, "module", "line 8, column 20"),
        (
            {"module": NIGHT.replace("input.model.id", "net.cidr_contains")},
            "module",
            "line 6, column 2: the module uses",
        ),
        ({"module": NIGHT + 'deny contains "x" if http.send({})'}, "module", "line 8, column 22"),
        ({"extra": 1}, "extra", "extra"),
    ],
)
async def test_what_cannot_work_is_refused_on_save(
    bench: PolicyBench, members: dict[str, Any], param: str, said: str
) -> None:
    reply = await bench.call("POST", "/v1/policies", {"name": "n", **members})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == (param, "invalid_request")
    assert said in error["message"]
    assert len((await bench.call("GET", "/v1/policies")).json()["data"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/policies/pol_default", {}, None),
        ("/v1/policies/pol_default", {"shadow": True}, "shadow"),
        ("/v1/policies/pol_default", {"active_version": 7}, "active_version"),
        ("/v1/policies/pol_default", {"candidate_version": 0}, "candidate_version"),
        ("/v1/policies/pol_default", {"active_version": 1, "document": {}}, None),
        ("/v1/policies/pol_default", {"modul": ""}, "modul"),
        ("/v1/policies/test", {"inputs": []}, "inputs"),
        ("/v1/policies/test", {"inputs": [{"at": 1e300}]}, "inputs[0].at"),
        ("/v1/policies/pol_default/replay", {"since": -1}, "since"),
        ("/v1/policies/pol_default/replay", {"limit": 0}, "limit"),
        ("/v1/policies/pol_default/replay", {"version": 1, "document": {}}, "version"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(
    bench: PolicyBench, path: str, body: dict[str, Any], param: str | None
) -> None:
    method = "PATCH" if path.endswith("default") else "POST"
    reply = await bench.call(method, path, body)
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_request"), reply.text
    assert reply.json()["error"]["param"] == param


async def test_a_wish_for_the_cloud_is_never_an_error(bench: PolicyBench) -> None:
    open_ = await bench.chat(route_hint="cloud-ok")
    assert (open_.status_code, open_.headers["x-op-route"]) == (200, "local")
    assert open_.headers["x-op-route-reason"] == "no_cloud"
    policy = await bench.new_policy(document={"allowed_routes": ["local"]})
    _, key = await bench.new_key(policy_id=policy)
    closed = await bench.chat(key, route_hint="cloud-ok")
    assert (closed.status_code, closed.headers["x-op-route"]) == (200, "local")
    assert closed.headers["x-op-route-reason"] == "policy"
    assert (await bench.chat(route_hint="moon")).status_code == 400


async def test_another_tenant_can_do_nothing_with_a_policy(bench: PolicyBench) -> None:
    policy = await bench.new_policy(document={"api_disabled": True}, module=NIGHT)
    path = f"/v1/policies/{policy}"
    before = (await bench.call("GET", path)).json()
    attempts: list[tuple[str, str, Any]] = [
        ("GET", path, None),
        ("GET", f"{path}?version=1", None),
        ("GET", f"{path}/decisions", None),
        ("PATCH", path, {"document": {}}),
        ("PATCH", path, {"name": "mine"}),
        ("DELETE", path, None),
        ("POST", f"{path}/test", {"inputs": [{"model": "x"}]}),
        ("POST", f"{path}/replay", {}),
    ]
    for prefix in ("", "/api"):
        for method, where, body in attempts:
            reply = await bench.call(method, prefix + where, body, OTHER_ADMIN)
            assert reply.status_code == 404, (method, where)
    own_id, _ = await bench.new_key()
    question = {"request": {"model": "acme/chat", "messages": []}}
    reply = await bench.call("POST", f"/v1/keys/{own_id}/explain", question, OTHER_ADMIN)
    assert reply.status_code == 404
    reply = await bench.call("POST", "/v1/keys", {"label": "x", "policy_id": policy}, OTHER_ADMIN)
    assert reply.status_code == 400
    assert (await bench.call("GET", path)).json() == before
    listing = (await bench.call("GET", "/v1/policies", key=OTHER_ADMIN)).json()
    assert [one["id"] for one in listing["data"]] == ["pol_default"]


async def test_only_an_admin_key_manages_policies(bench: PolicyBench) -> None:
    for method, path in (
        ("GET", "/v1/policies"),
        ("POST", "/v1/policies"),
        ("PATCH", "/v1/policies/pol_default"),
        ("DELETE", "/v1/policies/pol_default"),
        ("POST", "/v1/policies/test"),
        ("POST", "/v1/policies/pol_default/replay"),
        ("POST", "/v1/keys/key_1/explain"),
    ):
        reply = await bench.call(method, path, {} if method != "GET" else None, PLAIN)
        assert reply.status_code == 403, (method, path)
        reply = await bench.client.request(method, path)
        assert reply.status_code == 401, (method, path)


async def test_a_candidate_is_tried_on_made_up_inputs(bench: PolicyBench) -> None:
    inputs = [
        {"model": "acme/chat", "client_ip": "10.1.2.3"},
        {"model": "acme/embed", "task": "embed", "client_ip": "192.0.2.1"},
        {"model": "acme/embed", "client_ip": "10.1.2.3", "at": 0, "allowed_models": ["other"]},
    ]
    body = {"inputs": inputs, "document": {"client_networks": ["10.0.0.0/8"]}, "module": NIGHT}
    reply = await bench.call("POST", "/v1/policies/test", body)
    assert [one["rule"] for one in reply.json()["data"]] == [
        "no_chat", "client_network", "model_not_allowed",
    ]  # fmt: skip
    policy = await bench.new_policy(module=NIGHT)
    reply = await bench.call("POST", f"/v1/policies/{policy}/test", {"inputs": inputs})
    assert [one["allow"] for one in reply.json()["data"]] == [False, True, False]
    reply = await bench.call("POST", "/v1/policies/test", {"inputs": [{"modle": "x"}]})
    assert reply.json()["error"]["param"] == "inputs[0].modle"


async def test_a_candidate_in_the_shadow_changes_nothing_and_its_differences_are_recorded(
    bench: PolicyBench,
) -> None:
    policy = await bench.new_policy()
    _, key = await bench.new_key(policy_id=policy)
    change = {"module": NIGHT, "shadow": True}
    reply = await bench.call("PATCH", f"/v1/policies/{policy}", change)
    assert (reply.json()["active_version"], reply.json()["candidate_version"]) == (1, 2)
    assert (await bench.chat(key)).status_code == 200
    embedding = {"model": "acme/embed", "input": "secret words"}
    assert (await bench.call("POST", "/v1/embeddings", embedding, key)).status_code == 200
    found = await _recorded(bench, policy, 1)
    assert (found[0]["allow"], found[0]["version"]) == (True, 1)
    assert found[0]["shadow"] == {"version": 2, "allow": False, "rule": "no_chat"}
    assert "hello" not in str(found)
    reply = await bench.call("PATCH", f"/v1/policies/{policy}", {"active_version": 2})
    assert (reply.json()["active_version"], reply.json()["candidate_version"]) == (2, None)
    assert (await bench.chat(key)).status_code == 403


async def test_replay_names_the_decisions_that_a_candidate_would_change(
    bench: PolicyBench,
) -> None:
    policy = await bench.new_policy()
    _, key = await bench.new_key(policy_id=policy)
    await bench.call("PATCH", f"/v1/policies/{policy}", {"module": NIGHT, "shadow": True})
    for _ in range(3):
        assert (await bench.chat(key)).status_code == 200
    await _recorded(bench, policy, 3)
    path = f"/v1/policies/{policy}/replay"
    same = (await bench.call("POST", path, {})).json()
    assert (same["checked"], same["changed"]) == (3, [])
    other = (await bench.call("POST", path, {"version": 2})).json()
    assert [one["after"]["rule"] for one in other["changed"]] == ["no_chat"] * 3
    # Networks are judged anew, with the address of that time.
    strict = {"document": {"client_networks": ["10.0.0.0/8"]}}
    other = (await bench.call("POST", path, strict)).json()
    assert [one["after"]["rule"] for one in other["changed"]] == ["client_network"] * 3
    wide = {"document": {"client_networks": ["203.0.113.0/24"]}, "limit": 2}
    assert (await bench.call("POST", path, wide)).json() == {
        "object": "policy_replay",
        "checked": 2,
        "changed": [],
    }


async def test_every_act_is_in_the_audit(bench: PolicyBench) -> None:
    policy = await bench.new_policy()
    await bench.call("PATCH", f"/v1/policies/{policy}", {"document": {"api_disabled": True}})
    await bench.call("PATCH", f"/v1/policies/{policy}", {"active_version": 1})
    await bench.call("DELETE", f"/v1/policies/{policy}")
    async with bench.database.reading() as session:
        lines = [line async for line in audit_log.every_line(session)]
    acts = [line.action for line in lines if line.target == policy]
    assert acts == ["policy.create", "policy.update", "policy.activate", "policy.delete"]


async def _recorded(bench: PolicyBench, policy: str, count: int) -> list[dict[str, Any]]:
    """The differing decisions, when `count` are written."""
    async with asyncio.timeout(60):
        while True:
            reply = await bench.call("GET", f"/v1/policies/{policy}/decisions?differing=true")
            found: list[dict[str, Any]] = reply.json()["data"]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.05)


async def test_an_opa_server_decides_by_the_same_file_and_refuses_when_it_is_gone(
    tmp_path: Path,
) -> None:
    async with serving(evaluating()) as url:
        policy = PolicySettings(engine="opa", opa_url=url, timeout_s=5)
        async with policy_bench(tmp_path, policy) as bench:
            assert (await bench.chat()).status_code == 200
            closed = await bench.new_policy(document={"api_disabled": True})
            _, key = await bench.new_key(policy_id=closed)
            assert (await bench.chat(key)).headers["x-op-policy-rule"] == "api_disabled"
            reply = await bench.call("POST", "/v1/policies", {"name": "own", "module": NIGHT})
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, "module")
    # The port is nobody's now.
    async with policy_bench(tmp_path / "later", policy) as bench:
        reply = await bench.chat()
        assert (reply.status_code, reply.json()["code"]) == (503, "policy_unavailable")
        assert reply.headers["retry-after"]
