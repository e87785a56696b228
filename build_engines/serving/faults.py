"""Describes a failure for the log: its kind and place, never the error's message.

Libraries quote their input: a grammar and the output written with it, values of tensors.
These belong to the caller, and other people read the log.
"""

from __future__ import annotations

import traceback
from pathlib import Path

_FRAMES = 4


def described(error: BaseException) -> str:
    """Returns the error's class and its innermost stack frames, the last one first."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = [f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in reversed(frames)]
    return " < ".join([type(error).__name__, *places])
