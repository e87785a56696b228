"""What may be said of a failure: what kind, and where; never the words of the error.

Libraries quote what they were given: a grammar and what was written under it, values of tensors.
Those are a caller's, and a log is read by others.
"""

from __future__ import annotations

import traceback
from pathlib import Path

_FRAMES = 4


def described(error: BaseException) -> str:
    """The error's class, and the innermost places that it came through, the last one first."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = [f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in reversed(frames)]
    return " < ".join([type(error).__name__, *places])
