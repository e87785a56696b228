"""How a session answers: set, checked, shown."""

from __future__ import annotations

from functools import reduce
from typing import Any

import msgspec
import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Tool
from orchestrator.core.request import ToolChoice
from orchestrator.wire.openai.realtime.client_events import SessionBody
from orchestrator.wire.openai.realtime.config import Config, changed, dialect_of, session_members

DEFAULTS = Config()
DEEP: dict[str, Any] = reduce(lambda inner, _: {"items": inner}, range(260), {})
CLOCK = {"type": "function", "name": "clock", "description": "The time."}


def body(**members: Any) -> SessionBody:
    return msgspec.convert(members, SessionBody)


def after(start: Config = DEFAULTS, /, **members: Any) -> Config:
    return changed(start, body(**members), "session")


def test_only_what_is_sent_is_changed() -> None:
    first = after(instructions="Be brief.", temperature=0.5, max_output_tokens=7)
    assert (first.instructions, first.temperature, first.max_tokens) == ("Be brief.", 0.5, 7)
    second = after(first, parallel_tool_calls=False)
    assert second.instructions == "Be brief."
    assert second.max_tokens == 7
    assert not second.parallel_tool_calls


def test_null_takes_a_value_away() -> None:
    first = after(
        instructions="x", tools=[CLOCK], tool_choice="required", temperature=1, max_output_tokens=7
    )
    nothing = after(
        first,
        instructions=None,
        tools=None,
        tool_choice=None,
        temperature=None,
        max_output_tokens=None,
    )
    assert nothing == Config()


@pytest.mark.parametrize("name", ["max_output_tokens", "max_response_output_tokens"])
def test_both_names_of_the_limit_count(name: str) -> None:
    assert after(**{name: 100}).max_tokens == 100
    assert after(Config(max_tokens=5), **{name: "inf"}).max_tokens is None


@pytest.mark.parametrize(
    ("choice", "read"),
    [
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "clock"}, ToolChoice("named", "clock")),
    ],
)
def test_tools_and_their_choice_are_read(choice: Any, read: ToolChoice) -> None:
    config = after(tools=[CLOCK], tool_choice=choice)
    parameters = {"type": "object", "properties": {}}
    assert config.tools == (Tool("clock", "The time.", parameters),)
    assert config.tool_choice == read


@pytest.mark.parametrize(
    ("effort", "read"), [("low", "low"), ("xhigh", "high"), ("minimal", "minimal"), (None, None)]
)
def test_the_effort_of_reasoning_is_read(effort: str | None, read: str | None) -> None:
    assert after(reasoning={"effort": effort}).reasoning == read


def test_leaving_old_items_out_can_be_switched_off() -> None:
    assert not after(truncation="disabled").truncates
    assert after(truncation={"type": "retention_ratio", "retention_ratio": 0.8}).truncates


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tool_choice": {"type": "function", "name": "clock"}}, "session.tool_choice"),
        ({"tool_choice": "sometimes"}, "session.tool_choice"),
        ({"tools": [{"type": "mcp"}]}, "session.tools[0].type"),
        ({"tools": [CLOCK, {"type": "function", "name": "a b"}]}, "session.tools[1].name"),
        ({"tools": [{"type": "function"}]}, "session.tools[0].name"),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": DEEP}]},
            "session.tools[0].parameters",
        ),
        ({"temperature": 2.1}, "session.temperature"),
        ({"max_output_tokens": 0}, "session.max_output_tokens"),
        ({"max_response_output_tokens": "all"}, "session.max_response_output_tokens"),
        ({"modalities": ["video"]}, "session.modalities"),
        ({"reasoning": {"effort": "much"}}, "session.reasoning.effort"),
        ({"prompt": {"id": "p"}}, "session.prompt"),
    ],
)
def test_a_wrong_value_is_told_with_its_place(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        after(**members)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "members",
    [
        {"modalities": ["text", "audio"]},
        {"output_modalities": ["audio"]},
    ],
)
def test_audio_is_told_to_be_unavailable(members: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="not available on this appliance yet"):
        after(**members)


def test_settings_of_audio_do_not_matter_to_text() -> None:
    assert after(voice="alloy", turn_detection=None, input_audio_format="pcm16") == Config()


@pytest.mark.parametrize(
    ("members", "dialect"),
    [
        ({"modalities": ["text"]}, "beta"),
        ({"turn_detection": None}, "beta"),
        ({"instructions": "x"}, None),
        ({}, None),
        ({"type": "realtime"}, "ga"),
        ({"type": "realtime", "modalities": ["text"]}, "ga"),
        ({"output_modalities": ["text"]}, "ga"),
    ],
)
def test_a_session_update_shows_its_dialect(members: dict[str, Any], dialect: str | None) -> None:
    assert dialect_of(body(**members)) == dialect


def test_each_dialect_is_shown_its_own_members_and_the_undecided_both() -> None:
    config = after(
        tools=[CLOCK], tool_choice={"type": "function", "name": "clock"}, max_output_tokens=9
    )
    ga, beta = session_members(config, "ga"), session_members(config, "beta")
    assert session_members(config, None) == {**ga, **beta}
    assert (ga["output_modalities"], ga["max_output_tokens"]) == (["text"], 9)
    assert (beta["modalities"], beta["max_response_output_tokens"]) == (["text"], 9)
    assert "modalities" not in ga
    assert "output_modalities" not in beta
    assert ga["tool_choice"] == {"type": "function", "name": "clock"}
    assert ga["tools"][0]["name"] == "clock"
