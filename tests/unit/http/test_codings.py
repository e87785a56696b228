"""Compressed bodies: what they hold, piece by piece, and what is none."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Iterator

import pytest

from orchestrator.core.errors import InvalidRequest, PayloadTooLarge, RateLimited, UnsupportedCoding
from orchestrator.http.codings import Coding, Inflater, coding_of, read_inflated

TEXT = random.Random(7).randbytes(300_000) + b"a" * 300_000


def raw(data: bytes) -> bytes:
    """Deflated without a frame."""
    deflating = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflating.compress(data) + deflating.flush()


FORMS: dict[str, tuple[Coding, bytes]] = {
    "gzip": ("gzip", gzip.compress(TEXT)),
    "zlib": ("deflate", zlib.compress(TEXT)),
    "raw": ("deflate", raw(TEXT)),
}


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 3, 1000, 10**7])
@pytest.mark.parametrize("form", FORMS)
def test_any_cut_gives_what_was_compressed(form: str, size: int) -> None:
    coding, data = FORMS[form]
    inflater = Inflater(coding)
    pieces = [piece for part in cut(data, size) for piece in inflater.feed(part)]
    inflater.finish()
    assert b"".join(pieces) == TEXT
    assert max(map(len, pieces)) <= 65_536


@pytest.mark.parametrize("length", [0, 1, 65_535, 65_536, 65_537, 131_072, 10**6 + 7])
@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, raw])
def test_no_byte_stays_behind(compress: object, length: int) -> None:
    data = compress(b"\0" * length)  # type: ignore[operator]  # of three libraries
    inflater = Inflater("gzip" if compress is gzip.compress else "deflate")
    assert sum(len(piece) for piece in inflater.feed(data)) == length
    inflater.finish()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", ["cut", "more", "damaged", "none", "one byte"])
def test_what_is_no_such_body_is_named(form: str, fault: str) -> None:
    coding, data = FORMS[form]
    middle = len(data) // 2
    given = {
        "cut": data[:-10],
        "more": data + b"\0",
        "damaged": b"\x1f" + b"\xff" * 40 + data[middle:],
        "none": b'{"model": "acme/chat"}',
        "one byte": data[:1],
    }[fault]
    inflater = Inflater(coding)

    def read() -> None:
        list(inflater.feed(given))
        inflater.finish()

    with pytest.raises(InvalidRequest, match=f"is not valid {coding}: "):
        read()


def test_nothing_at_all_is_an_empty_body() -> None:
    for coding in ("gzip", "deflate"):
        inflater = Inflater(coding)
        assert list(inflater.feed(b"")) == []
        inflater.finish()


@pytest.mark.parametrize(
    ("given", "coding"),
    [
        ([b"gzip"], "gzip"),
        ([b"GZip"], "gzip"),
        ([b"x-gzip"], "gzip"),
        ([b"deflate"], "deflate"),
        ([b"identity"], None),
        ([b""], None),
        ([b"identity, gzip"], "gzip"),
        ([b"identity", b" gzip "], "gzip"),
    ],
)
def test_codings_have_their_names(given: list[bytes], coding: Coding | None) -> None:
    assert coding_of([(b"content-encoding", value) for value in given]) == coding


@pytest.mark.parametrize(
    "given", [[b"br"], [b"zstd"], [b"gzip, gzip"], [b"gzip", b"br"], [b"\xff"]]
)
def test_others_are_refused_with_those_that_are_known(given: list[bytes]) -> None:
    with pytest.raises(UnsupportedCoding, match="gzip, deflate or identity") as caught:
        coding_of([(b"content-encoding", value) for value in given])
    assert caught.value.headers == {"accept-encoding": "gzip, deflate"}


class Counted:
    """A caller whose bytes are counted, and who may be refused before there are many."""

    def __init__(self, data: bytes, part: int = 1000) -> None:
        self.parts = list(cut(data, part))
        self.kept = 0
        self.asked_at = self.unread_then = -1
        self.asked = 0
        self.refusal: Exception | None = None

    async def receive(self) -> dict[str, object]:
        part = self.parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self.parts)}

    def keep(self, size: int) -> None:
        self.kept = size

    async def before_large(self) -> None:
        self.asked += 1
        self.asked_at, self.unread_then = self.kept, len(self.parts)
        if self.refusal is not None:
            raise self.refusal

    async def read(self, most: int, coding: Coding = "gzip") -> bytes:
        return await read_inflated(self.receive, coding, most, self.keep, self.before_large)


async def test_what_a_body_holds_is_counted_as_it_comes() -> None:
    caller = Counted(gzip.compress(TEXT))
    assert await caller.read(10**6) == TEXT
    assert caller.kept == len(TEXT)
    # A body is checked only when it turns out not to be small.
    assert 0 < caller.asked_at <= 65_536
    assert caller.asked == 1


async def test_a_small_body_is_not_asked_about() -> None:
    caller = Counted(gzip.compress(b"a" * 65_536))
    assert len(await caller.read(10**6)) == 65_536
    assert caller.asked_at == -1


async def test_a_bomb_is_no_larger_than_a_body_may_be() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    assert len(bomb) < 60_000
    caller = Counted(bomb)
    with pytest.raises(PayloadTooLarge, match="1000000 bytes at most"):
        await caller.read(10**6)
    assert caller.kept <= 10**6
    # What was not inflated was not read.
    assert caller.parts


async def test_a_caller_without_room_stays_small() -> None:
    caller = Counted(gzip.compress(TEXT))
    caller.refusal = RateLimited("No room.")
    with pytest.raises(RateLimited):
        await caller.read(10**6)
    assert caller.kept <= 65_536


EMPTY_FOREVER: dict[str, tuple[Coding, bytes]] = {
    "stored blocks": ("deflate", b"\x00\x00\x00\xff\xff" * 60_000),
    "a file name": ("gzip", b"\x1f\x8b\x08\x08" + bytes(6) + b"a" * 299_990),
}
"""What inflates to nothing, however much is sent."""


@pytest.mark.parametrize("form", EMPTY_FOREVER)
async def test_what_inflates_to_nothing_is_counted_as_it_is_sent(form: str) -> None:
    coding, data = EMPTY_FOREVER[form]
    caller = Counted(data)
    with pytest.raises(PayloadTooLarge, match="200000 bytes at most; more were sent"):
        await caller.read(200_000, coding)
    # 1000 bytes at a time: the first one that is too much is the last that is read.
    assert len(data) - 1000 * len(caller.parts) == 201_000
    assert caller.asked == 1
    assert caller.kept == 0


@pytest.mark.parametrize("form", EMPTY_FOREVER)
async def test_who_may_send_no_more_is_refused_before_it_is_much(form: str) -> None:
    coding, data = EMPTY_FOREVER[form]
    caller = Counted(data)
    caller.refusal = RateLimited("No room.")
    with pytest.raises(RateLimited):
        await caller.read(10**6, coding)
    assert len(data) - 1000 * caller.unread_then == 66_000
