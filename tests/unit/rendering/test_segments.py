"""What is remembered of prompts, for whom, and how much of it."""

from __future__ import annotations

from array import array

from orchestrator.core.messages import Message, TextPart
from orchestrator.core.request import ChatPrompt
from orchestrator.rendering.segments import Segment, Segments
from tests.unit.rendering.conftest import Model

IDS = array("i", range(100))


def segment(text: str, owner: str = "us") -> Segment:
    return (owner, "", text)


def test_an_owner_finds_its_own_segments_only() -> None:
    segments = Segments(10_000)
    segments.keep(segment("a"), IDS)
    asked = [segment("a"), segment("a", "them"), segment("b")]
    assert segments.known(asked) == {segment("a"): IDS}


def test_what_was_asked_for_longest_ago_makes_room() -> None:
    segments = Segments(2_000)
    for text in ("a", "b"):
        segments.keep(segment(text), IDS)
    assert len(segments.known([segment("a")])) == 1
    segments.keep(segment("c"), IDS)
    assert set(segments.known(map(segment, "abc"))) == {segment("a"), segment("c")}
    assert 0 < segments.size_bytes <= 2_000


def test_no_more_is_kept_than_may_be() -> None:
    segments = Segments(5_000)
    for number in range(1_000):
        segments.keep(segment("x" * (number % 90)), IDS)
        segments.keep(segment(str(number)), IDS)
        assert segments.size_bytes <= 5_000
    segments.keep(segment("y" * 5_000), IDS)
    assert segments.known([segment("y" * 5_000)]) == {}
    assert len(segments.known([segment("999")])) == 1


def test_the_same_segment_counts_once() -> None:
    segments = Segments(10_000)
    segments.keep(segment("a"), IDS)
    once = segments.size_bytes
    segments.keep(segment("a"), IDS)
    assert segments.size_bytes == once


def test_what_one_owner_has_sent_costs_another_as_much_as_ever(chat_ml: Model) -> None:
    renderer = chat_ml.renderer
    prompt = ChatPrompt((Message("user", (TextPart("a text of its own"),)),))
    tokenizer = renderer._tokenizer
    before = tokenizer._segments.size_bytes
    first = renderer.render(prompt, owner="us")
    ours = tokenizer._segments.size_bytes
    assert renderer.render(prompt, owner="us") == first
    assert tokenizer._segments.size_bytes == ours > before
    assert renderer.render(prompt, owner="them") == first
    assert tokenizer._segments.size_bytes > ours
