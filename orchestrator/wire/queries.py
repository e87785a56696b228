"""Query parameters: checked, and unknown ones named."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import parse_qs

from orchestrator.auth import Principal
from orchestrator.core.errors import InvalidRequest, PolicyDenied
from orchestrator.core.moments import parse_moment
from orchestrator.wire.http import Exchange

_MOST_DIGITS = 18


class Query:
    """The parameters of one request. Of one that is given twice the first counts."""

    def __init__(self, exchange: Exchange, known: Collection[str]) -> None:
        """Raises: InvalidRequest for a parameter that is not in `known`."""
        text = exchange.scope["query_string"].decode("latin-1")
        self._given = {
            name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()
        }
        # A key in the URL is where some clients put it.
        for name in self._given:
            if name not in known and name != "key":
                there = f"there are {', '.join(sorted(known))}" if known else "there is none"
                raise InvalidRequest(
                    f"`{name[:60]}` is no parameter here; {there}.", param=name[:60]
                )

    def text(self, name: str) -> str | None:
        """The parameter, `None` when it is not given or empty. Raises: InvalidRequest."""
        given = self._given.get(name) or None
        # PostgreSQL has no such character.
        if given is not None and "\0" in given:
            raise InvalidRequest(f"`{name}` holds a null character.", param=name)
        return given

    def number(self, name: str, default: int, *, most: int, least: int = 0) -> int:
        """The parameter as a number. Raises: InvalidRequest."""
        given = self.text(name)
        if given is None:
            return default
        if given.isascii() and given.isdigit() and len(given) <= _MOST_DIGITS:
            number = int(given)
            if least <= number <= most:
                return number
        raise InvalidRequest(
            f"`{name}` must be between {least} and {most}; `{given[:60]}` was given.", param=name
        )

    def moment(self, name: str) -> int | None:
        """The parameter in milliseconds since the epoch. Raises: InvalidRequest."""
        given = self.text(name)
        if given is None:
            return None
        try:
            return parse_moment(given)
        except (ValueError, OverflowError):
            raise InvalidRequest(
                f"`{name}` must be seconds since the epoch or a time such as"
                f" 2027-01-31T12:00:00Z; `{given[:60]}` was given.",
                param=name,
            ) from None


def require_admin(principal: Principal, what: str) -> None:
    """Raises: PolicyDenied unless the key is an admin's."""
    if not principal.admin:
        raise PolicyDenied(
            f"Key '{principal.key_label}' may not {what}: that takes an admin key.",
            reason="admin_key_required",
        )
