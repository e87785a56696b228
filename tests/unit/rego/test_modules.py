"""What an operator's module may hold, and where it says what is wrong."""

from __future__ import annotations

import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.rego.modules import MAX_CHARACTERS, check_module
from tests.unit.policy.facts import HEAD

GOOD = """package gateway.custom

import rego.v1

# Only some, and only by day.
default late := false

late if input.time.hour >= 22

forbidden := {"a/b", "c/d"}

deny contains {"rule": "night", "reason": msg} if {
	late
	some name in input.model.names
	name in forbidden
	msg := sprintf("No %s at night.", [name])
}

deny contains "x" if {
	every x in input.model.names { startswith(x, "a") }
	not matches(input.key["label"])
	some i, v in input.key.allowed_models
	i > 0
	v == "q"
	[a, b] := split(v, "/")
	a == b
	count([y | some y in input.model.names; y != "z"]) > 2
	models := input.policy.plan_models[input.key.plan]
	not "*" in models
}

matches(label) if regex.match(`^a+
$`, label)

matches(label) if {
	label == "b"
} else := false if {
	label == "c"
}
"""


def test_a_module_inside_the_subset_passes() -> None:
    check_module(GOOD)


@pytest.mark.parametrize(
    ("rules", "place", "said"),
    [
        ('deny contains "x" if {', (5, 22), "inside a bracket"),
        ('deny contains "x" if }', (5, 22), "does not belong"),
        ("deny contains 'x'", (5, 15), "does not belong"),
        ('deny contains "x" if foo(3)', (5, 22), "calls `foo`"),
        ('deny contains "x" if net.cidr_contains("10.0.0.0/8", input.client.ip)', (5, 22), "net."),
        ('deny contains "x" if http.send({"url": "x"}).status_code == 200', (5, 22), "http.send"),
        ('deny contains "x" if time.now_ns() > 3', (5, 22), "time.now_ns"),
        ('deny contains "x" if count(numbers.range(1, 9)) > 3', (5, 28), "numbers.range"),
        ('deny contains "x" if {\n\ty == 3\n}', (6, 2), "uses `y`"),
        ('deny contains "x" if inputt.key', (5, 22), "uses `inputt`"),
        ('deny contains "x" if input.keyy.label', (5, 28), "reads `input.keyy`"),
        ('deny contains "x" if input.key.lable == "a"', (5, 32), "reads `input.key.lable`"),
        ('deny contains "x" if input["key"]["lable"]', (5, 35), "reads `input.key.lable`"),
        ('deny contains "x" if {\n\tsome m in ["key"]\n\tinput[m].label\n}', (7, 8), "must name"),
        ('deny contains "x" if data.other.allow', (5, 22), "`data`"),
        ("deny := true", (5, 1), "deny contains"),
        ('deny["x"] { true }', (5, 1), "deny contains"),
        ("default deny := false", (5, 9), "deny contains"),
        ('deny contains "x" if a\n\na { true }', (7, 1), "with `if`"),
        ('deny contains "x" if a\n\na if b\n\nb if not a', (7, 1), "needs itself"),
        ('deny contains "x" if f(1, 2)\n\nf(x) if x == 3', (5, 22), "2 arguments"),
        ("allow := true", (1, 1), "neither"),
        ('import data.x\n\ndeny contains "x"', (5, 1), "import nothing else"),
        ('input := {}\n\ndeny contains "x"', (5, 1), "`input`"),
        ('{ true }\n\ndeny contains "x"', (5, 1), "a rule should begin"),
    ],
)
def test_a_fault_has_line_and_column(rules: str, place: tuple[int, int], said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_module(HEAD + rules)
    message = str(caught.value)
    assert message.startswith(f"`module`, line {place[0]}, column {place[1]}: "), message
    assert said in message
    assert caught.value.param == "module"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("", 1),
        ("package other\n\nimport rego.v1", 1),
        ("package gateway.custom\n\ndeny contains 1", 3),
        ("package gateway.authz\nimport rego.v1\ndecision := 1", 1),
    ],
)
def test_package_and_import_must_be_there(source: str, line: int) -> None:
    with pytest.raises(InvalidRequest, match=f"line {line}, column 1"):
        check_module(source)


def test_a_module_is_not_endless() -> None:
    with pytest.raises(InvalidRequest, match=f"{MAX_CHARACTERS} characters"):
        check_module(HEAD + "#" * MAX_CHARACTERS)
