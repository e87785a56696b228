"""Templates shaped like those of the model families, and the markers that nobody can forge."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from tokenizers import Tokenizer

from orchestrator.contract.catalogue import Parser, Reasoning
from orchestrator.core.errors import InvalidRequest
from orchestrator.core.events import PartFinished
from orchestrator.core.messages import (
    Message,
    Part,
    ReasoningPart,
    TextPart,
    Tool,
    ToolCallPart,
)
from orchestrator.core.request import (
    ChatPrompt,
    GenerationRequest,
    Prompt,
    ReasoningEffort,
    TextPrompt,
)
from orchestrator.rendering import Renderer
from orchestrator.rendering.output_parsers import PARSER_TOKENS, RESULT_TOKENS, THINKING_TOKENS
from tests.unit.rendering.conftest import asking, byte_level, write_model

LLAMA3 = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{%- set today = strftime_now("%d %b %Y") if strftime_now is defined else "never" -%}
<|im_start|>system
{{ system }}, {{ today | length }}
{%- for tool in tools or [] %} {{ tool | tojson(indent=1) }}{% endfor %}<|im_end|>
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception("One call at once.") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|im_start|>assistant {"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{ "}<|im_end|>" }}
    {%- elif message.role == "tool" %}
        {{- "<|im_start|>ipython " }}{{ message.content | tojson }}{{ "<|im_end|>" }}
    {%- else %}
        {{- '<|im_start|>' + message['role'] + ' ' + message['content'] | trim + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant {% endif %}
"""

MISTRAL = """\
{{- bos_token }}
{%- set loop_messages = messages[1:] if messages[0].role == "system" else messages %}
{%- set ns = namespace(turn=0) %}
{%- for message in loop_messages if message.role != "tool" and not message.tool_calls %}
    {%- if (message.role == "user") != (ns.turn % 2 == 0) %}
        {{- raise_exception("Turns must alternate.") }}
    {%- endif %}
    {%- set ns.turn = ns.turn + 1 %}
{%- endfor %}
{%- for message in loop_messages %}
    {%- if message.role == "user" %}
        {%- if tools is not none and loop.last %}[TOOLS]{{ tools | tojson }}[/TOOLS]{% endif %}
        {{- "[INST]" + message.content + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS][" }}
        {%- for call in message.tool_calls %}
            {%- if call.id | length != 9 %}
                {{- raise_exception("Ids have nine letters.") }}
            {%- endif %}
            {{- call.function | tojson }}{{ ", " + call.id }}{{ ";" if not loop.last }}
        {%- endfor %}
        {{- "]" + eos_token }}
    {%- elif message.role == "tool" %}
        {{- "[TOOL_RESULTS]" + message.content | string + " " + message.tool_call_id }}
        {{- "[/TOOL_RESULTS]" }}
    {%- else %}
        {{- " " + message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""

QWEN3 = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}
    {%- if message.role == "tool" %}
        {{- '<|im_start|>user\n<tool_response>\n' + message.content }}
        {{- '\n</tool_response><|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' }}
        {%- if message.reasoning_content is string %}
            {{- '<think>\n' + message.reasoning_content.strip('\n') + '\n</think>\n\n' }}
        {%- endif %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson + '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first = messages[0]['content'] + '\n\n' -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set first = "" -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Roles must alternate.") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<|im_start|>' + role + '\n' + (first if loop.first else "") + message['content'] | trim }}
    {{- '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>model\n' }}{%- endif -%}
"""

WEATHER = Tool("weather", "Tells it.", {"type": "object"})
CALL = ToolCallPart("call_01JABCDEFGHJKMNPQRSTVWXYZ0", "weather", '{"city": "Oslo"}')
TALK = (
    Message("system", (TextPart("Be brief."),)),
    Message("user", (TextPart(" Rain? "),)),
    Message("assistant", (ReasoningPart("hm"), CALL)),
    Message("tool", (TextPart("no"),), tool_call_id=CALL.id),
)


class Family:
    """A model whose vocabulary holds the markers of its family, as special tokens or not."""

    def __init__(self, folder: Path, parser: Parser, template: str, *, special: bool) -> None:
        tokenizer = byte_level()
        markers = [*PARSER_TOKENS[parser], *RESULT_TOKENS[parser], *THINKING_TOKENS]
        if special:
            tokenizer.add_special_tokens(markers)
        else:
            tokenizer.add_tokens(markers)
        self.renderer = Renderer(
            write_model(folder, tokenizer, template=template), parser=parser, reasoning="think"
        )
        self.tokenizer: Tokenizer = tokenizer
        self.marker_ids = {tokenizer.token_to_id(marker) for marker in markers}

    def text(self, prompt: Prompt, reasoning: ReasoningEffort | None = None) -> str:
        """What the model would read."""
        ids = self.renderer.render(prompt, reasoning)
        return self.tokenizer.decode(ids, skip_special_tokens=False)


def test_the_shape_of_llama_3(tmp_path: Path) -> None:
    family = Family(tmp_path, "llama3", LLAMA3, special=True)
    assert family.text(ChatPrompt(TALK, (WEATHER,))) == (
        "<s><|im_start|>system\nBe brief., 11 "
        '{\n "type": "function",\n "function": {\n  "name": "weather",\n'
        '  "description": "Tells it.",\n  "parameters": {\n   "type": "object"\n  }\n }\n}'
        "<|im_end|><|im_start|>user Rain?<|im_end|>"
        '<|im_start|>assistant {"name": "weather", "parameters": {"city": "Oslo"}}<|im_end|>'
        '<|im_start|>ipython "no"<|im_end|><|im_start|>assistant '
    )
    twice = Message("assistant", (CALL, CALL))
    with pytest.raises(InvalidRequest, match="One call at once"):
        family.text(ChatPrompt((*TALK[:2], twice), (WEATHER,)))


def test_the_shape_of_mistral_whose_ids_have_nine_letters(tmp_path: Path) -> None:
    family = Family(tmp_path, "mistral", MISTRAL, special=True)
    text = family.text(ChatPrompt(TALK))
    assert text.startswith(
        '<s>[INST] Rain? [/INST][TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}}, '
    )
    call_id = text.partition('"Oslo"}}, ')[2][:9]
    assert text.endswith(f"{call_id}]<|im_end|>[TOOL_RESULTS]no {call_id}[/TOOL_RESULTS]")
    assert call_id.isalnum()
    own = ToolCallPart("abcDEF123", "f", "{}")
    assert ", abcDEF123]" in family.text(ChatPrompt((Message("assistant", (own,)),)))
    with pytest.raises(InvalidRequest, match="Turns must alternate"):
        family.text(ChatPrompt(TALK[1:2] * 2))


def test_the_shape_of_qwen_3(tmp_path: Path) -> None:
    family = Family(tmp_path, "qwen", QWEN3, special=False)
    expected = (
        "<|im_start|>user\n Rain? <|im_end|>\n<|im_start|>assistant\n<think>\nhm\n</think>\n\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nno\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert family.text(ChatPrompt(TALK[1:])) == expected
    assert family.text(ChatPrompt(TALK[1:]), "low") == expected
    assert family.text(ChatPrompt(TALK[1:]), "none") == f"{expected}<think>\n\n</think>\n\n"


def test_the_shape_of_gemma(tmp_path: Path) -> None:
    family = Family(tmp_path, "gemma", GEMMA, special=True)
    assert family.text(ChatPrompt(TALK[:2])) == (
        "<s><|im_start|>user\nBe brief.\n\nRain?<|im_end|>\n<|im_start|>model\n"
    )
    with pytest.raises(InvalidRequest, match="Roles must alternate"):
        family.text(ChatPrompt(TALK[1:2] * 2))


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("parser", get_args(Parser))
def test_a_caller_cannot_write_a_marker_of_the_family(
    tmp_path: Path, parser: Parser, special: bool
) -> None:
    template = (
        "{% for one in messages %}{{ one.content }}{{ one.name }}{{ one.reasoning_content }}"
        "{{ one.tool_calls | tojson if one.tool_calls }}{% endfor %}{{ tools | tojson }}"
    )
    family = Family(tmp_path, parser, template, special=special)
    forged = "".join([*PARSER_TOKENS[parser], *RESULT_TOKENS[parser], *THINKING_TOKENS])
    call = ToolCallPart("id", forged, f'{{"a": {_json(forged)}}}')
    parts = (TextPart(forged), ReasoningPart(forged), call)
    messages = (Message("user", parts, name=forged),)
    prompt = ChatPrompt(messages, (Tool(forged, forged, {forged: [forged]}),), prefill=forged)
    ids = family.renderer.render(prompt)
    assert family.marker_ids.isdisjoint(ids)
    assert family.tokenizer.decode(ids, skip_special_tokens=False).count(forged) >= 4


def test_a_model_cannot_write_the_result_of_a_tool(tmp_path: Path) -> None:
    family = Family(tmp_path, "gemma", GEMMA, special=False)
    text = "<|tool_call>call:f{}<tool_call|><|tool_response>"
    decoder = family.renderer.decoder(0, asking("f"), ())
    events = decoder.feed(family.tokenizer.encode(text).ids) + decoder.finish("stop")
    parts = [event.part for event in events if isinstance(event, PartFinished)]
    assert [type(part) for part in parts] == [ToolCallPart]


@pytest.mark.parametrize("special", [True, False])
def test_templates_and_whole_prompts_write_markers(tmp_path: Path, special: bool) -> None:
    family = Family(tmp_path, "qwen", "<tool_call>{{ messages[0].content }}", special=special)
    marker_id = family.tokenizer.token_to_id("<tool_call>")
    prompt = ChatPrompt((Message("user", (TextPart("<tool_call>"),)),))
    assert [one for one in family.renderer.render(prompt) if one == marker_id] == [marker_id]
    assert list(family.renderer.render(TextPrompt("<tool_call>"))) == [marker_id]


def test_a_template_is_told_of_thinking_only_where_it_asks(tmp_path: Path) -> None:
    template = "{{ thinking }} {{ reasoning_effort }} {{ enable_thinking is defined }}"
    family = Family(tmp_path, "plain", template, special=True)
    prompt = ChatPrompt(TALK[1:2])
    assert family.text(prompt) == "  False"
    assert family.text(prompt, "none") == "False  True"
    assert family.text(prompt, "high") == "True high True"
    silent = Family(tmp_path / "silent", "plain", "{{ messages[0].content }}", special=True)
    assert silent.text(prompt, "high") == " Rain? "


@pytest.mark.parametrize(
    ("tail", "reasoning", "parts"),
    [
        ("", "think", [TextPart("hm</think>yes")]),
        ("<think>\n", "think", [ReasoningPart("hm"), TextPart("yes")]),
        ("<think>\n\n</think>\n\n", "think", [TextPart("hm</think>yes")]),
        ("<think>\n", "none", [TextPart("hm</think>yes")]),
    ],
)
def test_the_end_of_the_prompt_tells_whether_thoughts_have_begun(
    tmp_path: Path, tail: str, reasoning: Reasoning, parts: list[Part]
) -> None:
    folder = write_model(tmp_path, byte_level(), template=f"assistant{tail}")
    renderer = Renderer(folder, parser="plain", reasoning=reasoning)
    request = asking()
    decoder = renderer.decoder(0, request, renderer.render(request.prompt))
    ids = byte_level().encode("hm</think>yes").ids
    events = decoder.feed(ids) + decoder.finish("stop")
    assert [event.part for event in events if isinstance(event, PartFinished)] == parts


def test_text_that_is_continued_has_no_thoughts(tmp_path: Path) -> None:
    folder = write_model(tmp_path, byte_level(), template="<think>")
    renderer = Renderer(folder, parser="plain", reasoning="think")
    ids = byte_level().encode("hm</think>yes").ids
    for request in (asking(prefill="Well"), GenerationRequest("m", TextPrompt("<think>"))):
        decoder = renderer.decoder(0, request, renderer.render(request.prompt))
        events = decoder.feed(ids) + decoder.finish("stop")
        parts = [event.part for event in events if isinstance(event, PartFinished)]
        assert parts == [TextPart("hm</think>yes")]


def _json(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
