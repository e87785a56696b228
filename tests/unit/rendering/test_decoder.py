"""Token ids to events: whole characters, no lost space, no stop string, true counts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    PartDelta,
    PartFinished,
    PartStarted,
    TokenLogprob,
)
from orchestrator.core.messages import ReasoningPart, TextPart
from orchestrator.rendering import Decoder
from orchestrator.rendering.detokenizer import Detokenizer
from orchestrator.rendering.output_parsers import output_parser
from tests.unit.rendering.conftest import CORPUS, Model, asking, byte_level, write_model

TEXTS = st.sampled_from(CORPUS) | st.text(
    st.sampled_from("ab é東😀\u200d👩👧 \n\t") | st.characters(codec="utf-8"), max_size=24
)


def feed_in_pieces(
    decoder: Decoder, ids: Sequence[int], sizes: Sequence[int]
) -> list[GenerationEvent]:
    events: list[GenerationEvent] = []
    start, turn = 0, 0
    while start < len(ids) and not decoder.stopped:
        size = sizes[turn % len(sizes)] if sizes else 1
        events += decoder.feed(ids[start : start + size])
        start, turn = start + size, turn + 1
    return events


def deltas(events: Sequence[GenerationEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, PartDelta)]


SIZES = st.lists(st.integers(1, 40), max_size=4)


@given(text=TEXTS, sizes=SIZES)
def test_the_deltas_add_up_to_the_text_decoded_at_once(
    kind: Model, text: str, sizes: list[int]
) -> None:
    ids = kind.plain.encode(text, add_special_tokens=False).ids
    decoder = kind.decoder()
    events = feed_in_pieces(decoder, ids, sizes) + decoder.finish("length")
    whole = kind.decode(ids)
    assert "".join(deltas(events)) == whole
    assert "" not in deltas(events)
    assert events[-1] == ChoiceFinished(0, "length")
    if whole:
        assert events[0] == PartStarted(0, "text")
        assert events[-2] == PartFinished(0, TextPart(whole))
    assert decoder.tokens == len(ids)


@given(ids=st.lists(st.integers(0, 419), max_size=40), sizes=SIZES)
@example(ids=[200] * 40, sizes=[1])
@example(ids=[170, 150, 170, 150, 102, 170] * 5, sizes=[1])
def test_bytes_that_are_no_text_come_out_as_when_decoded_at_once(
    chat_ml: Model, ids: list[int], sizes: list[int]
) -> None:
    decoder = chat_ml.decoder()
    events = feed_in_pieces(decoder, ids, sizes) + decoder.finish("stop")
    assert "".join(deltas(events)) == chat_ml.decode(ids)


def test_no_delta_holds_half_a_character(kind: Model) -> None:
    text = "naïve 東京 😀 👩‍👩‍👧 ok"
    ids = kind.plain.encode(text, add_special_tokens=False).ids
    decoder = kind.decoder()
    pieces = deltas(feed_in_pieces(decoder, ids, [1]))
    if kind.decode(ids) == text:
        assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 5


def test_a_character_that_is_cut_at_the_end_becomes_a_replacement_character(
    chat_ml: Model,
) -> None:
    ids = chat_ml.plain.encode("a東", add_special_tokens=False).ids
    assert chat_ml.plain.decode(ids[:-1]).endswith("\ufffd")
    decoder = chat_ml.decoder()
    events = decoder.feed(ids[:-1]) + decoder.finish("length")
    assert "".join(deltas(events)) == "a\ufffd"


def test_special_tokens_do_not_show(chat_ml: Model) -> None:
    ids = [0, *chat_ml.plain.encode("the user", add_special_tokens=False).ids, 1]
    decoder = chat_ml.decoder()
    assert "".join(deltas(decoder.feed(ids) + decoder.finish("stop"))) == "the user"
    assert decoder.tokens == len(ids)


@given(
    text=st.text("abc", max_size=40),
    stops=st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4),
    sizes=SIZES,
)
def test_a_stop_string_never_shows_however_the_ids_arrive(
    chat_ml: Model, text: str, stops: list[str], sizes: list[int]
) -> None:
    ids = chat_ml.plain.encode(text, add_special_tokens=False).ids
    decoder = chat_ml.decoder(stop=tuple(stops))
    events = feed_in_pieces(decoder, ids, sizes) + decoder.finish("length")
    expected, ended = first_stop(text, stops)
    assert "".join(deltas(events)) == expected
    assert not any(stop in expected for stop in stops)
    assert decoder.stopped == (ended < len(text) or any(text.endswith(stop) for stop in stops))
    assert events[-1] == ChoiceFinished(
        0, "stop" if decoder.stopped else "length", decoder.stop_sequence
    )
    assert decoder.stop_sequence == stop_of(text, stops)


def stop_of(text: str, stops: Sequence[str]) -> str | None:
    """The stop string that ends `text`: the first to be complete, and of several the longest."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return max(found, key=len)
    return None


def first_stop(text: str, stops: Sequence[str]) -> tuple[str, int]:
    """What may show of `text`, and where the first stop string to be complete ends."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], end
    return text, len(text)


def test_tokens_count_up_to_the_one_that_completes_the_stop_string(chat_ml: Model) -> None:
    ids = chat_ml.plain.encode("the user xyz stops here", add_special_tokens=False).ids
    decoder = chat_ml.decoder(stop=("yz",))
    events = decoder.feed(ids)
    spelled = next(count for count in range(len(ids)) if "yz" in chat_ml.plain.decode(ids[:count]))
    assert decoder.stopped
    assert decoder.tokens == spelled < len(ids)
    assert decoder.feed(ids) == []
    assert "".join(deltas(events + decoder.finish("length"))) == "the user x"


def test_text_that_only_began_like_a_stop_string_is_given_out_at_the_end(chat_ml: Model) -> None:
    ids = chat_ml.plain.encode("the end", add_special_tokens=False).ids
    decoder = chat_ml.decoder(stop=("ending",))
    assert "".join(deltas(decoder.feed(ids))) == "the "
    assert "".join(deltas(decoder.finish("stop"))) == "end"


def test_a_stop_string_may_be_completed_by_the_replacement_character(chat_ml: Model) -> None:
    ids = chat_ml.plain.encode("a東", add_special_tokens=False).ids[:-1]
    decoder = chat_ml.decoder(stop=("\ufffd",))
    events = decoder.feed(ids) + decoder.finish("length")
    assert "".join(deltas(events)) == "a"
    assert events[-1] == ChoiceFinished(0, "stop", "\ufffd")


def test_an_empty_answer_has_no_part(chat_ml: Model) -> None:
    decoder = chat_ml.decoder("f", stop=("x",), choice=3)
    assert decoder.finish("stop") == [ChoiceFinished(3, "stop")]


class CountingDetokenizer(Detokenizer):
    """Counts the ids that it hands to the tokenizer."""

    decoded = 0

    def _decode(self, token_ids: list[int]) -> str:
        self.decoded += len(token_ids)
        return super()._decode(token_ids)


@pytest.mark.parametrize("stop", [(), ("never seen",)])
def test_work_grows_with_the_length_and_no_faster(chat_ml: Model, stop: tuple[str, ...]) -> None:
    def decoded(ids: Sequence[int]) -> int:
        detokenizer = CountingDetokenizer(chat_ml.plain, frozenset())
        parser = output_parser(0, asking(), "plain", "no")
        feed_in_pieces(Decoder(detokenizer, stop, parser), ids, [1])
        return detokenizer.decoded

    for unit in ([259], [200], [220]):
        assert decoded(unit * 16_000) <= 17 * decoded(unit * 1_000), unit


def logprobs_of(ids: Sequence[int]) -> list[TokenLogprob]:
    """One for each id; the n-th has the log-probability -n."""
    return [TokenLogprob(one, b"", -float(place)) for place, one in enumerate(ids)]


def feed_with_logprobs(
    decoder: Decoder, ids: Sequence[int], sizes: Sequence[int] = (1,)
) -> list[GenerationEvent]:
    events: list[GenerationEvent] = []
    given, start, turn = logprobs_of(ids), 0, 0
    while start < len(ids):
        end = start + (sizes[turn % len(sizes)] if sizes else 1)
        events += decoder.feed(ids[start:end], given[start:end])
        start, turn = end, turn + 1
    return events + decoder.finish("length")


def told(events: Sequence[GenerationEvent]) -> list[tuple[str, list[int]]]:
    """The text of each delta with the ids that come with it."""
    return [
        (event.text, [one.token_id for one in event.logprobs])
        for event in events
        if isinstance(event, PartDelta)
    ]


@given(text=TEXTS, sizes=SIZES)
def test_every_token_of_plain_text_is_told_once_and_in_order(
    kind: Model, text: str, sizes: list[int]
) -> None:
    ids = kind.plain.encode(text, add_special_tokens=False).ids
    events = feed_with_logprobs(kind.decoder(), ids, sizes)
    assert "".join(deltas(events)) == kind.decode(ids)
    last = events[-1]
    assert isinstance(last, ChoiceFinished)
    with_text = [one for _, ids_of_delta in told(events) for one in ids_of_delta]
    assert with_text + [one.token_id for one in last.logprobs] == ids


def test_log_probabilities_come_with_the_text_of_their_tokens(chat_ml: Model) -> None:
    ids = chat_ml.plain.encode("the user", add_special_tokens=False).ids
    events = feed_with_logprobs(chat_ml.decoder(), ids)
    assert told(events) == [(chat_ml.decode([one]), [one]) for one in ids]


def test_parts_of_a_character_come_with_the_character(chat_ml: Model) -> None:
    ids = chat_ml.plain.encode("a東", add_special_tokens=False).ids
    head, *rest = ids
    assert len(rest) > 1
    assert told(feed_with_logprobs(chat_ml.decoder(), ids)) == [("a", [head]), ("東", rest)]
    cut = told(feed_with_logprobs(chat_ml.decoder(), ids[:-1]))
    assert cut == [("a", [head]), ("\ufffd", rest[:-1])]


def test_tokens_without_text_come_at_the_end(chat_ml: Model) -> None:
    *ids, last = [*chat_ml.plain.encode("the", add_special_tokens=False).ids, 1]
    events = feed_with_logprobs(chat_ml.decoder(), [*ids, last])
    finished = events[-1]
    assert isinstance(finished, ChoiceFinished)
    assert [one.token_id for one in finished.logprobs] == [last]
    assert [one for _, given in told(events) for one in given] == ids


def test_tokens_wait_with_text_that_may_be_a_stop_string(chat_ml: Model) -> None:
    ids = chat_ml.plain.encode("qzxw", add_special_tokens=False).ids
    assert [chat_ml.decode([one]) for one in ids] == [*"qzxw"]
    events = feed_with_logprobs(chat_ml.decoder(stop=("zx?",)), ids)
    assert told(events) == [("q", ids[:1]), ("zxw", ids[1:])]


def test_tokens_of_a_stop_string_are_told_no_more_than_its_text(chat_ml: Model) -> None:
    ids = chat_ml.plain.encode("qzxw", add_special_tokens=False).ids
    events = feed_with_logprobs(chat_ml.decoder(stop=("zx",)), ids)
    assert told(events) == [("q", ids[:1])]
    assert events[-1] == ChoiceFinished(0, "stop", "zx")


def test_tokens_of_tool_calls_are_not_those_of_text(chat_ml: Model) -> None:
    text = 'ok <tool_call>{"name": "f", "arguments": {}}</tool_call> bye'
    ids = chat_ml.plain.encode(text, add_special_tokens=False).ids
    events = feed_with_logprobs(chat_ml.decoder("f"), ids)
    kinds = {event.kind for event in events if isinstance(event, PartDelta) and event.logprobs}
    assert kinds == {"text"}
    texts = [chat_ml.decode(given).strip() for _, given in told(events)]
    assert "".join(texts) == "okbye"
    broken = text.replace(":", "")
    ids = chat_ml.plain.encode(broken, add_special_tokens=False).ids
    events = feed_with_logprobs(chat_ml.decoder("f"), ids)
    assert chat_ml.decode([one for _, given in told(events) for one in given]) == broken


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model that thinks, and writes its marks with tokens of their own."""
    tokenizer = byte_level()
    tokenizer.add_tokens(["<think>", "</think>"])
    folder = write_model(tmp_path_factory.mktemp("thinking"), tokenizer)
    return Model(folder, reasoning="think")


@given(sizes=SIZES)
def test_tokens_of_thoughts_are_counted(thinking: Model, sizes: list[int]) -> None:
    thoughts = thinking.plain.encode("<think>the user</think>", add_special_tokens=False).ids
    answer = thinking.plain.encode("the words", add_special_tokens=False).ids
    decoder = thinking.decoder("f")
    events = feed_in_pieces(decoder, thoughts + answer, sizes) + decoder.finish("stop")
    parts = [event.part for event in events if isinstance(event, PartFinished)]
    assert parts == [ReasoningPart("the user"), TextPart("the words")]
    assert (decoder.reasoning_tokens, decoder.tokens) == (len(thoughts), len(thoughts + answer))


def test_an_answer_without_thoughts_has_no_reasoning_tokens(thinking: Model) -> None:
    decoder = thinking.decoder()
    events = feed_in_pieces(decoder, thinking.plain.encode("the words").ids, [1])
    assert "".join(deltas(events + decoder.finish("stop"))) == "the words"
    assert decoder.reasoning_tokens == 0


def test_tokens_of_thoughts_are_not_those_of_text(thinking: Model) -> None:
    text = "<think>the user</think>\n\nthe words"
    ids = thinking.plain.encode(text, add_special_tokens=False).ids
    events = feed_with_logprobs(thinking.decoder(), ids)
    given = [one for _, ids_of_delta in told(events) for one in ids_of_delta]
    assert thinking.decode(given).strip() == "the words"


@given(sizes=SIZES)
def test_the_engine_is_stopped_behind_the_only_call(chat_ml: Model, sizes: list[int]) -> None:
    call = '<tool_call>{"name": "f", "arguments": {"a": 1}}'
    ids = chat_ml.plain.encode(call, add_special_tokens=False).ids
    more = chat_ml.plain.encode("</tool_call> and more", add_special_tokens=False).ids
    decoder = chat_ml.renderer.decoder(0, asking("f", parallel=False), ())
    events = feed_in_pieces(decoder, ids + more, sizes)
    assert decoder.stopped
    assert decoder.tokens == len(ids)
    assert decoder.feed(more) == []
    events += decoder.finish("length")
    assert events[-1] == ChoiceFinished(0, "tool_calls")
    assert "".join(deltas(events)) == '{"a": 1}'
