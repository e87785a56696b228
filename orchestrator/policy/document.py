"""The document of a policy: all its rules except an optional Rego module."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from orchestrator.core.addresses import Network, address_of, network_of
from orchestrator.core.errors import InvalidRequest
from orchestrator.core.limits import UNLIMITED, Limits

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ROUTES = ("local", "cloud")
ALL = ("*",)
_LIMITS = ("rpm", "images_rpm", "tpd", "concurrency")
_MINUTES_A_DAY = 24 * 60
_MAX_ENTRIES = 1000
_MAX_CHARACTERS = 256
_LARGEST_LIMIT = 2**53
_MAX_TENANTS = 32
_TENANT_ID = re.compile(r"ten_[A-Za-z0-9]{1,40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """Days and minutes, in `timezone`. An end at or before the start is on the next day."""

    days: frozenset[int]
    from_minute: int
    to_minute: int
    timezone: ZoneInfo

    def holds(self, at: float) -> bool:
        """Whether the time `at` (Unix seconds) is inside the window."""
        local = datetime.fromtimestamp(at, self.timezone)
        minute = local.hour * 60 + local.minute
        if self.from_minute < self.to_minute:
            return local.weekday() in self.days and self.from_minute <= minute < self.to_minute
        if minute >= self.from_minute:
            return local.weekday() in self.days
        # After midnight, the window that began yesterday still applies.
        yesterday = (local - timedelta(days=1)).weekday()
        return minute < self.to_minute and yesterday in self.days


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A checked document. An empty one allows everything that the key allows.

    `networks` or `window` of `None` is no restriction; an empty `networks` admits no client.
    `cache_tenants` are the ids of the tenants that share the prefix cache with this one, provided
    that their policies also name this one and each other.
    """

    limits: Limits = UNLIMITED
    allowed_models: tuple[str, ...] = ALL
    plan_models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    allowed_routes: tuple[str, ...] = ROUTES
    networks: tuple[Network, ...] | None = None
    window: TimeWindow | None = None
    api_disabled: bool = False
    cache_tenants: tuple[str, ...] = ()

    def admits(self, client_ip: str | None) -> bool:
        """Whether the client's address is inside the networks; an unknown address never is."""
        if self.networks is None:
            return True
        address = address_of(client_ip or "")
        return address is not None and any(address in network for network in self.networks)

    def open_at(self, at: float) -> bool:
        """Whether the time `at` (Unix seconds) is inside the time window."""
        return self.window is None or self.window.holds(at)

    def local_time(self, at: float) -> datetime:
        """Returns `at` in the time zone of the window, or in UTC."""
        return datetime.fromtimestamp(at, self.window.timezone if self.window else UTC)


def parse_document(given: Mapping[str, Any], where: str = "document") -> PolicyDocument:
    """Returns the checked document. Raises: InvalidRequest that names the member."""
    for name in given:
        if name not in _MEMBERS:
            raise InvalidRequest(
                f"`{where}.{name}` is not a member of a policy; it has {', '.join(_MEMBERS)}.",
                param=f"{where}.{name}",
            )
    read = {
        attribute: parse(f"{where}.{name}", given[name])
        for name, (attribute, parse) in _MEMBERS.items()
        if given.get(name) is not None
    }
    return PolicyDocument(**read)


def _limits(where: str, given: Any) -> Limits:
    for name, value in _object(where, given).items():
        if name not in _LIMITS:
            raise _wrong(f"{where}.{name}", f"is not a limit; there are {', '.join(_LIMITS)}")
        if value is None:
            continue
        if type(value) is not int or not 1 <= value <= _LARGEST_LIMIT:
            raise _wrong(f"{where}.{name}", "must be a whole number above 0, or null for no limit")
    return Limits(**given)


def _texts(where: str, given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or len(given) > _MAX_ENTRIES:
        raise _wrong(where, f"must be a list of at most {_MAX_ENTRIES} texts")
    for index, one in enumerate(given):
        if not isinstance(one, str) or not 1 <= len(one) <= _MAX_CHARACTERS:
            raise _wrong(
                f"{where}[{index}]", f"must be a text of 1 to {_MAX_CHARACTERS} characters"
            )
    return tuple(dict.fromkeys(given))


def _plans(where: str, given: Any) -> dict[str, tuple[str, ...]]:
    return {
        plan: _texts(f"{where}.{plan}", models) for plan, models in _object(where, given).items()
    }


def _routes(where: str, given: Any) -> tuple[str, ...]:
    routes = _texts(where, given)
    for route in routes:
        if route not in ROUTES:
            raise _wrong(where, f"may hold `local` and `cloud`; `{route}` is neither")
    if "local" not in routes:
        raise _wrong(where, "must hold `local`: this appliance has no other route yet")
    return routes


def _networks(where: str, given: Any) -> tuple[Network, ...]:
    networks = []
    for index, one in enumerate(_texts(where, given)):
        try:
            networks.append(network_of(one))
        except ValueError as error:
            raise _wrong(
                f"{where}[{index}]", f"is no network such as 10.0.0.0/8: {error}"
            ) from error
    return tuple(networks)


def _window(where: str, given: Any) -> TimeWindow:
    window = _object(where, given)
    for name in window:
        if name not in ("days", "from", "to", "timezone"):
            raise _wrong(f"{where}.{name}", "is unknown; there are days, from, to and timezone")
    days = _texts(f"{where}.days", window.get("days", list(DAYS)))
    for day in days:
        if day not in DAYS:
            raise _wrong(f"{where}.days", f"may hold {', '.join(DAYS)}; `{day}` is none of them")
    return TimeWindow(
        days=frozenset(DAYS.index(day) for day in days),
        from_minute=_minute(f"{where}.from", window.get("from", "00:00")),
        to_minute=_minute(f"{where}.to", window.get("to", "24:00")),
        timezone=_timezone(f"{where}.timezone", window.get("timezone", "UTC")),
    )


def _minute(where: str, given: Any) -> int:
    hours, _, minutes = given.partition(":") if isinstance(given, str) else ("", "", "")
    if (
        len(hours) == len(minutes) == 2
        and (hours + minutes).isascii()
        and (hours + minutes).isdigit()
    ):
        minute = int(hours) * 60 + int(minutes)
        if int(minutes) < 60 and minute <= _MINUTES_A_DAY:
            return minute
    raise _wrong(where, "must be a time of day such as 08:30")


def _timezone(where: str, given: Any) -> ZoneInfo:
    if isinstance(given, str):
        try:
            return ZoneInfo(given)
        # An unknown name, a path that leads out of the folder, or the name of a folder.
        except (KeyError, ValueError, OSError):
            pass
    raise _wrong(where, "must be a time zone such as Europe/Berlin")


def _tenants(where: str, given: Any) -> tuple[str, ...]:
    tenants = _texts(where, given)
    if len(tenants) > _MAX_TENANTS:
        raise _wrong(where, f"may name {_MAX_TENANTS} tenants, it names {len(tenants)}")
    for index, one in enumerate(tenants):
        if _TENANT_ID.fullmatch(one) is None:
            raise _wrong(f"{where}[{index}]", "must be the id of a tenant, such as ten_01M8PBDJ…")
    return tenants


def _flag(where: str, given: Any) -> bool:
    if not isinstance(given, bool):
        raise _wrong(where, "must be true or false")
    return given


def _object(where: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise _wrong(where, "must be an object")
    return given


def _wrong(where: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"`{where}` {what}.", param=where)


_MEMBERS: Mapping[str, tuple[str, Callable[[str, Any], Any]]] = {
    "limits": ("limits", _limits),
    "allowed_models": ("allowed_models", _texts),
    "plan_models": ("plan_models", _plans),
    "allowed_routes": ("allowed_routes", _routes),
    "client_networks": ("networks", _networks),
    "time_window": ("window", _window),
    "api_disabled": ("api_disabled", _flag),
    "prefix_cache_tenants": ("cache_tenants", _tenants),
}
