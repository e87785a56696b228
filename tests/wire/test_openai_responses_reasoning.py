"""Reasoning that a client keeps encrypted, and sends back with the next turn."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import InvalidEncryptedContent, InvalidRequest
from orchestrator.core.messages import ReasoningPart
from orchestrator.wire.openai.responses.items import input_items, messages_of
from orchestrator.wire.openai.responses.reasoning import MAX_CHARACTERS, ReasoningSeal
from tests.wire.test_openai_responses import SEAL, STREAMS, documents, encoder, written

OLD, NEW = b"the pepper before", b"the pepper now, longer"
SECRET = "The user must not see this thought."


def item(sealed: object) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed}


def test_reasoning_comes_back_from_what_was_encrypted() -> None:
    events = documents(written(STREAMS["reasoning"], encoder("reasoning")))
    (told,) = [
        event["item"]
        for event in events
        if event["type"] == "response.output_item.done" and event["item"]["type"] == "reasoning"
    ]
    del told["content"]
    (message,) = messages_of(input_items([told]), seal=SEAL)
    assert message.parts == (ReasoningPart("hm"),)


@given(text=st.text())
def test_any_text_comes_back(text: str) -> None:
    seal = ReasoningSeal([NEW], "ten_1")
    sealed = seal.seal(text)
    assert sealed is not None
    assert seal.open(sealed) == text.encode("utf-8", "replace").decode()


def test_it_can_be_read_with_the_pepper_alone() -> None:
    sealed = ReasoningSeal([NEW], "ten_1").seal(SECRET)
    assert sealed is not None
    assert SECRET.encode() not in base64.urlsafe_b64decode(sealed.removeprefix("op2."))
    assert sealed != ReasoningSeal([NEW], "ten_1").seal(SECRET)
    with pytest.raises(InvalidEncryptedContent):
        ReasoningSeal([OLD], "ten_1").open(sealed)


def test_what_an_older_pepper_encrypted_is_read_while_that_is_known() -> None:
    sealed = ReasoningSeal([OLD], "ten_1").seal(SECRET)
    assert sealed is not None
    assert ReasoningSeal([NEW, OLD], "ten_1").open(sealed) == SECRET


def test_another_tenant_cannot_have_it_read() -> None:
    sealed = ReasoningSeal([NEW], "ten_1").seal(SECRET)
    with pytest.raises(InvalidEncryptedContent) as caught:
        messages_of(input_items([item(sealed)]), seal=ReasoningSeal([NEW], "ten_2"))
    assert (caught.value.code, caught.value.param) == ("invalid_encrypted_content", "input")
    assert "could not be verified" in caught.value.message


@given(data=st.data())
def test_not_one_bit_of_it_can_be_changed(data: st.DataObject) -> None:
    seal = ReasoningSeal([NEW], "ten_1")
    sealed = seal.seal(SECRET)
    assert sealed is not None
    raw = bytearray(base64.urlsafe_b64decode(sealed.removeprefix("op2.")))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(InvalidEncryptedContent):
        seal.open("op2." + base64.urlsafe_b64encode(bytes(raw)).decode())


@pytest.mark.parametrize(
    "broken", ["op2.", "op2.AAAA", "op2.!", "op2.é", "op2.A", "op2." + "A" * 40]
)
def test_what_is_not_whole_is_refused(broken: str) -> None:
    with pytest.raises(InvalidEncryptedContent):
        messages_of(input_items([item(broken)]), seal=SEAL)


@pytest.mark.parametrize("foreign", ["gAAAAABo", "op1.aG0=", "", "op1.!", None, 7])
def test_what_another_provider_encrypted_counts_as_nothing(foreign: object) -> None:
    assert messages_of(input_items([item(foreign)]), seal=SEAL) == ()


def test_there_is_an_end_to_its_length() -> None:
    assert SEAL.seal("x" * MAX_CHARACTERS) is None
    with pytest.raises(InvalidRequest) as caught:
        SEAL.open("op2." + "A" * MAX_CHARACTERS)
    message = f"{MAX_CHARACTERS} characters at most; it has {MAX_CHARACTERS + 4}"
    assert message in caught.value.message
