"""One connection of HTTP/2, frame by frame."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.triton.http2 import frames, headers
from orchestrator.triton.http2.connection import (
    CONNECTION_WINDOW,
    STREAM_WINDOW,
    Connection,
    ConnectionFault,
)

GREETING = frames.settings([])
HEAD = headers.encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = headers.encode([(b"grpc-status", b"0")])


class Heard:
    """What a stream was told, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def headers(self, values: Mapping[str, str], *, last: bool) -> None:
        self.told.append((dict(values), last))

    def data(self, payload: bytes) -> None:
        self.told.append(payload)

    def ended(self) -> None:
        self.told.append("ended")

    def reset(self, code: int) -> None:
        self.told.append(code)


class Peer:
    """The other side: what was written to it, frame by frame."""

    def __init__(self, greeting: bytes = GREETING) -> None:
        self.written = b""
        self.connection = Connection(self._write)
        self.read()
        self.connection.receive(greeting)
        self.read()

    def _write(self, sent: bytes) -> None:
        self.written += sent

    def read(self) -> list[tuple[int, int, int, bytes]]:
        """The frames since the last look: kind, flags, stream, payload."""
        rest, self.written = self.written.removeprefix(frames.PREFACE), b""
        found = []
        while rest:
            high, low, kind, flags, stream = frames.header.unpack_from(rest)
            size = high << 8 | low
            found.append((kind, flags, stream, rest[9 : 9 + size]))
            rest = rest[9 + size :]
        return found


def answer(stream: int, *pieces: bytes) -> bytes:
    """A whole reply."""
    body = b"".join(frames.frame(frames.DATA, 0, stream, piece) for piece in pieces)
    return (
        frames.frame(frames.HEADERS, frames.END_HEADERS, stream, HEAD)
        + body
        + frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, TRAILERS)
    )


TOLD = [
    ({":status": "200", "content-type": "application/grpc"}, False),
    b"one",
    b"two",
    ({"grpc-status": "0"}, True),
]


def test_it_begins_with_the_preface_and_large_windows() -> None:
    written: list[bytes] = []
    Connection(written.append)
    assert b"".join(written).startswith(frames.PREFACE)
    values = dict(frames.read_settings(b"".join(written)[len(frames.PREFACE) + 9 :][:24]))
    assert values[frames.HEADER_TABLE_SIZE] == 0
    assert values[frames.INITIAL_WINDOW_SIZE] == STREAM_WINDOW


@given(cuts=st.lists(st.integers(0, 400), max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_reply_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    peer, heard = Peer(), Heard()
    stream = peer.connection.open(b"head", b"body", heard)
    sent = answer(stream, b"one", b"two")
    places = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    for begin, end in pairwise(places):
        peer.connection.receive(sent[begin:end])
    assert heard.told == TOLD
    assert peer.connection.open_streams == 0


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12),
            st.integers(0, 255),
            st.integers(0, 8),
            st.binary(max_size=40),
        ),
        max_size=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_any_frames_are_taken_or_refused_and_nothing_else(
    sent: list[tuple[int, int, int, bytes]],
) -> None:
    peer, heard, codes = Peer(), Heard(), list[int]()
    for _ in range(3):
        peer.connection.open(b"head", b"body", heard)
    try:
        for kind, flags, stream, payload in sent:
            peer.connection.receive(frames.frame(kind, flags, stream, payload))
    except ConnectionFault as fault:
        codes.append(fault.code)
    assert all(1 <= code <= 13 for code in codes)
    peer.connection.lost()
    assert peer.connection.open_streams == 0


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_taken_or_refused_and_nothing_else(sent: bytes) -> None:
    peer, codes = Peer(), list[int]()
    peer.connection.open(b"head", b"body", Heard())
    try:
        peer.connection.receive(sent)
    except ConnectionFault as fault:
        codes.append(fault.code)
    assert all(1 <= code <= 13 for code in codes)


def test_a_small_body_goes_out_in_one_write_with_its_headers() -> None:
    peer = Peer()
    stream = peer.connection.open(b"head", b"body", Heard())
    assert peer.read() == [
        (frames.HEADERS, frames.END_HEADERS, stream, b"head"),
        (frames.DATA, frames.END_STREAM, stream, b"body"),
    ]


def test_long_headers_are_continued() -> None:
    peer = Peer()
    stream = peer.connection.open(bytes(40_000), b"", Heard())
    kinds = [(kind, flags, len(payload)) for kind, flags, _, payload in peer.read()]
    assert kinds == [
        (frames.HEADERS, 0, 16_384),
        (frames.CONTINUATION, 0, 16_384),
        (frames.CONTINUATION, frames.END_HEADERS, 7_232),
        (frames.DATA, frames.END_STREAM, 0),
    ]
    assert stream == 1


def test_a_body_waits_for_the_windows_and_comes_whole() -> None:
    peer = Peer()
    body = bytes(range(256)) * 1000
    stream = peer.connection.open(b"head", body, Heard())
    sent = b"".join(payload for kind, _, _, payload in peer.read() if kind == frames.DATA)
    assert len(sent) == frames.DEFAULT_WINDOW
    while len(sent) < len(body):
        peer.connection.receive(frames.window_update(stream, 50_000))
        assert [kind for kind, *_ in peer.read()] in ([], [frames.DATA])
        peer.connection.receive(frames.window_update(0, 50_000))
        found = peer.read()
        assert sum(len(payload) for *_, payload in found) <= 50_000
        sent += b"".join(payload for *_, payload in found)
    assert sent == body
    assert found[-1][1] == frames.END_STREAM


def test_the_peers_settings_change_windows_of_streams_that_run() -> None:
    peer = Peer(frames.settings([(frames.INITIAL_WINDOW_SIZE, 10)]))
    peer.connection.open(b"head", bytes(30), Heard())
    assert [len(payload) for kind, _, _, payload in peer.read() if kind == frames.DATA] == [10]
    peer.connection.receive(frames.settings([(frames.INITIAL_WINDOW_SIZE, 25)]))
    assert [len(payload) for kind, _, _, payload in peer.read() if kind == frames.DATA] == [15]


def test_two_bodies_that_wait_take_turns() -> None:
    peer = Peer()
    first = peer.connection.open(b"head", bytes(100_000), Heard())
    second = peer.connection.open(b"head", bytes(100_000), Heard())
    peer.read()
    for stream in (first, second):
        peer.connection.receive(frames.window_update(stream, 200_000))
    peer.connection.receive(frames.window_update(0, 60_000))
    streams = [stream for kind, _, stream, _ in peer.read() if kind == frames.DATA]
    assert streams[:4] == [first, second, first, second] or streams[:3] == [second, first, second]


def test_what_was_received_is_given_back_to_the_windows() -> None:
    peer, heard = Peer(), Heard()
    stream = peer.connection.open(b"head", b"body", heard)
    peer.read()
    count = 0
    given: dict[int, int] = {}
    while count < CONNECTION_WINDOW:
        peer.connection.receive(frames.frame(frames.DATA, 0, stream, bytes(16_384)))
        count += 16_384
        for kind, _, number, payload in peer.read():
            assert kind == frames.WINDOW_UPDATE
            given[number] = given.get(number, 0) + frames.read_long(payload)
    assert given[0] > CONNECTION_WINDOW // 2
    assert count - given[stream] <= STREAM_WINDOW


def test_data_of_a_cancelled_stream_still_counts_for_the_connection() -> None:
    peer, heard = Peer(), Heard()
    stream = peer.connection.open(b"head", b"body", heard)
    peer.connection.cancel(stream)
    assert peer.read()[-1] == (frames.RST_STREAM, 0, stream, b"\0\0\0\x08")
    for _ in range(CONNECTION_WINDOW // 16_384):
        peer.connection.receive(frames.frame(frames.DATA, 0, stream, bytes(16_384)))
    assert any(kind == frames.WINDOW_UPDATE for kind, *_ in peer.read())
    assert heard.told == []


def test_a_goaway_refuses_the_streams_that_came_too_late() -> None:
    peer = Peer()
    early, late = Heard(), Heard()
    first = peer.connection.open(b"head", b"body", early)
    peer.connection.open(b"head", b"body", late)
    peer.connection.receive(frames.goaway(first, frames.NO_ERROR))
    assert late.told == [frames.REFUSED_STREAM]
    assert not peer.connection.has_room
    peer.connection.receive(answer(first, b"one", b"two"))
    assert early.told == TOLD


def test_a_ping_is_answered_with_its_own_bytes() -> None:
    peer = Peer()
    peer.connection.receive(frames.frame(frames.PING, 0, 0, b"12345678"))
    assert peer.read() == [(frames.PING, frames.ACK, 0, b"12345678")]
    peer.connection.ping()
    assert peer.connection.pinged
    peer.connection.receive(frames.frame(frames.PING, frames.ACK, 0, bytes(8)))
    assert not peer.connection.pinged


def test_padding_and_priority_are_taken_off() -> None:
    peer, heard = Peer(), Heard()
    stream = peer.connection.open(b"head", b"body", heard)
    padded = frames.PADDED | frames.END_HEADERS | frames.HAS_PRIORITY
    payload = b"\x03" + bytes(5) + HEAD + b"\0\0\0"
    peer.connection.receive(frames.frame(frames.HEADERS, padded, stream, payload))
    peer.connection.receive(frames.frame(frames.DATA, frames.PADDED, stream, b"\x02one\0\0"))
    assert heard.told == TOLD[:2]


def test_no_more_streams_than_the_peer_allows() -> None:
    peer = Peer(frames.settings([(frames.MAX_CONCURRENT_STREAMS, 1)]))
    stream = peer.connection.open(b"head", b"body", Heard())
    assert not peer.connection.has_room
    peer.connection.receive(answer(stream))
    assert peer.connection.has_room


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frames.frame(frames.DATA, 0, 9, b"x"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, frames.PADDED, 1, b"\x05x"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 4, 1, b"\xff\xff"), frames.COMPRESSION_ERROR),
        (frames.frame(frames.CONTINUATION, 0, 1, b""), frames.PROTOCOL_ERROR),
        (frames.frame(frames.PUSH_PROMISE, 0, 1, b""), frames.PROTOCOL_ERROR),
        (frames.frame(frames.SETTINGS, 0, 0, b"12345"), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.PING, 0, 0, b"1"), frames.FRAME_SIZE_ERROR),
        (frames.window_update(0, 0), frames.FLOW_CONTROL_ERROR),
        (frames.window_update(0, frames.LARGEST_WINDOW), frames.FLOW_CONTROL_ERROR),
        (frames.header.pack(100, 0, frames.DATA, 0, 1), frames.FRAME_SIZE_ERROR),
    ],
)  # fmt: skip
def test_a_peer_that_breaks_the_protocol_is_refused(sent: bytes, code: int) -> None:
    peer = Peer()
    peer.connection.open(b"head", b"body", Heard())
    with pytest.raises(ConnectionFault) as caught:
        peer.connection.receive(sent)
    assert caught.value.code == code


def test_settings_come_first() -> None:
    connection = Connection(lambda _: None)
    with pytest.raises(ConnectionFault):
        connection.receive(frames.frame(frames.PING, 0, 0, bytes(8)))


def test_endless_headers_are_refused() -> None:
    peer = Peer()
    peer.connection.open(b"head", b"body", Heard())
    peer.connection.receive(frames.frame(frames.HEADERS, 0, 1, bytes(16_000)))
    more = frames.frame(frames.CONTINUATION, 0, 1, bytes(16_000))
    with pytest.raises(ConnectionFault):
        peer.connection.receive(more * 10)


def test_a_lost_connection_is_told_to_every_stream() -> None:
    peer = Peer()
    both = Heard(), Heard()
    for one in both:
        peer.connection.open(b"head", b"body", one)
    peer.connection.lost(frames.INTERNAL_ERROR)
    assert [one.told for one in both] == [[frames.INTERNAL_ERROR]] * 2


def test_headers_are_read_as_other_encoders_write_them() -> None:
    encoder = Encoder()
    encoder.header_table_size = 0
    given = [(":status", "200"), ("grpc-message", "niet zo ver"), ("x", "y" * 300)]
    for huffman in (True, False):
        assert headers.decode(encoder.encode(given, huffman=huffman)) == dict(given)
    written = headers.encode([(b"name", b"v" * 500), (b"k" * 127, b"")])
    assert headers.decode(written) == {"name": "v" * 500, "k" * 127: ""}
