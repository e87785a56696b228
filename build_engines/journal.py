"""The log of one build: its stages and times, shown as progress and written to a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

#: Called for each stage of a build.
Progress = Callable[[str], None]


class Journal:
    """The stages of one build. Programs run by the build append to the same file."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path = path
        #: Seconds of each finished stage.
        self.stages: dict[str, float] = {}
        self._progress = progress
        self._stage = ""
        self._began_at = time.monotonic()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("", encoding="utf-8")

    def stage(self, name: str) -> None:
        """Ends the previous stage and begins `name`."""
        self.end()
        self._stage, self._began_at = name, time.monotonic()
        self.write(name)
        self._progress(name)

    def end(self) -> None:
        """Ends the last stage."""
        if self._stage:
            elapsed = time.monotonic() - self._began_at
            self.stages[self._stage] = round(self.stages.get(self._stage, 0.0) + elapsed, 3)
        self._stage = ""

    def write(self, text: str) -> None:
        """Adds a line. Ignores a full disk: the build itself reports that."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as stream:
            stream.write(f"{at} {text}\n")
