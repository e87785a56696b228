"""Reads query parameters, and refuses unknown ones by name.

A route knows the parameters that it describes, and those that clients of its dialect send with
every request. The latter have no effect here: what they choose does not exist, or is fixed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from urllib.parse import parse_qs

from orchestrator.core.errors import InvalidRequest, PolicyDenied
from orchestrator.core.timestamps import parse_moment
from orchestrator.keys.principal import Principal

OPENAI = ("api-version", "client_version", "deployment")
"""Azure clients in OpenAI's SDKs send these; the second is from Codex, when it lists models."""
ANTHROPIC = ("beta",)
"""The beta part of Anthropic's SDKs sends this, and so does Claude Code."""
GOOGLE = ("$alt", "alt", "key", "$prettyPrint", "prettyPrint", "quotaUser")
"""Google's clients send these on every method. Source: Google Cloud APIs, system parameters."""

_MAX_DIGITS = 18
_MAX_SHOWN = 60


def given_in(query: bytes) -> dict[str, str]:
    """The parameters of a query string. If one is given twice, the first value counts."""
    given = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    return {name: values[0] for name, values in given.items()}


def check_known(given: Iterable[str], known: Collection[str]) -> None:
    """Raises: InvalidRequest for a parameter that is not in `known`."""
    for name in given:
        if name not in known:
            there = f"there are {', '.join(sorted(known))}" if known else "there is none"
            shown = name[:_MAX_SHOWN]
            raise InvalidRequest(f"`{shown}` is no parameter here; {there}.", param=shown)


class Query:
    """The parameters of one request. `Exchange.admit` has already refused unknown ones."""

    def __init__(self, query: bytes, known: Collection[str] | None = None) -> None:
        """`query` is the query string; `known` narrows what the route knows.

        Raises: InvalidRequest for a parameter that is not in `known`.
        """
        self._given = given_in(query)
        if known is not None:
            check_known(self._given, known)

    def text(self, name: str) -> str | None:
        """The parameter; `None` if it is missing or empty. Raises: InvalidRequest."""
        given = self._given.get(name) or None
        # PostgreSQL cannot store a null character.
        if given is not None and "\0" in given:
            raise InvalidRequest(f"`{name}` holds a null character.", param=name)
        return given

    def number(self, name: str, default: int, *, most: int, least: int = 0) -> int:
        """The parameter as a number. Raises: InvalidRequest."""
        given = self.text(name)
        if given is None:
            return default
        if given.isascii() and given.isdigit() and len(given) <= _MAX_DIGITS:
            number = int(given)
            if least <= number <= most:
                return number
        raise InvalidRequest(
            f"`{name}` must be between {least} and {most}; `{given[:60]}` was given.", param=name
        )

    def moment(self, name: str) -> int | None:
        """The parameter as Unix milliseconds; `None` if not given. Raises: InvalidRequest."""
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
    """Raises: PolicyDenied unless the key is an admin key."""
    if not principal.admin:
        raise PolicyDenied(
            f"Key '{principal.key_label}' may not {what}: that takes an admin key.",
            reason="admin_key_required",
        )
