"""OpenAI's legacy completions: bodies to requests, events to bytes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backends.scripted import ScriptedGeneration
from orchestrator.core.errors import InvalidRequest, ModelUnavailable
from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    LikelyToken,
    PartDelta,
    PartFinished,
    PartStarted,
    TokenLogprob,
    Usage,
    fold,
)
from orchestrator.core.messages import TextPart
from orchestrator.http.bodies import BodyReader
from orchestrator.http.errors import error_members
from orchestrator.wire.openai.completions import CompletionRequest, Encoder, decode
from tests.wire.golden import check, check_json
from tests.wire.harness import answer

OPTIONAL = sorted(set(CompletionRequest.__struct_fields__) - {"model", "prompt"})
REQUESTS: dict[str, dict[str, Any]] = {
    "a text": {"prompt": "Once upon"},
    "texts": {"prompt": ["a", ""], "n": 2, "best_of": 2},
    "token ids": {"prompt": [1, 2, 3]},
    "lists of token ids": {"prompt": [[1, 2], [3]]},
    "nulls mean absent": {"prompt": "x", **dict.fromkeys(OPTIONAL)},
    "as to vLLM": {"prompt": [1.0, 2.0], "top_k": -1, "max_tokens": -1},
    "everything": {
        "prompt": "x",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "temperature": 0,
        "top_p": 1,
        "top_k": 4,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "logit_bias": {"5": -100},
        "seed": 1,
        "n": 2,
        "best_of": 2,
        "stop": ["a"],
        "logprobs": 5,
        "echo": False,
        "suffix": "",
        "route_hint": "cloud-ok",
        "user": "u",
        "no_such_parameter": 1,
    },
}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no prompt": ({"prompt": []}, "prompt", "may not be an empty list"),
    "mixed": ({"prompt": ["a", 1]}, "prompt", "texts only, token ids only"),
    "mixed lists": ({"prompt": [[1], "a"]}, "prompt", "texts only, token ids only"),
    "lists of texts": ({"prompt": [["a"]]}, "prompt[0][0]", "got `str`"),
    "too many": ({"prompt": ["a"] * 65, "n": 2}, "prompt", "128 at most; 65 times 2"),
    "suffix": ({"suffix": "x"}, "suffix", "is not supported"),
    "best of more": ({"best_of": 2}, "best_of", "equal to `n`, which is 1; 2 was given"),
    "echo with logprobs": ({"echo": True, "logprobs": 0}, "logprobs", "together with `echo`"),
    "too many logprobs": ({"logprobs": 6}, "logprobs", "between 0 and 5; 6 was given"),
    "no tokens": ({"max_tokens": 0}, "max_tokens", "at least 1"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_body_becomes_one_request_for_each_prompt(name: str) -> None:
    body = {"model": "acme/chat", **REQUESTS[name]}
    read_body = BodyReader(CompletionRequest).read(json.dumps(body).encode())
    check_json(
        f"completions/requests/{name.replace(' ', '_')}.json",
        {
            "body": body,
            "requests": [asdict(request) for request in decode(read_body)],
            "include_usage": read_body.wants_usage,
        },
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named_with_limit_and_value(name: str) -> None:
    body, param, message = REFUSED[name]
    whole = {"model": "acme/chat", "prompt": "x", **body}
    with pytest.raises(InvalidRequest) as caught:
        decode(BodyReader(CompletionRequest).read(json.dumps(whole).encode()))
    assert caught.value.param == param
    assert message in caught.value.message


STARTED = GenerationStarted("chatcmpl-1", "acme/chat", 1_700_000_000, 9)
LIKELY = (LikelyToken(7, b" a", -0.25), LikelyToken(8, b"\xf0", -math.inf))
STREAMS: dict[str, tuple[tuple[str, ...], tuple[GenerationEvent, ...]]] = {
    "text": (("",), answer("Your", " data\n", "é 😀")),
    "repeated": (("Once é ",), answer("upon", " a time")),
    "log probabilities": (
        ("",),
        (
            STARTED,
            PartStarted(0, "text"),
            PartDelta(0, "text", " a", (TokenLogprob(7, b" a", -0.25, LIKELY),)),
            PartDelta(0, "text", "bc", (TokenLogprob(9, b"bc", -1),)),
            PartFinished(0, TextPart(" abc")),
            ChoiceFinished(0, "length", logprobs=(TokenLogprob(8, b"\xf0", -2),)),
            GenerationFinished(Usage(9, 3)),
        ),
    ),
    "two choices": (
        ("A:", "B:"),
        (
            STARTED,
            PartStarted(1, "text"),
            PartDelta(1, "text", "b"),
            PartStarted(0, "text"),
            PartDelta(0, "text", "a"),
            PartFinished(1, TextPart("b")),
            ChoiceFinished(1, "stop"),
            PartFinished(0, TextPart("a")),
            ChoiceFinished(0, "content_filter"),
            GenerationFinished(Usage(9, 2)),
        ),
    ),
}


def encoder(name: str, *, include_usage: bool = False) -> Encoder:
    return Encoder(
        echoes=STREAMS[name][0],
        include_usage=include_usage,
        fingerprint="fp_test",
        log_probs=name == "log probabilities",
    )


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("name", STREAMS)
def test_events_become_these_very_bytes(name: str, include_usage: bool) -> None:
    written = encoder(name, include_usage=include_usage)
    frames = [frame for event in STREAMS[name][1] for frame in written.event(event)]
    file = name.replace(" ", "_") + ("_with_usage" if include_usage else "")
    check(f"completions/streams/{file}.sse", b"".join(frames))
    assert frames[-1] == b"data: [DONE]\n\n"
    for frame in frames[:-1]:
        assert frame.isascii()
        assert frame.count(b"\n") == 2
        assert ("usage" in json.loads(frame[6:])) == include_usage


@pytest.mark.parametrize("name", STREAMS)
async def test_stream_and_whole_answer_say_the_same(name: str) -> None:
    whole = encoder(name).result(await fold(ScriptedGeneration(STREAMS[name][1])))
    check(f"completions/results/{name.replace(' ', '_')}.json", whole)
    written = encoder(name)
    frames = [frame for event in STREAMS[name][1] for frame in written.event(event)]
    streamed: dict[int, dict[str, Any]] = {}
    for frame in frames[:-1]:
        (chunk,) = json.loads(frame[6:])["choices"]
        choice = streamed.setdefault(chunk["index"], {"text": "", "offsets": []})
        choice["text"] += chunk["text"]
        choice["offsets"] += (chunk["logprobs"] or {}).get("text_offset", [])
        choice["reason"] = chunk["finish_reason"]
    for choice in json.loads(whole)["choices"]:
        assert streamed[choice["index"]] == {
            "text": choice["text"],
            "offsets": (choice["logprobs"] or {}).get("text_offset", []),
            "reason": choice["finish_reason"],
        }


def test_an_error_after_the_first_byte_ends_the_stream() -> None:
    written = encoder("text")
    frames = [frame for event in STREAMS["text"][1][:3] for frame in written.event(event)]
    frames += written.error(error_members(ModelUnavailable("Gone: é."), "appliance", "req_1"))
    check("completions/streams/error.sse", b"".join(frames))
    chunk = json.loads(frames[-2][6:])
    assert chunk["choices"][0]["finish_reason"] == "error"
    assert chunk["error"]["code"] == "model_unavailable"


@given(pieces=st.lists(st.text(min_size=1, max_size=8), max_size=6), echo=st.text(max_size=5))
def test_any_text_survives_the_stream(pieces: list[str], echo: str) -> None:
    written = Encoder(echoes=[echo], include_usage=False, fingerprint="fp_test")
    frames = [frame for event in answer(*pieces) for frame in written.event(event)]
    chunks = [json.loads(frame[6:]) for frame in frames[:-1]]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == echo + "".join(pieces)
