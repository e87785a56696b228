"""The books over HTTP: sums of what the caller's tenant has used."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from orchestrator.books.lines import cells, columns, format_place, parse_groupings, parse_place
from orchestrator.books.sums import Grouping, GroupValue, UsageFilter, UsageSum
from orchestrator.books.usage_records import StoredBooks
from orchestrator.core.errors import InvalidRequest
from orchestrator.http.error_replies import ErrorReply
from orchestrator.http.exchange import Exchange
from orchestrator.http.openapi import Operation, query_parameter
from orchestrator.http.queries import Query, require_admin
from orchestrator.http.routes import Route
from orchestrator.keys.authenticator import Authenticator
from orchestrator.wire.management.replies import UsageList

_DEFAULT_PAGE = 1000
_MAX_PAGE = 10_000
_MAX_OFFSET = 10**9
_PARAMETERS = {
    "start_time": "the first moment that counts: seconds since the epoch, or RFC 3339",
    "end_time": "the first moment that no longer counts",
    "key_id": "this key only",
    "model": "this model only, as requests named it",
    "group_by": "any of hour, day, key, model, with commas between",
    "limit": f"most lines of one page: {_DEFAULT_PAGE} in JSON unless given, in CSV all",
    "after": "where the page before ended, its `next_after`",
    "offset": "lines to pass over; `after` is quicker",
    "format": "json or csv; without it the Accept header decides",
}


def routes(authenticator: Authenticator, books: StoredBooks) -> list[Route]:
    """The route of the books. It needs an admin's key."""

    async def summed(exchange: Exchange) -> None:
        """Sums of the tenant's usage, as JSON or as CSV."""
        principal = await exchange.admit(authenticator)
        require_admin(principal, "read the usage")
        query = Query(exchange.query_string)
        which = UsageFilter(
            tenant_id=principal.tenant_id,
            start_at=query.moment("start_time"),
            end_at=query.moment("end_time"),
            key_id=query.text("key_id"),
            model=query.text("model"),
        )
        by = _groupings(query)
        page = _Page.asked(query, by)
        if _wants_csv(exchange, query):
            await _reply_csv(exchange, books, which, by, page)
            return
        sums = await page.read(books, which, by, page.limit or _DEFAULT_PAGE)
        document = {
            "object": "list",
            "group_by": list(by),
            "data": [{"object": "usage", **cells(one)} for one in sums.lines],
            "has_more": sums.next_after is not None,
            "next_after": sums.next_after,
            "next_offset": sums.next_offset,
            "total": cells(await books.total(which)),
        }
        await exchange.reply(orjson.dumps(document))

    operation = Operation(
        reply=UsageList,
        media=("text/csv",),
        parameters=[query_parameter(name, text) for name, text in _PARAMETERS.items()],
        error=ErrorReply,
    )
    return [Route("GET", "/usage", summed, "list_usage", "Sums of usage", operation)]


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of one page, and where the next one begins, if there is one."""

    lines: list[UsageSum]
    next_after: str | None
    next_offset: int | None


@dataclass(frozen=True, slots=True)
class _Page:
    """Which page is asked for; without `limit` as much as there is, or as one page holds."""

    limit: int | None
    offset: int
    after: tuple[GroupValue, ...] | None

    @classmethod
    def asked(cls, query: Query, by: Sequence[Grouping]) -> _Page:
        """Raises: InvalidRequest."""
        limit = query.number("limit", 0, least=1, most=_MAX_PAGE) or None
        offset = query.number("offset", 0, most=_MAX_OFFSET)
        after = _place(query, by)
        if offset and after is not None:
            raise InvalidRequest("Give `after` or `offset`, not both.", param="offset")
        return cls(limit, offset, after)

    async def read(
        self, books: StoredBooks, which: UsageFilter, by: Sequence[Grouping], limit: int
    ) -> _Lines:
        """Its lines. Raises: StoreUnavailable, InvalidRequest."""
        # One more than asked for tells whether there is more.
        sums = await books.page(which, by, limit=limit + 1, offset=self.offset, after=self.after)
        lines = sums[:limit]
        if len(sums) <= limit:
            return _Lines(lines, None, None)
        next_offset = None if self.after is not None else self.offset + limit
        return _Lines(lines, format_place(lines[-1]), next_offset)


def csv_text(page: Sequence[UsageSum], by: Sequence[Grouping], *, names: bool = True) -> str:
    """A line of names, and one for each sum. Source: RFC 4180, with plain line ends."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns(by), lineterminator="\n")
    if names:
        writer.writeheader()
    writer.writerows([cells(one) for one in page])
    return out.getvalue()


async def _reply_csv(
    exchange: Exchange,
    books: StoredBooks,
    which: UsageFilter,
    by: Sequence[Grouping],
    page: _Page,
) -> None:
    """One page where `limit` says so, and else every line, read and sent part by part.

    When a later part cannot be read the reply is cut off without its end.
    """
    part = await page.read(books, which, by, page.limit or _MAX_PAGE)
    headers = [(b"content-type", b"text/csv; charset=utf-8")]
    if page.limit is not None and part.next_after is not None:
        headers.append((b"x-next-after", part.next_after.encode()))
        if part.next_offset is not None:
            headers.append((b"x-next-offset", b"%d" % part.next_offset))
    await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
    is_first = True
    while True:
        is_last = page.limit is not None or part.next_after is None
        body = csv_text(part.lines, by, names=is_first).encode()
        await exchange.send({"type": "http.response.body", "body": body, "more_body": not is_last})
        if is_last:
            return
        is_first = False
        behind = _Page(None, 0, tuple(part.lines[-1].group.values()))
        part = await behind.read(books, which, by, _MAX_PAGE)


def _place(query: Query, by: Sequence[Grouping]) -> tuple[GroupValue, ...] | None:
    given = query.text("after")
    try:
        return None if given is None else parse_place(given, by)
    except ValueError as error:
        raise InvalidRequest(
            f"`after` {error}; `{given[:60] if given else ''}` was given.", param="after"
        ) from error


def _groupings(query: Query) -> tuple[Grouping, ...]:
    try:
        return parse_groupings(query.text("group_by") or "")
    except ValueError as error:
        raise InvalidRequest(f"`group_by`: {error}.", param="group_by") from error


def _wants_csv(exchange: Exchange, query: Query) -> bool:
    match query.text("format"):
        case None:
            return exchange.headers.get(b"accept", b"").startswith(b"text/csv")
        case "csv":
            return True
        case "json":
            return False
        case other:
            raise InvalidRequest(
                f"`format` must be `json` or `csv`; `{other[:60]}` was given.", param="format"
            )
