"""The same question in every dialect: the same text, calls, end and counts, streamed or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from websockets.sync.client import connect

from tests.integration.serving import Serving

MODEL = "demo/chat"
TIMEOUT_S = 120
TOOL = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


@dataclass(frozen=True)
class Answer:
    """What a client has in the end. `cached` tokens depend on who came before."""

    text: str
    calls: tuple[tuple[str, Any], ...]
    reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Question:
    """What is asked, with greedy sampling."""

    text: str
    max_tokens: int = 64
    tools: bool = False
    stop: str | None = None


def post(serving: Serving, path: str, body: dict[str, Any]) -> requests.Response:
    reply = requests.post(
        serving.url + path,
        json=body,
        headers={"authorization": f"Bearer {serving.key}"},
        timeout=TIMEOUT_S,
    )
    assert reply.status_code == 200, reply.text
    return reply


def events(reply: requests.Response) -> Iterator[dict[str, Any]]:
    for line in reply.text.split("\n"):
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def chat_body(question: Question) -> dict[str, Any]:
    tools = {"tools": [{"type": "function", "function": TOOL}]} if question.tools else {}
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": question.text}],
        "max_tokens": question.max_tokens,
        "temperature": 0,
        "stop": question.stop,
        **tools,
    }


def chat(serving: Serving, question: Question) -> Answer:
    body = post(serving, "/v1/chat/completions", chat_body(question)).json()
    (choice,) = body["choices"]
    calls = choice["message"].get("tool_calls", ())
    return Answer(
        choice["message"]["content"] or "",
        tuple((c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls),
        choice["finish_reason"],
        body["usage"]["prompt_tokens"],
        body["usage"]["completion_tokens"],
    )


def chat_stream(serving: Serving, question: Question) -> Answer:
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    text, calls, reason, usage = "", dict[int, list[str]](), "", dict[str, int]()
    for chunk in events(post(serving, "/v1/chat/completions", chat_body(question) | asked)):
        usage = chunk["usage"] or usage
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
            reason = choice["finish_reason"] or reason
            for call in choice["delta"].get("tool_calls", ()):
                function = call["function"]
                pieces = calls.setdefault(call["index"], [])
                pieces += [function.get("name", ""), function["arguments"]]
    made = tuple((pieces[0], json.loads("".join(pieces[1:]))) for pieces in calls.values())
    return Answer(text, made, reason, usage["prompt_tokens"], usage["completion_tokens"])


def completion(serving: Serving, question: Question) -> Answer:
    """The prompt of a completion is what the chat template makes of the question."""
    rendered = post(serving, "/v1/tokenize", chat_body(question)).json()
    body = post(
        serving,
        "/v1/completions",
        {
            "model": MODEL,
            "prompt": rendered["tokens"],
            "max_tokens": question.max_tokens,
            "temperature": 0,
            "stop": question.stop,
        },
    ).json()
    (choice,) = body["choices"]
    usage = body["usage"]
    return Answer(
        choice["text"],
        (),
        choice["finish_reason"],
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


def response_body(question: Question) -> dict[str, Any]:
    return {
        "model": MODEL,
        "input": question.text,
        "max_output_tokens": question.max_tokens,
        "temperature": 0,
        "store": False,
        "tools": [{"type": "function", **TOOL}] if question.tools else [],
    }


def response(serving: Serving, question: Question) -> Answer:
    return _response(post(serving, "/v1/responses", response_body(question)).json())


def response_stream(serving: Serving, question: Question) -> Answer:
    asked = response_body(question) | {"stream": True}
    text, last = "", dict[str, Any]()
    for event in events(post(serving, "/v1/responses", asked)):
        text += event["delta"] if event["type"] == "response.output_text.delta" else ""
        last = event
    found = _response(last["response"])
    assert text == found.text
    return found


def _response(body: dict[str, Any]) -> Answer:
    texts = [p["text"] for item in body["output"] for p in item.get("content") or ()]
    calls = [item for item in body["output"] if item["type"] == "function_call"]
    cut = body["status"] == "incomplete"
    return Answer(
        "".join(texts),
        tuple((call["name"], json.loads(call["arguments"])) for call in calls),
        "length" if cut else "tool_calls" if calls else "stop",
        body["usage"]["input_tokens"],
        body["usage"]["output_tokens"],
    )


def realtime(serving: Serving, question: Question) -> Answer:
    url = f"{serving.url.replace('http', 'ws')}/v1/realtime?model={MODEL}"
    with connect(url, additional_headers={"authorization": f"Bearer {serving.key}"}) as socket:
        session = {
            "type": "realtime",
            "output_modalities": ["text"],
            "tools": [{"type": "function", **TOOL}] if question.tools else [],
        }
        content = [{"type": "input_text", "text": question.text}]
        item = {"type": "message", "role": "user", "content": content}
        asked = {"max_output_tokens": question.max_tokens, "temperature": 0}
        for event in (
            {"type": "session.update", "session": session},
            {"type": "conversation.item.create", "item": item},
            {"type": "response.create", "response": asked},
        ):
            socket.send(json.dumps(event))
        text, told = "", dict[str, Any]()
        while (told := json.loads(socket.recv(TIMEOUT_S)))["type"] != "response.done":
            assert told["type"] != "error", told
            text += told["delta"] if told["type"] == "response.output_text.delta" else ""
    found = _response(told["response"])
    assert text == found.text
    return found


def gemini_body(question: Question) -> dict[str, Any]:
    tools = {"tools": [{"functionDeclarations": [TOOL]}]} if question.tools else {}
    config: dict[str, Any] = {"temperature": 0, "maxOutputTokens": question.max_tokens}
    if question.stop:
        config["stopSequences"] = [question.stop]
    return {
        "contents": [{"parts": [{"text": question.text}]}],
        "generationConfig": config,
        **tools,
    }


def gemini(serving: Serving, question: Question) -> Answer:
    path = f"/v1beta/models/{MODEL}:generateContent"
    return _gemini([post(serving, path, gemini_body(question)).json()])


def gemini_stream(serving: Serving, question: Question) -> Answer:
    path = f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"
    return _gemini(list(events(post(serving, path, gemini_body(question)))))


def _gemini(chunks: list[dict[str, Any]]) -> Answer:
    text, calls, reason = "", list[tuple[str, Any]](), ""
    for chunk in chunks:
        for candidate in chunk.get("candidates", ()):
            for part in candidate.get("content", {}).get("parts", ()):
                text += part.get("text", "")
                if "functionCall" in part:
                    calls.append((part["functionCall"]["name"], part["functionCall"]["args"]))
            reason = candidate.get("finishReason", reason)
    usage = chunks[-1]["usageMetadata"]
    return Answer(
        text,
        tuple(calls),
        "length" if reason == "MAX_TOKENS" else "tool_calls" if calls else "stop",
        usage["promptTokenCount"],
        usage["candidatesTokenCount"],
    )


def anthropic_body(question: Question) -> dict[str, Any]:
    renamed = {"name": TOOL["name"], "description": TOOL["description"]}
    tools = [{**renamed, "input_schema": TOOL["parameters"]}]
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": question.text}],
        "max_tokens": question.max_tokens,
        "temperature": 0,
        "stop_sequences": [question.stop] if question.stop else [],
        **({"tools": tools} if question.tools else {}),
    }


_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
}


def anthropic(serving: Serving, question: Question) -> Answer:
    body = post(serving, "/v1/messages", anthropic_body(question)).json()
    usage = body["usage"]
    return Answer(
        "".join(block.get("text", "") for block in body["content"]),
        tuple((b["name"], b["input"]) for b in body["content"] if b["type"] == "tool_use"),
        _REASONS[body["stop_reason"]],
        usage["input_tokens"] + usage["cache_read_input_tokens"],
        usage["output_tokens"],
    )


def anthropic_stream(serving: Serving, question: Question) -> Answer:
    text, calls, reason, usage = "", list[list[str]](), "", dict[str, int]()
    asked = anthropic_body(question) | {"stream": True}
    for event in events(post(serving, "/v1/messages", asked)):
        match event["type"]:
            case "message_start":
                usage |= event["message"]["usage"]
            case "content_block_start" if event["content_block"]["type"] == "tool_use":
                calls.append([event["content_block"]["name"], ""])
            case "content_block_delta":
                text += event["delta"].get("text", "")
                if "partial_json" in event["delta"]:
                    calls[-1][1] += event["delta"]["partial_json"]
            case "message_delta":
                usage |= event["usage"]
                reason = _REASONS[event["delta"]["stop_reason"]]
    return Answer(
        text,
        tuple((name, json.loads(arguments or "{}")) for name, arguments in calls),
        reason,
        usage["input_tokens"] + usage["cache_read_input_tokens"],
        usage["output_tokens"],
    )


Ask = Callable[[Serving, Question], Answer]

TEXT_ONLY: tuple[Ask, ...] = (completion,)
WITH_STOP: tuple[Ask, ...] = (chat_stream, gemini, gemini_stream, anthropic, anthropic_stream)
ALL: tuple[Ask, ...] = (*WITH_STOP, response, response_stream, realtime)

PLAIN = Question("What is the capital of France?")
CUT = Question("Write a haiku about data privacy.", max_tokens=5)
STOPPED = Question("What is the capital of France?", stop="is")
CALLED = Question("What is the weather in Paris?", tools=True)


@pytest.mark.parametrize("question", [PLAIN, CUT, STOPPED, CALLED], ids=lambda q: q.text[:24])
def test_every_dialect_tells_the_same(appliance: Serving, question: Question) -> None:
    wanted = chat(appliance, question)
    assert wanted.text or wanted.calls
    asks = WITH_STOP if question.stop else ALL
    asks += () if question.tools else TEXT_ONLY
    for ask in asks:
        assert ask(appliance, question) == wanted, ask.__name__


def test_the_questions_end_for_different_reasons(appliance: Serving) -> None:
    reasons = [chat(appliance, question).reason for question in (PLAIN, CUT, STOPPED, CALLED)]
    assert reasons == ["stop", "length", "stop", "tool_calls"]


def test_the_same_seed_gives_the_same_in_every_dialect_that_has_one(appliance: Serving) -> None:
    asked = chat_body(Question("Write a haiku about data privacy.")) | {
        "temperature": 1.5,
        "seed": 11,
    }
    once = post(appliance, "/v1/chat/completions", asked).json()
    again = post(appliance, "/v1/chat/completions", asked).json()
    config = {"temperature": 1.5, "seed": 11, "maxOutputTokens": 64}
    body = {"contents": [{"parts": [{"text": asked["messages"][0]["content"]}]}]}
    path = f"/v1beta/models/{MODEL}:generateContent"
    google = post(appliance, path, body | {"generationConfig": config}).json()
    rendered = post(appliance, "/v1/tokenize", asked).json()
    plain = {"model": MODEL, "prompt": rendered["tokens"], "max_tokens": 64}
    older = post(appliance, "/v1/completions", plain | {"temperature": 1.5, "seed": 11}).json()
    texts = {
        once["choices"][0]["message"]["content"],
        again["choices"][0]["message"]["content"],
        _gemini([google]).text,
        older["choices"][0]["text"],
    }
    assert len(texts) == 1
