"""Tokens are found in responses that are like those before, and only there."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from orchestrator.triton.contract import read_chunk
from orchestrator.triton.response_template import ResponseTemplate

IDS = st.integers(min_value=0, max_value=2**31 - 1)


def response(token: int, *, reason: str = "", final: bool = False) -> bytes:
    """A response as Triton sends it, with the tensors that engines really give."""
    answer = service_pb2.ModelStreamInferResponse()
    inner = answer.infer_response
    inner.model_name, inner.model_version, inner.id = "chat", "1", "req-1"
    inner.parameters["triton_final_response"].bool_param = final
    inner.outputs.add(name="sequence_length", datatype="INT32", shape=[1, 1])
    inner.outputs.add(name="output_ids", datatype="INT32", shape=[1, 1, 1])
    inner.outputs.add(name="finish_reason", datatype="BYTES", shape=[1, 1])
    inner.raw_output_contents.append(struct.pack("<i", 1))
    inner.raw_output_contents.append(struct.pack("<i", token))
    inner.raw_output_contents.append(struct.pack("<I", len(reason)) + reason.encode())
    return bytes(answer.SerializeToString())


def learned(*tokens: int) -> ResponseTemplate:
    """What has seen the responses of `tokens`."""
    likeness = ResponseTemplate()
    for token in tokens:
        likeness.learn(response(token), token)
    return likeness


@given(first=IDS, second=IDS, third=IDS)
def test_it_finds_what_reading_finds_or_nothing(first: int, second: int, third: int) -> None:
    found = learned(first, second).token(response(third))
    assert found == (third if first != second or third == first else None)


def test_a_token_like_the_count_beside_it_is_not_confused_with_it() -> None:
    likeness = learned(1, 2)
    assert [likeness.token(response(token)) for token in (1, 2, 3)] == [1, 2, 3]


def test_before_two_different_tokens_were_seen_only_an_equal_message_is_alike() -> None:
    assert learned().token(response(7)) is None
    assert learned().token(b"") is None
    assert learned(7).token(response(7)) == 7
    assert learned(7).token(response(8)) is None
    assert learned(7, 7).token(response(8)) is None


@pytest.mark.parametrize(
    "other", [response(7, final=True), response(7, reason="stop"), b"", response(7)[:-1]]
)
def test_what_differs_elsewhere_is_not_alike(other: bytes) -> None:
    assert learned(5, 6).token(other) is None


def test_messages_that_differ_in_more_than_the_token_teach_nothing() -> None:
    likeness = ResponseTemplate()
    likeness.learn(response(5), 5)
    likeness.learn(response(6, final=True), 6)
    assert likeness.token(response(7, final=True)) is None


@given(token=IDS, changed=st.data())
def test_a_changed_byte_outside_the_token_is_never_passed_over(
    token: int, changed: st.DataObject
) -> None:
    message = bytearray(response(token))
    at = changed.draw(st.integers(min_value=0, max_value=len(message) - 1))
    message[at] ^= 0xFF
    found = learned(300, 400).token(bytes(message))
    if found is not None:
        read = service_pb2.ModelStreamInferResponse.FromString(bytes(message))
        assert read_chunk(read.infer_response).token_ids == (found,)
