"""Refuses body members that look like misspelt known ones.

Unknown members are ignored, as OpenAI does. But a misspelt limit must not be ignored: the caller
would believe that the limit was applied.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from orchestrator.core.errors import InvalidRequest
from orchestrator.http.bodies import BYTE_ORDER_MARK

_NAMES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OTHER_WORDS = {"max_output_tokens": "max_tokens", "max_new_tokens": "max_tokens"}
"""Names of a limit in other APIs."""
_LEAST_FOR_TYPOS = 8
"""Shorter names are too similar to names with another meaning."""


def check_spelling(body: bytes, known: frozenset[str], guarded: Iterable[str]) -> None:
    """Refuses members that are not `known` but almost equal one of `guarded`.

    `body` is a JSON object that was checked already. Raises: InvalidRequest.
    """
    given = _NAMES.decode(body.removeprefix(BYTE_ORDER_MARK))
    if given.keys() <= known:
        return
    for name in given:
        if name not in known and (meant := _meant(name, guarded)):
            raise InvalidRequest(
                f"There is no parameter `{name[:60]}`; did you mean `{meant}`?", param=name[:60]
            )


def _meant(name: str, guarded: Iterable[str]) -> str:
    if name in _OTHER_WORDS:
        return _OTHER_WORDS[name]
    plain = _plain(name)
    for candidate in guarded:
        wanted = _plain(candidate)
        if plain == wanted or (len(wanted) >= _LEAST_FOR_TYPOS and _one_slip(plain, wanted)):
            return candidate
    return ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def _one_slip(one: str, other: str) -> bool:
    """Whether one extra, missing, wrong or swapped letter makes `one` of `other`."""
    if abs(len(one) - len(other)) > 1:
        return False
    same = next((at for at, pair in enumerate(zip(one, other, strict=False)) if _differ(pair)), -1)
    if same < 0:
        return True
    rest, wanted = one[same:], other[same:]
    exchanged = rest[:2] == wanted[:2][::-1] and rest[2:] == wanted[2:]
    return exchanged or wanted[1:] in (rest, rest[1:]) or rest[1:] == wanted


def _differ(pair: tuple[str, str]) -> bool:
    return pair[0] != pair[1]
