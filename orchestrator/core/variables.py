"""Checks environment variables that are settings before they are read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

_MAX_SHOWN = 60


def check_variables(
    environ: Mapping[str, str], prefix: str, known: Collection[str], lists: Mapping[str, bool]
) -> None:
    """Checks the variables of `environ` that begin with `prefix`, in any case.

    `known` are the names of settings without the prefix, in upper case; one that begins with
    another of two parts names a member of it. `lists` are those that take a JSON list of texts,
    with whether it is secret. Raises: ValueError, whose text names the variable.
    """
    groups = tuple(f"{name}__" for name in known if "__" in name)
    for variable, given in environ.items():
        if not variable.upper().startswith(prefix):
            continue
        name = variable.upper().removeprefix(prefix)
        if name not in known and not name.startswith(groups):
            raise ValueError(f"unknown setting `{variable}` in the environment")
        if name in lists and not _is_list_of_texts(given):
            shown = "" if lists[name] else f"; `{given[:_MAX_SHOWN]}` was given"
            raise ValueError(f'`{variable}` takes a JSON list of texts, such as ["a", "b"]{shown}')


def _is_list_of_texts(given: str) -> bool:
    try:
        value = json.loads(given)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
