"""Conversations of agents, by templates that take what they like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Message, Role, TextPart, ToolCallPart
from orchestrator.core.request import ChatPrompt
from orchestrator.rendering import Renderer
from tests.unit.rendering.conftest import byte_level, write_model

TAKES_ALL = (
    "{% for message in messages %}[{{ message.role }}:{{ message.content }}"
    "{% for call in message.tool_calls or () %}{% set given = call.function.arguments %}"
    "={{ given if given is string else given | tojson }}{% endfor %}]{% endfor %}"
)
FIRST_ONLY = (
    "{% for message in messages %}{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    "{% for call in message.tool_calls or () %}"
    "{% for name, value in call.function.arguments | items %}{{ name }}={{ value }}{% endfor %}"
    "{% endfor %}{% endfor %}" + TAKES_ALL
)
"""As Qwen 3.5's, which also goes through the arguments of calls."""
DROPS_LATER_ONES = (
    "{% if messages[0].role == 'system' %}[system:{{ messages[0].content }}]{% endif %}"
    "{% for message in messages if message.role in ('user', 'assistant', 'tool') %}"
    "[{{ message.role }}:{{ message.content }}]{% endfor %}"
)
ALTERNATES = (
    "{% set ns = namespace(turn=0) %}"
    "{% for message in messages if message.role in ('user', 'assistant') %}"
    "{% if not message.tool_calls %}{% if (message.role == 'user') != (ns.turn % 2 == 0) %}"
    "{{ raise_exception('Turns must alternate.') }}{% endif %}{% set ns.turn = ns.turn + 1 %}"
    "{% endif %}{% endfor %}" + FIRST_ONLY
)
"""As Mistral's: a call is no turn, so there is no user's turn behind its result."""
KNOWS_DEVELOPER = FIRST_ONLY.replace("== 'system'", "in ('system', 'developer')")
CALL = ToolCallPart("call_1", "f", "{}")
Made = Callable[[str], Renderer]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(template: str) -> Renderer:
        write_model(tmp_path, byte_level(), template=template)
        return Renderer(tmp_path, parser="plain")

    return make


def conversation(turns: str) -> ChatPrompt:
    """Messages named by their initials: `s`, `d`, `u`, `a`; `c` is a call, `t` its result."""
    roles: dict[str, Role] = {
        "s": "system", "d": "developer", "u": "user", "a": "assistant", "t": "tool",
    }  # fmt: skip
    messages = []
    for number, turn in enumerate(turns):
        if turn == "c":
            messages.append(Message("assistant", (TextPart(f"c{number}"), CALL)))
        else:
            call_id = "call_1" if turn == "t" else None
            text = (TextPart(f"{turn}{number}"),)
            messages.append(Message(roles[turn], text, tool_call_id=call_id))
    return ChatPrompt(tuple(messages))


def rendered(renderer: Renderer, prompt: ChatPrompt) -> str:
    return renderer.decode(renderer.render(prompt)).replace("\n\n", "|")


@pytest.mark.parametrize(
    ("template", "turns", "text"),
    [
        # What a template takes stays where it is.
        (TAKES_ALL, "ssusus", "[system:s0][system:s1][user:u2][system:s3][user:u4][system:s5]"),
        (FIRST_ONLY, "su", "[system:s0][user:u1]"),
        # As Codex sends: a developer's message behind another one.
        (FIRST_ONLY, "dduu", "[system:d0|d1][user:u2][user:u3]"),
        (FIRST_ONLY, "sdu", "[system:s0|d1][user:u2]"),
        # As Claude Code sends: behind the user's.
        (FIRST_ONLY, "sus", "[system:s0][user:u1|s2]"),
        (FIRST_ONLY, "us", "[user:u0|s1]"),
        (FIRST_ONLY, "usss", "[user:u0|s1|s2|s3]"),
        (FIRST_ONLY, "suasu", "[system:s0][user:u1][assistant:a2][user:s3|u4]"),
        (FIRST_ONLY, "uas", "[user:u0][assistant:a1][user:s2]"),
        (FIRST_ONLY, "usau", "[user:u0|s1][assistant:a2][user:u3]"),
        # A result stays beside its call.
        (FIRST_ONLY, "ucst", "[user:u0][assistant:c1={}][tool:t3][user:s2]"),
        (FIRST_ONLY, "ucts", "[user:u0][assistant:c1={}][tool:t2][user:s3]"),
        (FIRST_ONLY, "uctsa", "[user:u0][assistant:c1={}][tool:t2][user:s3][assistant:a4]"),
        (FIRST_ONLY, "uctsu", "[user:u0][assistant:c1={}][tool:t2][user:s3|u4]"),
        (ALTERNATES, "ucts", "[user:u0][assistant:c1={}][tool:t2|s3]"),
        (ALTERNATES, "suasu", "[system:s0][user:u1][assistant:a2][user:s3|u4]"),
        # What would be left out without a word is not.
        (DROPS_LATER_ONES, "ssus", "[system:s0|s1][user:u2|s3]"),
        (KNOWS_DEVELOPER, "dduud", "[developer:d0|d1][user:u2][user:u3|d4]"),
        (KNOWS_DEVELOPER, "sdu", "[system:s0|d1][user:u2]"),
    ],
)
def test_messages_of_the_system_go_where_the_template_takes_them(
    made: Made, template: str, turns: str, text: str
) -> None:
    renderer = made(template)
    for _ in range(2):
        assert rendered(renderer, conversation(turns)) == text


def test_many_late_messages_of_the_system_are_no_quadratic_work(made: Made) -> None:
    # That would take minutes here.
    messages = [Message("user", (TextPart("u"),))]
    messages += [Message("system", (TextPart("s"),))] * 20_000
    text = rendered(made(FIRST_ONLY), ChatPrompt(tuple(messages)))
    assert text == "[user:u" + "|s" * 20_000 + "]"


@pytest.mark.parametrize(
    ("arguments", "free", "strict"),
    [
        ("", "{}", "{}"),
        (" \n", "{}", "{}"),
        ("{}", "{}", "{}"),
        ('{"a": 1}', '{"a": 1}', '{"a": 1}'),
        (f'{{"a": {10**30}}}', f'{{"a": {10**30}}}', f'{{"a": {10**30}}}'),
        # A call that was cut, and calls that models get wrong.
        ('{"a": "b', '{"a": "b', '{"a": "b"}'),
        ("null", "null", '{"input": null}'),
        ('"x"', '"x"', '{"input": "x"}'),
        ("[1]", "[1]", '{"input": [1]}'),
        ("no JSON", "no JSON", '{"input": "no JSON"}'),
    ],
)
def test_arguments_in_a_history_never_end_a_conversation(
    made: Made, arguments: str, free: str, strict: str
) -> None:
    call = Message("assistant", (ToolCallPart("call_1", "f", arguments),))
    result = Message("tool", (TextPart("t"),), tool_call_id="call_1")
    prompt = ChatPrompt((Message("user", (TextPart("u"),)), call, result))
    assert rendered(made(TAKES_ALL), prompt) == f"[user:u][assistant:={free}][tool:t]"
    assert rendered(made(FIRST_ONLY), prompt).endswith(f"[user:u][assistant:={strict}][tool:t]")


def test_a_template_that_refuses_still_says_why(made: Made) -> None:
    with pytest.raises(InvalidRequest, match=r"Turns must alternate\."):
        made(ALTERNATES).render(conversation("uu"))
