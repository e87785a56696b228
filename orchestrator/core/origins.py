"""Origins of web pages, as browsers write them into `Origin`."""

from __future__ import annotations

import re

ANY_ORIGIN = "*"

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._~%!$&'()+;=-]+(:[0-9]{1,5})?|"
                     r"[a-z][a-z0-9+.-]*://\[[0-9a-f:.]+\](:[0-9]{1,5})?")  # fmt: skip
_PORTS = {"http": ":80", "https": ":443"}


def origin_of(text: str) -> str:
    """Parses an origin, or `*`, and returns it in the form in which browsers write it.

    That is lower case and without the default port of its scheme. `null` is refused: any page can
    send it. Raises: ValueError. Source: RFC 6454 6.2.
    """
    origin = text.strip().lower()
    if origin == ANY_ORIGIN:
        return origin
    if _ORIGIN.fullmatch(origin) is None:
        raise ValueError(
            f"an origin is a scheme, a host and maybe a port, such as https://chat.example.com,"
            f" and nothing else; `*` is any; `{text[:100]}` was given"
        )
    return origin.removesuffix(_PORTS.get(origin.partition(":")[0], "-"))
