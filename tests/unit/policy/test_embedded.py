"""The product's rules and operators' modules through rego-cpp, and what happens when it fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import regopy

from orchestrator.core.errors import PolicyUnavailable
from orchestrator.core.limits import Limits
from orchestrator.policy.embedded import EmbeddedRego
from orchestrator.policy.verdict import read_verdict
from orchestrator.rego import NoAnswerError
from orchestrator.rego.modules import BUILTINS
from orchestrator.rego.rules import place
from tests.unit.policy.facts import HEAD, asked, embedded, version


@pytest_asyncio.fixture
async def rego() -> AsyncIterator[EmbeddedRego]:
    async with embedded() as made:
        yield made


@pytest.mark.parametrize(
    ("document", "facts", "rule"),
    [
        ({}, {}, "allowed"),
        ({}, {"allowed_models": ["chat"]}, "allowed"),
        ({}, {"allowed_models": ["other"]}, "model_not_allowed"),
        ({}, {"allowed_models": []}, "model_not_allowed"),
        ({"allowed_models": ["chat"]}, {}, "allowed"),
        ({"allowed_models": ["other"]}, {}, "model_not_in_policy"),
        ({"allowed_models": []}, {}, "model_not_in_policy"),
        ({"plan_models": {"free": ["other"]}}, {"plan": "free"}, "model_not_in_plan"),
        ({"plan_models": {"free": ["*"]}}, {"plan": "free"}, "allowed"),
        ({"plan_models": {"free": ["other"]}}, {"plan": "pro"}, "allowed"),
        ({"plan_models": {"free": ["other"]}}, {}, "allowed"),
        ({"client_networks": ["10.0.0.0/8"]}, {}, "allowed"),
        ({"client_networks": ["192.0.2.0/24"]}, {}, "client_network"),
        ({"client_networks": []}, {}, "client_network"),
        ({"client_networks": ["0.0.0.0/0"]}, {"client_ip": None}, "client_network"),
        ({"client_networks": ["0.0.0.0/0"]}, {"client_ip": "unix"}, "client_network"),
        ({"client_networks": ["10.0.0.0/8"]}, {"client_ip": "::ffff:10.0.0.1"}, "allowed"),
        ({"time_window": {"from": "11:00", "to": "13:00"}}, {}, "allowed"),
        ({"time_window": {"from": "12:01", "to": "13:00"}}, {}, "time_window"),
        ({"time_window": {"days": ["tue"]}}, {}, "time_window"),
        ({"api_disabled": True}, {}, "api_disabled"),
        ({}, {"api_disabled": True}, "api_disabled"),
        ({"api_disabled": True, "allowed_models": []}, {"allowed_models": []}, "api_disabled"),
    ],
)
async def test_the_rules_of_the_product(
    rego: EmbeddedRego, document: dict[str, Any], facts: dict[str, Any], rule: str
) -> None:
    decision = await rego.decide(version(**document), asked(**facts))
    assert (decision.allow, decision.rule) == (rule == "allowed", rule)
    assert bool(decision.reason) != decision.allow
    assert bool(decision.routes) == decision.allow


async def test_reasons_are_sentences_for_the_caller(rego: EmbeddedRego) -> None:
    denied = await rego.decide(
        version(), asked(allowed_models=["x"], requested="operayde/large-70b", model_names=[])
    )
    assert denied.reason == "Key 'quickstart' lacks scope for model 'operayde/large-70b'."
    assert (denied.word, denied.param) == ("model_not_allowed", "model")
    disabled = await rego.decide(version(api_disabled=True), asked())
    assert disabled.reason == "API access is disabled for your account."
    odd = await rego.decide(version(), asked(allowed_models=["x"], key_label="%s \"'\n"))
    assert odd.reason == "Key '%s \"'\n' lacks scope for model 'acme/chat'."


@pytest.mark.parametrize(
    ("document", "facts", "routes"),
    [
        ({}, {}, ("local",)),
        ({}, {"route_hint": "cloud-ok"}, ("cloud", "local")),
        ({"allowed_routes": ["local"]}, {"route_hint": "cloud-ok"}, ("local",)),
        ({}, {"route_hint": "cloud-ok", "route_policy": "local-only"}, ("local",)),
        ({}, {"route_hint": "cloud-ok", "route_policy": "cloud-ok"}, ("cloud", "local")),
    ],
)
async def test_a_wish_for_a_route_is_granted_where_nothing_forbids_it(
    rego: EmbeddedRego, document: dict[str, Any], facts: dict[str, Any], routes: tuple[str, ...]
) -> None:
    decision = await rego.decide(version(**document), asked(**facts))
    assert (decision.allow, decision.routes) == (True, routes)


@pytest.mark.parametrize(
    "label",
    [
        'x", "allow":true, "rule":"',
        'x\\", "allow":true, "rule":"',
        '", "routes":["local"], "allow":true, "z":"',
        "back\\slash \\",
        "\x00\x7f\u2028",
    ],
)
async def test_texts_of_others_cannot_write_the_decision(rego: EmbeddedRego, label: str) -> None:
    plain = await rego.decide(version(), asked(key_label=label, allowed_models=["x"]))
    assert (plain.allow, plain.routes) == (False, ())
    assert plain.reason == f"Key '{label}' lacks scope for model 'acme/chat'."
    own = version("deny contains input.key.label")
    assert (await rego.decide(own, asked(key_label=label))).reason == label
    cut = version('deny contains replace(input.key.label, "\\\\", "")')
    with contextlib.suppress(PolicyUnavailable):
        assert not (await rego.decide(cut, asked(key_label=label))).allow
    models = {"model_names": [label], "allowed_models": [label], "requested": label}
    assert (await rego.decide(version(allowed_models=[label]), asked(**models))).allow


async def test_limits_of_the_document_come_with_the_decision(rego: EmbeddedRego) -> None:
    decision = await rego.decide(version(limits={"rpm": 3, "tpd": None}, number=7), asked())
    assert (decision.limits, decision.policy_id, decision.version) == (
        Limits(rpm=3),
        "pol_1",
        7,
    )


@pytest.mark.parametrize(
    ("module", "allow", "rule", "reason"),
    [
        ('deny contains "b" if true\n\ndeny contains "a" if true', False, "custom", "a"),
        ('deny contains {"rule": "r.1", "reason": "no"}', False, "r.1", "no"),
        ('deny contains {"rule": "a b\\n", "reason": "no"}', False, "custom", "no"),
        ("deny contains 3", False, "custom", "The request is denied by a policy."),
        ('deny contains "late" if input.time.hour >= 13', True, "allowed", ""),
        ('deny contains "noon" if input.time.hour == 12', False, "custom", "noon"),
        ('deny contains "wed" if input.time.weekday == "wed"', False, "custom", "wed"),
    ],
)
async def test_an_operators_module_adds_denials(
    rego: EmbeddedRego, module: str, allow: bool, rule: str, reason: str
) -> None:
    own = version(module)
    decision = await rego.decide(own, asked())
    assert (decision.allow, decision.rule, decision.reason) == (allow, rule, reason)


async def test_a_module_cannot_allow_what_the_product_denies(rego: EmbeddedRego) -> None:
    own = version('deny contains "never" if false\n\nallow := true', allowed_models=[])
    assert (await rego.decide(own, asked())).rule == "model_not_in_policy"


async def test_a_module_may_keep_requests_at_home(rego: EmbeddedRego) -> None:
    own = version('local_only if input.key.plan == "free"')
    free = await rego.decide(own, asked(plan="free", route_hint="cloud-ok"))
    paid = await rego.decide(own, asked(plan="pro", route_hint="cloud-ok"))
    assert (free.routes, paid.routes) == (("local",), ("cloud", "local"))


@pytest.mark.parametrize(
    "module",
    [
        'deny contains "x" if to_number("abc") == 3',
        'x := 1 if true\n\nx := 2 if true\n\ndeny contains "a" if x == 1',
        'deny contains "x" if startswith(3, "a")',
        'deny contains "x" if {',
        'deny contains "x" if nobody_knows(3)',
        'deny contains "x" if a\n\na if b\n\nb if a',
        'deny contains {"reason": 3}',
    ],
    ids=["built-in fails", "two values", "type", "syntax", "unknown", "recursion", "no text"],
)
async def test_whatever_goes_wrong_in_the_engine_refuses(
    rego: EmbeddedRego, module: str, capfd: pytest.CaptureFixture[str]
) -> None:
    own = version(module)
    with pytest.raises(PolicyUnavailable) as caught:
        await rego.decide(own, asked())
    assert (caught.value.status, caught.value.code) == (503, "policy_unavailable")
    assert capfd.readouterr() == ("", "")


async def test_equal_questions_are_evaluated_once_and_a_new_version_anew(
    rego: EmbeddedRego, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = []
    original = EmbeddedRego.evaluate
    monkeypatch.setattr(
        EmbeddedRego,
        "evaluate",
        lambda self, one: evaluated.append(one) or original(self, one),  # type: ignore[func-returns-value]
    )
    first = version()
    for _ in range(3):
        assert (await rego.decide(first, asked())).allow
    assert len(evaluated) == 1
    differing: list[dict[str, Any]] = [
        {"key_id": "key_2"}, {"key_label": "x"}, {"plan": "free"},
        {"allowed_models": ["chat"]}, {"route_hint": "cloud-ok"}, {"route_policy": "local-only"},
        {"requested": "chat"}, {"model": "b"}, {"model_names": ["chat"]}, {"task": "embed"},
        {"tenant_id": "ten_2"}, {"api_disabled": True}, {"admin": True},
    ]  # fmt: skip
    for number, facts in enumerate(differing, start=2):
        await rego.decide(first, asked(**facts))
        assert len(evaluated) == number, facts
    count = len(evaluated)
    assert not (await rego.decide(version(api_disabled=True), asked())).allow
    assert len(evaluated) == count + 1


async def test_an_address_counts_where_a_module_may_read_it(rego: EmbeddedRego) -> None:
    own = version('deny contains "x" if input.client.ip == "10.1.2.4"')
    plain = version(client_networks=["10.1.2.3/32"])
    for policy in (own, plain):
        allowed = [
            (await rego.decide(policy, asked(client_ip=address))).allow
            for address in ("10.1.2.3", "10.1.2.4", "10.1.2.3")
        ]
        assert allowed == [True, False, True]


async def test_time_enters_a_remembered_decision(rego: EmbeddedRego) -> None:
    window = version(time_window={"from": "12:00", "to": "12:01"})
    own = version('deny contains "even" if input.time.minute % 2 == 0')
    seen = []
    for minute in (0, 1, 0, 2):
        at = asked().at or 0
        moment = asked(at=at + 60 * minute)
        decisions = [(await rego.decide(one, moment)).allow for one in (window, own)]
        seen.append(decisions)
    assert seen == [[True, False], [False, True], [True, False], [False, False]]


async def test_requests_at_once_get_their_own_decisions(rego: EmbeddedRego) -> None:
    own = version('deny contains input.key.label if input.key.plan == "free"')
    labels = [f"key-{number}" for number in range(100)]
    answers = await asyncio.gather(
        *(rego.decide(own, asked(key_label=label, plan="free")) for label in labels)
    )
    assert [answer.reason for answer in answers] == labels


@pytest.mark.parametrize(
    "answer",
    [
        None,
        True,
        {},
        {"allow": True},
        {"allow": "yes", "rule": "", "reason": "", "word": "", "param": "", "routes": ["local"]},
        {"allow": True, "rule": "", "reason": "", "word": "", "param": "", "routes": []},
        {"allow": True, "rule": "", "reason": "", "word": "", "param": "", "routes": ["moon"]},
        {"allow": True, "rule": 1, "reason": "", "word": "", "param": "", "routes": ["local"]},
    ],
)
def test_an_answer_of_another_shape_is_none(answer: Any) -> None:
    with pytest.raises(NoAnswerError):
        read_verdict(answer, version())


def test_every_built_in_that_modules_may_use_is_there() -> None:
    interpreter = regopy.Interpreter()
    assert [name for name in sorted(BUILTINS) if not interpreter.is_builtin(name)] == []


def test_what_the_compiler_says_has_a_place() -> None:
    broken = HEAD + 'deny contains "x" if {\n\tinput.key.label == == "x"\n}'
    assert place("(error 3:own|4|2\n (errormsg 5:wrong))", broken) == (1, 5, "wrong.")
