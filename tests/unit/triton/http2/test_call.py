"""Messages of gRPC out of the pieces of a stream, and how a call ended."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.triton.http2 import frames
from orchestrator.triton.http2.call import GrpcCall, message
from orchestrator.triton.transport import Status

OPENING = {":status": "200", "content-type": "application/grpc"}


class _Call(GrpcCall):
    heard: Listener

    def over(self) -> None:
        self.heard.overs += 1


class Listener:
    """What a call told."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.ends: list[Status] = []
        self.overs = 0
        self.call = _Call(self.messages.append, self.ends.append)
        self.call.heard = self


@given(
    bodies=st.lists(st.binary(max_size=60), max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=10),
)
@settings(max_examples=100, deadline=None)
def test_messages_are_the_same_however_they_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    heard = Listener()
    heard.call.headers(OPENING, last=False)
    sent = b"".join(message(body) for body in bodies)
    places = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    for begin, end in pairwise(places):
        if begin != end:
            heard.call.data(sent[begin:end])
    heard.call.headers({"grpc-status": "0"}, last=True)
    assert heard.messages == bodies
    assert heard.ends == [Status(0)]
    assert heard.overs == 1


@pytest.mark.parametrize(
    ("opening", "trailers", "code"),
    [
        (OPENING, {"grpc-status": "5", "grpc-message": "not%20there"}, 5),
        (OPENING, {"grpc-status": "?"}, 2),
        (OPENING, {"grpc-status": "9" * 5000}, 2),
        (OPENING, {}, 2),
        (OPENING | {"content-type": "text/html"}, None, 2),
        ({":status": "503"}, None, 14),
        ({":status": "418"}, None, 2),
    ],
)
def test_how_a_call_ended(
    opening: dict[str, str], trailers: dict[str, str] | None, code: int
) -> None:
    heard = Listener()
    heard.call.headers(opening, last=False)
    if trailers is not None:
        heard.call.headers(trailers, last=True)
    assert [status.code for status in heard.ends] == [code]


def test_a_status_may_come_without_anything_before_it() -> None:
    heard = Listener()
    heard.call.headers(OPENING | {"grpc-status": "7", "grpc-message": "%C3%A9"}, last=True)
    assert heard.ends == [Status(7, "é")]


def test_a_stream_that_ends_inside_a_message_has_failed() -> None:
    heard = Listener()
    heard.call.headers(OPENING, last=False)
    heard.call.data(message(b"whole") + message(b"half")[:-1])
    heard.call.headers({"grpc-status": "0"}, last=True)
    assert heard.messages == [b"whole"]
    assert heard.ends[0].code == 13


def test_a_compressed_message_is_refused() -> None:
    heard = Listener()
    heard.call.headers(OPENING, last=False)
    heard.call.data(b"\x01" + message(b"packed")[1:])
    assert heard.ends[0].code == 13


@pytest.mark.parametrize(
    ("reset", "code"), [(frames.REFUSED_STREAM, 14), (frames.CANCEL, 1), (frames.NO_ERROR, 14)]
)
def test_a_reset_is_told_once(reset: int, code: int) -> None:
    heard = Listener()
    heard.call.reset(reset)
    heard.call.ended()
    heard.call.data(message(b"late"))
    assert [status.code for status in heard.ends] == [code]
    assert heard.messages == []


def test_the_end_may_come_from_a_message() -> None:
    """Whoever reads may end the call while more of it lies in the same piece."""
    heard = Listener()
    messages: list[bytes] = []

    def take(one: bytes) -> None:
        messages.append(one)
        call.end(Status(1, "enough"))

    call = GrpcCall(take, heard.ends.append)
    call.data(message(b"first") + message(b"second"))
    assert messages == [b"first"]
    assert heard.ends == [Status(1, "enough")]
