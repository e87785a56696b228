"""One tenant's modules that loop or blow up, beside another tenant's requests, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests

from tests.integration.serving import Serving, call, run_command, running, wait_until

NUMBERS = ", ".join(str(number) for number in range(40))
SIX = "; ".join(f"some {name} in nums" for name in "abcdef")
HEAD = "package gateway.custom\n\nimport rego.v1\n\n"
LOOP = HEAD + f'deny contains "x" if {{ nums := [{NUMBERS}]; {SIX}; a+b+c+d+e+f > 999 }}'
LOOP_FOR_BAD = LOOP.replace("{ nums", '{ input.key.label == "bad"; nums')
DOUBLES = "\n\n".join(
    f"{one} := array.concat({before}, {before})"
    for before, one in zip("abcdefghijklmnopqrstuvwx", "bcdefghijklmnopqrstuvwxy", strict=True)
)
BOMB = HEAD + f'a := [1, 2, 3, 4, 5, 6, 7, 8]\n\n{DOUBLES}\n\ndeny contains "x" if count(y) == 3'
BOMB_FOR_BAD = BOMB.replace('"x" if', '"x" if { input.key.label == "bad"; ') + " }"
LONG_CHAT = {
    "model": "demo/chat",
    "messages": [{"role": "user", "content": "tell me " * 750}],
    "max_tokens": 2,
}
SHORT_CHAT = {**LONG_CHAT, "messages": [{"role": "user", "content": "hello"}]}
TEXTS = {"model": "demo/embed", "input": [f"text {number}" for number in range(600)]}
_SOON_S = 60.0


@pytest.fixture(scope="module")
def serving(demo_models: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """An appliance of its own: what happens to it here others should not meet.

    Evaluations have time enough for a busy machine; a module that loops has none.
    """
    folder = tmp_path_factory.mktemp("isolation")
    settings = {"POLICY__TIMEOUT_S": 1, "POLICY__EVALUATOR_MEMORY_BYTES": 64 * 2**20}
    yield from running(Serving(folder, settings))


@pytest.fixture(scope="module")
def modest(serving: Serving) -> str:
    """The key of another tenant, whose policy has a module too."""
    admin = run_command(
        serving, "keys", "create", "--tenant", "modest", "--label", "boss", "--admin"
    )
    module = HEAD + 'deny contains "no" if input.key.label == "other"'
    body = {"name": "theirs", "module": module}
    policy = call(serving, "POST", "/policies", body, admin["secret"])
    assert policy.status_code == 201, policy.text
    made = {"label": "modest", "policy_id": policy.json()["id"]}
    reply = call(serving, "POST", "/keys", made, admin["secret"])
    assert reply.status_code == 201, reply.text
    return str(reply.json()["secret"])


def _new_key(serving: Serving, label: str, policy: str) -> str:
    reply = call(serving, "POST", "/keys", {"label": label, "policy_id": policy})
    assert reply.status_code == 201, reply.text
    return str(reply.json()["secret"])


def _goes_on(serving: Serving, key: str) -> None:
    """A long prompt and many texts, which a pool of threads prepares, are answered."""
    for path, body in (("/chat/completions", LONG_CHAT), ("/embeddings", TEXTS)):
        reply = call(serving, "POST", path, body, key)
        assert reply.status_code == 200, reply.text


def _readiness(serving: Serving) -> str:
    """What readiness says of policies; requests succeed, whatever one policy does."""
    headers = {"authorization": f"Bearer {serving.key}"}
    reply = requests.get(f"{serving.url}/health/ready", headers=headers, timeout=60)
    assert reply.status_code == 200, reply.text
    (part,) = [part for part in reply.json()["parts"] if part["name"] == "policy"]
    assert (part["status"] == "degraded") == bool(part["detail"])
    return str(part["detail"])


def _evaluators(serving: Serving) -> list[psutil.Process]:
    return [
        process
        for process in serving.processes()
        if process.status() != psutil.STATUS_ZOMBIE
        and "orchestrator.rego.child" in process.cmdline()
    ]


@pytest.mark.parametrize(
    ("module", "said"), [(LOOP, "longer than 1 s"), (BOMB, "more than 64 MiB")]
)
def test_modules_that_are_refused_leave_nothing_behind(
    serving: Serving, modest: str, module: str, said: str
) -> None:
    with ThreadPoolExecutor(9) as threads:
        posts = [
            threads.submit(call, serving, "POST", "/policies", {"name": "n", "module": module})
            for _ in range(9)
        ]
        _goes_on(serving, modest)
        replies = [post.result() for post in posts]
    # One at a time for one tenant: on a slow machine some wait in vain.
    assert {reply.status_code for reply in replies} <= {400, 503}
    reply = call(serving, "POST", "/policies", {"name": "n", "module": module})
    assert reply.status_code == 400, reply.text
    assert said in reply.json()["error"]["message"]
    _goes_on(serving, modest)
    assert len(_evaluators(serving)) <= 2
    assert all(process.cpu_percent(0.5) < 50 for process in _evaluators(serving))


@pytest.mark.parametrize("module", [LOOP_FOR_BAD, BOMB_FOR_BAD], ids=["loop", "bomb"])
def test_a_module_that_fails_for_one_label_refuses_that_key_and_is_named(
    serving: Serving, modest: str, module: str
) -> None:
    reply = call(serving, "POST", "/policies", {"name": "theirs", "module": module})
    assert reply.status_code == 201, reply.text
    policy = reply.json()["id"]
    bad, good = _new_key(serving, "bad", policy), _new_key(serving, "good", policy)
    with ThreadPoolExecutor(10) as threads:
        sent = [
            threads.submit(call, serving, "POST", "/chat/completions", SHORT_CHAT, bad)
            for _ in range(10)
        ]
        _goes_on(serving, modest)
        refused = [one.result() for one in sent]
    refused.append(call(serving, "POST", "/embeddings", TEXTS, bad))
    for reply in refused:
        assert reply.status_code == 503, reply.text
        error = reply.json()["error"]
        assert error["code"] == "policy_unavailable"
    assert f"Policy `{policy}` version 1 cannot be evaluated: it" in error["message"]
    assert int(reply.headers["retry-after"]) >= 1
    _goes_on(serving, modest)
    assert call(serving, "POST", "/chat/completions", SHORT_CHAT, good).status_code == 200
    wait_until(
        lambda: f"policy {policy} version 1 cannot be evaluated" in _readiness(serving),
        *(_SOON_S, "named in readiness"),
    )
    again = "is tried again after a while"
    logged = [line for line in serving.log.splitlines() if policy in line and again in line]
    assert len(logged) == 1
    fixed = {"module": HEAD + 'deny contains "closed"'}
    assert call(serving, "PATCH", f"/policies/{policy}", fixed).status_code == 200
    reply = call(serving, "POST", "/chat/completions", SHORT_CHAT, bad)
    assert (reply.status_code, reply.headers["x-op-policy-rule"]) == (403, "custom")
    wait_until(lambda: policy not in _readiness(serving), _SOON_S, "no longer named")
