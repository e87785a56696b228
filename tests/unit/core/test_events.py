"""What a stream of events adds up to."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backends.scripted import ScriptedGeneration
from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartDelta,
    PartFinished,
    PartStarted,
    Usage,
    fold,
)
from orchestrator.core.messages import TextPart

STARTED = GenerationStarted(id="chatcmpl-1", model="m", created_at=1, prompt_tokens=3)


def choice_events(index: int, text: str) -> list[GenerationEvent]:
    return [
        PartStarted(index, "text"),
        *(PartDelta(index, "text", character) for character in text),
        PartFinished(index, TextPart(text)),
        ChoiceFinished(index, "stop"),
    ]


@given(st.lists(st.text(max_size=5), min_size=1, max_size=4), st.randoms(use_true_random=False))
async def test_interleaved_choices_fold_in_the_order_of_their_index(
    texts: list[str], random: Random
) -> None:
    queues = [choice_events(index, text) for index, text in enumerate(texts)]
    merged: list[GenerationEvent] = [STARTED]
    while any(queues):
        merged.append(random.choice([queue for queue in queues if queue]).pop(0))
    merged.append(GenerationFinished(Usage(3, 5)))

    completion = await fold(ScriptedGeneration(merged))

    assert [choice.parts for choice in completion.choices] == [[TextPart(text)] for text in texts]
    assert completion.usage.total_tokens == 8


async def test_a_stream_that_ends_early_is_an_error_and_never_half_an_answer() -> None:
    with pytest.raises(ValueError, match="ended before it was complete"):
        await fold(ScriptedGeneration([STARTED, *choice_events(0, "half")]))
