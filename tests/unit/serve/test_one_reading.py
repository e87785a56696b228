"""Made-up requests on one connection: each reply belongs to its request, and no body is a head."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.serve.odd_requests import BROKEN_CHUNKS, OFFERS, REFUSED
from tests.unit.serve.raw_port import LAST, exchange, raw_port, replies

EXAMPLES = 150
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class Sent:
    """A request as it is sent, and the body that it has. Bad ones have none."""

    raw: bytes
    body: bytes | None


BODIES = st.one_of(
    st.just(SMUGGLED),
    st.just(b"0\r\n\r\n" + SMUGGLED),
    st.binary(max_size=40),
    st.sampled_from([b"", b"\r\n\r\n", b"\n", LAST, SMUGGLED * 3]),
)
EXTENSIONS = st.sampled_from([b"", b";a", b";a=b", b';a="b;c"', b";" + b"x" * 300])
TRAILERS = st.sampled_from(
    [b"", b"X: y\r\n", b"Host: y\r\n", b"Connection: upgrade\r\nUpgrade: a\r\n"]
)
MORE = st.lists(
    st.sampled_from(
        [
            b"X-Empty:\r\n",
            b"X:  spaces  \r\n",
            b"Expect: 100-continue\r\n",
            b"Upgrade: h2c\r\n",
            b"Connection: keep-alive\r\n",
            b"Keep-Alive: 5\r\n",
            b"Content_Length: 99\r\n",
            b"X-Transfer-Encoding: chunked\r\n",
            b"TE: trailers\r\n",
            b"Trailer: Content-Length\r\n",
            *(b"".join(b"%b\r\n" % line.encode() for line in lines) for lines in OFFERS.values()),
        ]
    ),
    max_size=3,
)


@st.composite
def valid(draw: st.DrawFn) -> Sent:
    """A request that is to be answered, and the connection kept."""
    body = draw(BODIES)
    method = draw(st.sampled_from([b"POST", b"PUT", b"GET", b"DELETE", b"PATCH"]))
    target = draw(st.sampled_from([b"/%d", b"/%d?a=/smuggled", b"http://y/%d", b"/%d#x"]))
    framing = draw(st.sampled_from(["length", "chunks"]))
    more = draw(MORE)
    place = draw(st.integers(0, len(more)))
    if framing == "length":
        line, coded = b"Content-Length: %d\r\n" % len(body), body
    else:
        line = draw(
            st.sampled_from([b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:CHUNKED\r\n"])
        )
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        chunks = [b"%x%b\r\n%b\r\n" % (len(one), draw(EXTENSIONS), one) for one in pieces if one]
        coded = b"".join(chunks) + b"0\r\n" + draw(TRAILERS) + b"\r\n"
    lines = b"".join([*more[:place], line, *more[place:]])
    return Sent(b"%b %b HTTP/1.1\r\nHost: x\r\n%b\r\n%b" % (method, target, lines, coded), body)


def bad() -> st.SearchStrategy[Sent]:
    """A request that is to be refused."""
    chunked = b"POST /%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    broken = [chunked + one for one in BROKEN_CHUNKS.values()]
    heads = [one.replace(b"%", b"%%") for one in REFUSED.values()]
    return st.sampled_from([Sent(one, None) for one in (*broken, *heads)])


@st.composite
def cut(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    return [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]


@pytest.fixture(scope="module")
def runner() -> Iterator[tuple[asyncio.Runner, int]]:
    with asyncio.Runner() as own:
        served = raw_port()
        port = own.run(served.__aenter__())
        yield own, port
        own.run(served.__aexit__(None, None, None))


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_each_reply_is_of_its_request(
    runner: tuple[asyncio.Runner, int], data: st.DataObject
) -> None:
    own, port = runner
    sent = data.draw(st.lists(valid(), max_size=5))
    refused = data.draw(st.one_of(st.none(), bad()))
    raw = [_numbered(one.raw, number) for number, one in enumerate(sent)]
    if refused is not None:
        raw.append(_numbered(refused.raw, len(sent)) + SMUGGLED)
    parts = data.draw(cut(b"".join(raw) + LAST))
    got = replies(own.run(exchange(port, parts)))
    expected = [(f"/{number}", one.body) for number, one in enumerate(sent)]
    answered = got[: len(expected)]
    assert [
        (reply.get("path"), reply.get("body", "").encode("latin-1")) for _, reply in answered
    ] == expected
    ((status, last),) = got[len(expected) :]
    if refused is None:
        assert (status, last["path"]) == (200, "/last")
    else:
        assert status in (400, 405, 501, 505), last


def _numbered(raw: bytes, number: int) -> bytes:
    """With its number in the place of the first `%d`."""
    return raw.replace(b"%d", b"%d" % number, 1)
