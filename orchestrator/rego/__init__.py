"""Rego, evaluated where it can be stopped: in small processes with a bound of time and memory.

`rules` compiles and asks, here or in such a process; `child` is that process, `process` its other
end and `pool` shares a few of them among tenants. `modules` checks what an operator writes.
"""

from __future__ import annotations

from dataclasses import dataclass


class NoAnswerError(Exception):
    """Rules gave no answer that can be used; the message says why, and holds no input."""


class BoundExceededError(NoAnswerError):
    """Rules took more time or memory than they may, or ended the process that evaluated them."""


class EvaluatorsError(NoAnswerError):
    """No process could evaluate the rules: too many wait, or none can be started.

    Says nothing about the rules.
    """


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one evaluation may take, in seconds of processor time."""

    compile_s: float
    ask_s: float

    @property
    def wall_s(self) -> float:
        """Beyond this a process is stopped even if it got no processor: it may hang."""
        return 8 * (self.compile_s + self.ask_s)
