"""The short ways of the sandbox lead where the long ones do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orchestrator.rendering.sandbox import Sandbox

VALUES: dict[str, Any] = {
    "message": {"role": "user", "content": " Hi ", "items": 3, "_x": 1, "none": None},
    "text": " a,b,A ",
    "numbers": [3, 1, 2],
    "made": iter,
}
SAFE = [
    "{{ message.role }}{{ message['content'] }}{{ message.none is none }}",
    "{{ message.absent }}{{ message.absent is defined }}{{ message.items is callable }}",
    "{{ message['items'] }}{{ message._x }}{{ message['_x'] }}",
    "{% for key, value in message.items() %}{{ key }}{{ value }}{% endfor %}",
    "{{ message.keys() | list }}{{ message.get('role') }}{{ message.get('gone', 7) }}",
    "{{ text.strip().split(',') | join('|') }}{{ text.upper() }}{{ text.startswith(' a') }}",
    "{{ text.replace('a', 'b') }}{{ text.format }}{{ '{}{x}'.format(1, x=2) }}",
    "{{ text.count('a') }}{{ text.title() }}{{ text.find('b') }}{{ text.absent is defined }}",
    "{{ numbers[0] }}{{ numbers.index(1) }}{{ numbers.count(3) }}{{ numbers[9] is defined }}",
    (
        "{% for one in numbers %}{{ loop.index0 }}{{ loop.index }}{{ loop.first }}{{ loop.last }}"
        "{{ loop.length }}{{ loop.revindex }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }}"
        "{{ loop.cycle('a', 'b') }}{{ loop.changed(one) }}{{ loop.absent is defined }}{% endfor %}"
    ),
    (
        "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ kwargs }}{{ varargs }}{% endmacro %}"
        "{{ m(1) }}{{ m(1, b=3) }}{{ m(1, 2, 3, c=4) }}"
    ),
    "{% macro m() %}({{ caller(5) }}){% endmacro %}{% call(x) m() %}{{ x }}{% endcall %}",
    "{% for one in numbers %}{% set x = text.strip() %}{{ x.lower() }}{% endfor %}",
    "{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}{{ range(3) | list }}",
    "{{ absent is defined }}{{ stops() is defined }}",
]
UNSAFE = [
    "{{ message.__class__ }}",
    "{{ message.__class__.__mro__ }}",
    "{{ message.update({'a': 1}) }}",
    "{{ message.clear() }}",
    "{{ message['pop']('role') }}",
    "{{ numbers.append(1) }}",
    "{{ text.__class__ }}",
    "{{ text.strip.__self__.__class__ }}",
    "{{ '{0.__class__}'.format(text) }}",
    "{{ text.format.__globals__ }}",
    "{{ '{0.__class__}'['format'](text) }}",
    "{{ made.__globals__ }}",
    "{% for one in numbers %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{% for one in numbers %}{{ loop._undefined() }}{{ loop._iterator.__class__ }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{{ marked() }}",
]


class _Marked:
    unsafe_callable = True

    def __call__(self) -> str:
        return "called"

    def __repr__(self) -> str:
        return "a marked function"


def outcome(environment: ImmutableSandboxedEnvironment, source: str) -> str:
    def stops() -> Iterator[int]:
        raise StopIteration

    template = environment.from_string(source)
    values = VALUES | {"numbers": [3, 1, 2], "stops": stops, "marked": _Marked()}
    try:
        # The built-in method's address is no part of the outcome.
        return template.render(**values).split(" at 0x")[0]
    except (jinja2.TemplateError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("source", SAFE + UNSAFE)
def test_the_outcome_is_that_of_jinjas_own_sandbox(source: str) -> None:
    expected = outcome(ImmutableSandboxedEnvironment(), source)
    assert outcome(Sandbox(), source) == expected


def test_a_method_that_runs_out_gives_nothing() -> None:
    source = "{% set it = numbers %}{{ take() is defined }}"
    values = {"numbers": [], "take": iter([]).__next__}
    for environment in (ImmutableSandboxedEnvironment(), Sandbox()):
        assert environment.from_string(source).render(**values) == "False"
