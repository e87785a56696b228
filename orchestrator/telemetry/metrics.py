"""What one process counts of requests and of itself."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator import __version__
from orchestrator.core.events import EngineTimings, Usage
from orchestrator.telemetry import specs
from orchestrator.telemetry.calls import Call, engine_phases
from orchestrator.telemetry.instruments import Observed, Registry, Series
from orchestrator.telemetry.key_use import KeyUse
from orchestrator.telemetry.names import PROVIDER


class Metrics:
    """Only the event loop of its process may call it."""

    def __init__(self, *, most_keys: int = 0) -> None:
        self.registry = registry = Registry()
        self.http_duration = registry.histogram(specs.HTTP_DURATION)
        self.http_active = registry.gauge(specs.HTTP_ACTIVE)
        self.refusals = registry.counter(specs.REFUSALS)
        self.active = registry.gauge(specs.ACTIVE)
        self.waiting = registry.gauge(specs.WAITING)
        self.reserved = registry.counter(specs.RESERVED)
        self.wasted = registry.counter(specs.WASTED)
        self.upstream_errors = registry.counter(specs.UPSTREAM_ERRORS)
        self.cancel_to_engine = registry.histogram(specs.CANCEL_TO_ENGINE)
        self.loop_lag = registry.histogram(specs.LOOP_LAG)
        self._duration = registry.histogram(specs.DURATION)
        self._first_token = registry.histogram(specs.FIRST_TOKEN)
        self._per_token = registry.histogram(specs.PER_TOKEN)
        self._usage = registry.histogram(specs.TOKEN_USAGE)
        self._generations = registry.counter(specs.GENERATIONS)
        self._tokens = registry.counter(specs.TOKENS)
        self._phases = registry.histogram(specs.ENGINE_PHASE)
        self._prompt_tokens = registry.counter(specs.PROMPT_TOKENS)
        self._settled = registry.counter(specs.SETTLED)
        self._settlements: dict[tuple[str, str, str, str], _Settlement] = {}
        self.keys = KeyUse(registry, most_keys)
        _observe_process(registry)

    def first(self, call: Call, operation: str, model: str, first_s: float) -> None:
        """Records the time to the first token."""
        trace = call.trace if call.sampled else ""
        self._first_token.record(first_s, operation, PROVIDER, model, trace=trace)

    def answered(
        self, call: Call, operation: str, model: str, duration_s: float, error: str = ""
    ) -> None:
        """Records a call to a model that has ended for its reader."""
        trace = call.trace if call.sampled else ""
        self._duration.record(duration_s, operation, PROVIDER, model, error, trace=trace)

    def paced(
        self, call: Call, operation: str, model: str, decode_s: float, completion_tokens: int
    ) -> None:
        """Records an answer that took `decode_s` from its first token to its last."""
        if completion_tokens > 1:
            mean_s = decode_s / (completion_tokens - 1)
            trace = call.trace if call.sampled else ""
            self._per_token.record(mean_s, operation, PROVIDER, model, trace=trace)

    def phases(self, model: str, timings: tuple[EngineTimings, ...]) -> None:
        """Records the engine's own times of a call."""
        if timings:
            for phase, duration_ns in engine_phases(timings).items():
                self._phases.record(duration_ns / 1e9, model, phase)

    def settled(
        self, operation: str, model: str, usage: Usage, *, dialect: str, outcome: str
    ) -> None:
        """Records what a call used in the end."""
        known = self._settlements.get((operation, model, dialect, outcome))
        if known is None:
            known = self._settlement(operation, model, dialect, outcome)
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        known.generations.value += 1
        known.prompt.value += prompt
        known.settled.value += prompt + completion
        self._usage.record(prompt, operation, PROVIDER, model, "input")
        if operation != "embeddings":
            known.completion.value += completion
            known.cached.value += usage.cached_tokens
            known.uncached.value += max(0, prompt - usage.cached_tokens)
            self._usage.record(completion, operation, PROVIDER, model, "output")

    def _settlement(self, operation: str, model: str, dialect: str, outcome: str) -> _Settlement:
        """Returns the series in which such calls are counted, cached after the first look-up.

        There are as many as `GENERATIONS` has series, whose labels have fixed sets of values.
        """
        made = _Settlement(
            self._generations.series(model, dialect, outcome),
            self._tokens.series(model, "input", outcome),
            self._settled.series(model),
        )
        if operation != "embeddings":
            made.completion = self._tokens.series(model, "output", outcome)
            made.cached = self._prompt_tokens.series(model, "hit")
            made.uncached = self._prompt_tokens.series(model, "miss")
        self._settlements[operation, model, dialect, outcome] = made
        return made


@dataclass(slots=True)
class _Settlement:
    """The series for the end of one kind of call; those that embeddings lack are not reported."""

    generations: Series
    prompt: Series
    settled: Series
    completion: Series = field(default_factory=lambda: Series(()))
    cached: Series = field(default_factory=lambda: Series(()))
    uncached: Series = field(default_factory=lambda: Series(()))


def _observe_process(registry: Registry) -> None:
    began_at = time.time()
    registry.observe(specs.CPU_TIME, _cpu_s)
    registry.observe(specs.MEMORY, _memory_bytes)
    registry.observe(specs.OPEN_FILES, _open_files)
    registry.observe(specs.START_TIME, lambda: [((), began_at)])
    registry.observe(specs.BUILD_INFO, lambda: [((__version__,), 1.0)])


def _cpu_s() -> Observed:
    spent = os.times()
    return [((), spent.user + spent.system)]


def _memory_bytes() -> Observed:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return [((), float(pages * os.sysconf("SC_PAGE_SIZE")))]


def _open_files() -> Observed:
    return [((), float(sum(1 for _ in Path("/proc/self/fd").iterdir())))]
