"""Rego, evaluated where it can be stopped: in small processes with limits of time and memory.

`rules` compiles and evaluates, in this process or such a one; `child` is that process, `process`
its parent's side, and `pool` shares a few of them among tenants. `modules` checks operators' code.
"""

from __future__ import annotations

from dataclasses import dataclass


class NoAnswerError(Exception):
    """Rules gave no usable answer; the message says why, and contains no input."""


class BoundExceededError(NoAnswerError):
    """Rules exceeded their time or memory, or ended the process that evaluated them."""


class EvaluatorsError(NoAnswerError):
    """No process could evaluate the rules: too many callers wait, or none can be started.

    It says nothing about the rules.
    """


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one evaluation may use, in seconds of processor time."""

    compile_s: float
    ask_s: float

    @property
    def wall_s(self) -> float:
        """Seconds after which a process is stopped even if it got no processor: it may hang."""
        return 8 * (self.compile_s + self.ask_s)
