"""Shows the progress of a build: the stage, the elapsed time and the expected time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TextIO

from build_engines.plan import Plan

_WIDTH = 24
_TICK_S = 1.0


class Display:
    """Shows a build's stages on `stream`: a bar on a terminal, else a line for each stage."""

    def __init__(
        self, model: str, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._model = model
        self._stream = stream
        self._clock = clock
        self._began_at = clock()
        self._plan: Plan | None = None
        self._stage = ""
        self._is_terminal = stream.isatty()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._ticker: threading.Thread | None = None

    def plan(self, plan: Plan) -> None:
        """Shows the plan."""
        self._plan = plan
        for line in plan.lines():
            self.say(line)

    def stage(self, name: str) -> None:
        """Shows the start of a stage."""
        self._stage = name
        if not self._is_terminal:
            self.say(f"{name} ({self._times()})")
            return
        self._draw()
        if self._ticker is None:
            self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
            self._ticker.start()

    def close(self) -> None:
        """Removes the bar."""
        self._ended.set()
        if self._ticker is not None:
            self._ticker.join()
            self._write("\r\x1b[K")

    def say(self, text: str) -> None:
        """Writes one line, on a terminal or a pipe."""
        start = "\r\x1b[K" if self._ticker is not None else ""
        self._write(f"{start}engines: {self._model}: {text}\n")

    @property
    def elapsed_s(self) -> float:
        """Seconds since the build began."""
        return self._clock() - self._began_at

    def _tick(self) -> None:
        while not self._ended.wait(_TICK_S):
            self._draw()

    def _draw(self) -> None:
        self._write(f"\r\x1b[Kengines: {self._model}: {self.bar()} {self._stage} ({self._times()})")

    def bar(self) -> str:
        """Returns the elapsed share of the expected time as a bar; empty if no time is expected."""
        expected = self._plan.expected_s if self._plan is not None else None
        if not expected:
            return ""
        done = min(_WIDTH, int(_WIDTH * self.elapsed_s / expected))
        return f"[{'#' * done}{'-' * (_WIDTH - done)}]"

    def _times(self) -> str:
        expected = self._plan.expected_s if self._plan is not None else None
        about = f" of about {expected:.1f} s" if expected else " s"
        return f"{self.elapsed_s:.1f}{about}"

    def _write(self, text: str) -> None:
        with self._lock:
            self._stream.write(text)
            self._stream.flush()
