"""The books over HTTP: sums of what the caller's tenant has used."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import orjson

from orchestrator.auth import Authenticator
from orchestrator.core.errors import InvalidRequest
from orchestrator.metering import StoredBooks
from orchestrator.store.usage import (
    Grouping,
    UsageFilter,
    UsageSum,
    cells,
    columns,
    parse_groupings,
)
from orchestrator.wire.http import Exchange, Route
from orchestrator.wire.openapi import Operation, query_parameter
from orchestrator.wire.queries import Query, require_admin
from orchestrator.wire.replies import ErrorReply, UsageList

_DEFAULT_PAGE = 1000
_MAX_PAGE = 10_000
_MOST_OFFSET = 10**9
_PARAMETERS = {
    "start_time": "the first moment that counts: seconds since the epoch, or RFC 3339",
    "end_time": "the first moment that no longer counts",
    "key_id": "this key only",
    "model": "this model only, as requests named it",
    "group_by": "any of hour, day, key, model, with commas between",
    "limit": f"most lines of one page, {_DEFAULT_PAGE} unless given",
    "offset": "lines to pass over",
    "format": "json or csv; without it the Accept header decides",
}


def routes(authenticator: Authenticator, books: StoredBooks) -> list[Route]:
    """The route of the books. It needs an admin's key."""

    async def summed(exchange: Exchange) -> None:
        """Sums of the tenant's usage, as JSON or as CSV."""
        principal = await exchange.admit(authenticator)
        require_admin(principal, "read the usage")
        query = Query(exchange, _PARAMETERS)
        which = UsageFilter(
            tenant_id=principal.tenant_id,
            start_at=query.moment("start_time"),
            end_at=query.moment("end_time"),
            key_id=query.text("key_id"),
            model=query.text("model"),
        )
        by = _groupings(query)
        limit = query.number("limit", _DEFAULT_PAGE, least=1, most=_MAX_PAGE)
        offset = query.number("offset", 0, most=_MOST_OFFSET)
        as_csv = _wants_csv(exchange, query)
        # One more than asked for tells whether there is more.
        sums, total = await books.summed(which, by, limit=limit + 1, offset=offset)
        page, has_more = sums[:limit], len(sums) > limit
        if as_csv:
            await _reply_csv(exchange, page, by, next_offset=offset + limit if has_more else None)
            return
        document = {
            "object": "list",
            "group_by": list(by),
            "data": [{"object": "usage", **cells(one)} for one in page],
            "has_more": has_more,
            "next_offset": offset + limit if has_more else None,
            "total": cells(total),
        }
        await exchange.reply(orjson.dumps(document))

    operation = Operation(
        reply=UsageList,
        media=("text/csv",),
        parameters=[query_parameter(name, text) for name, text in _PARAMETERS.items()],
        error=ErrorReply,
    )
    return [Route("GET", "/usage", summed, "list_usage", "Sums of usage", operation)]


def csv_text(page: Sequence[UsageSum], by: Sequence[Grouping]) -> str:
    """A line of names, and one for each sum. Source: RFC 4180, with plain line ends."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns(by), lineterminator="\n")
    writer.writeheader()
    writer.writerows([cells(one) for one in page])
    return out.getvalue()


async def _reply_csv(
    exchange: Exchange, page: Sequence[UsageSum], by: Sequence[Grouping], next_offset: int | None
) -> None:
    body = csv_text(page, by).encode()
    headers = [
        (b"content-type", b"text/csv; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    if next_offset is not None:
        headers.append((b"x-next-offset", b"%d" % next_offset))
    await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
    await exchange.send({"type": "http.response.body", "body": body})


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
