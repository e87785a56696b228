"""Measures one call to a model, and reports it to books, metrics and trace."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING

from orchestrator.books.usage_records import UsageRecord
from orchestrator.core.context import CallContext
from orchestrator.core.costs import Cost, Outcome
from orchestrator.core.errors import (
    GatewayError,
    ModelUnavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartFinished,
    Usage,
)
from orchestrator.core.ids import new_id
from orchestrator.core.messages import Part
from orchestrator.core.request import EmbeddingRequest, GenerationRequest
from orchestrator.keys.principal import Principal
from orchestrator.telemetry import names
from orchestrator.telemetry.calls import Call, Stage, call_at_work
from orchestrator.telemetry.content import input_messages, output_messages
from orchestrator.telemetry.instruments import Series
from orchestrator.telemetry.process import Telemetry

if TYPE_CHECKING:
    from orchestrator.telemetry.calls import Value

_OPERATIONS = {
    "embeddings": "embeddings",
    "gemini_embeddings": "embeddings",
    "gemini": "generate_content",
    "completions": "text_completion",
}
"""`gen_ai.operation.name` by dialect; for all others it is `chat`."""
_UPSTREAM = (UpstreamFailed, UpstreamTimeout, ModelUnavailable)


class Meter:
    """Measures one call: created when it arrives, `start`ed with its engine, ended exactly once.

    A call outside an HTTP request, such as one of a session or a background run, gets a trace of
    its own.
    """

    def __init__(
        self, telemetry: Telemetry, principal: Principal, model: str, context: CallContext
    ) -> None:
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self._principal = principal
        self._asked_model = model
        self._model = ""
        self._context = context
        self._operation = _OPERATIONS.get(context.dialect, "chat")
        self._own: Token[Call | None] | None = None
        self._active: Series | None = None
        self._waiting: Series | None = None
        call = call_at_work()
        if call is None or call.is_over or call.is_session:
            call = Call(context.request_id, context.engine_id) if call is None else call.child()
            self._own = telemetry.begin(call, self._name)
        self.call = call
        self._engine: Stage | None = None
        self._stream: Stage | None = None
        self._at = time.time()
        self._record_id = new_id("use")
        self._began_at = time.perf_counter()
        self._first_s: float | None = None
        self._duration_s: float | None = None
        self._reasons: list[str] = []
        self._parts: list[Part] = []

    @property
    def _name(self) -> str:
        return f"{self._operation} {self._model or self._asked_model}"

    def start(self, model: str, request: GenerationRequest | EmbeddingRequest) -> None:
        """Starts the engine's measurements. `model` is the id in the catalogue."""
        self._model = model
        self._active = active = self._metrics.active.series(model)
        active.value += 1
        if self._operation != "embeddings":
            self._waiting = waiting = self._metrics.waiting.series(model)
            waiting.value += 1
        self._engine = self.call.engine_stage(f"{self._operation} {model}")
        if self.call.sampled:
            self._engine.attributes = _attributes(self._operation, model, request)
            if self._keeps_content and isinstance(request, GenerationRequest):
                self._engine.attributes[names.INPUT_MESSAGES] = input_messages(request.prompt)

    def limits(self, headers: Mapping[str, str]) -> None:
        """Records the caller's limits from the `headers` of the reply."""
        caller = self._principal
        self._metrics.keys.limits(caller.tenant_id, caller.key_id, caller.key_label, headers)

    def reserved(self, model: str, tokens: int) -> None:
        """Records that `tokens` were reserved before the work."""
        self._metrics.reserved.add(tokens, model)

    def first_token(self, *, alone: bool = True) -> None:
        """Records the first token. `alone` is false if all tokens came together at the end."""
        if self._waiting is not None:
            self._wait_no_more(self._waiting)
        if alone:
            self._first(time.perf_counter() - self._began_at)
            if self._engine is not None:
                self._engine.event(names.EVENT_FIRST_TOKEN)
        self._stream = self.call.stage(names.STREAM)

    def _first(self, first_s: float) -> None:
        self._first_s = first_s
        self._metrics.first(self.call, self._operation, self._model, first_s)
        if self._engine is not None:
            self._engine.note(names.TIME_TO_FIRST_CHUNK, first_s)

    def finished(self, event: GenerationFinished) -> None:
        """Records that the engine's answer is complete. The reader gets the end next."""
        self.call.timings = event.timings
        self._metrics.phases(self._model, event.timings)
        if self._engine is not None:
            self._engine.event(names.EVENT_END)
            self._engine.end()
        if self._first_s is None and event.timings:
            # The first token was not seen alone; the engine reports its time.
            first_at = min(one.first_token_at_ns for one in event.timings) / 1e9
            self._first(max(0.0, first_at - self._at))
        if self._first_s is not None:
            decode_s = time.perf_counter() - self._began_at - self._first_s
            tokens = event.usage.completion_tokens
            self._metrics.paced(self.call, self._operation, self._model, decode_s, tokens)

    def stop(self, error: str = "") -> None:
        """Stops the latency clock: everything after this is settlement. Idempotent."""
        if self._duration_s is not None:
            return
        self._duration_s = time.perf_counter() - self._began_at
        if self._active is None:
            return
        if self._waiting is not None:
            self._wait_no_more(self._waiting)
        self._active.value -= 1
        self._metrics.answered(self.call, self._operation, self._model, self._duration_s, error)
        if self._engine is not None:
            self._engine.end()
            self._engine.error = error

    def failed(self, error: BaseException) -> None:
        """Stops the clock of a call that ended with `error`, and counts engine errors."""
        if isinstance(error, GatewayError):
            self.stop(error.code)
            if isinstance(error, _UPSTREAM) and self._model:
                self._metrics.upstream_errors.add(1, self._model, error.code)
        else:
            self.stop("cancelled" if not isinstance(error, Exception) else "internal_error")

    def settled(self, cost: Cost, outcome: Outcome) -> None:
        """Records the final cost of the call in the metrics."""
        if self._duration_s is None:
            self.stop()
        caller, model, usage = self._principal, self._model, cost.usage
        if model:
            self._metrics.settled(
                self._operation, model, usage, dialect=self._context.dialect, outcome=outcome
            )
            if cost.wasted_tokens:
                self._metrics.wasted.add(cost.wasted_tokens, model, outcome)
            if outcome == "cancelled":
                assert self._duration_s is not None
                since_s = time.perf_counter() - self._began_at - self._duration_s
                self._metrics.cancel_to_engine.record(since_s, model)
        tokens = (usage.prompt_tokens, usage.completion_tokens)
        keys = self._metrics.keys
        keys.ended(caller.tenant_id, caller.key_id, caller.key_label, outcome, tokens)

    def ended(self, usage: Usage, outcome: Outcome) -> None:
        """Ends the spans when the reader has finished, and sends those that this meter owns."""
        if self._stream is not None:
            self._stream.end()
        if self._engine is not None and self.call.sampled:
            self._engine.attributes |= _result_attributes(usage, outcome)
        if self._own is not None:
            self._telemetry.finish(self.call, self._name, self._own)
            self._own = None

    def watch(self, events: Iterable[GenerationEvent]) -> None:
        """Copies what the trace needs from the `events` of a traced call."""
        assert self._engine is not None
        attributes = self._engine.attributes
        for event in events:
            match event:
                case GenerationStarted():
                    attributes[names.RESPONSE_ID] = event.id
                    attributes[names.RESPONSE_MODEL] = event.model
                case PartFinished() if self._keeps_content:
                    self._parts.append(event.part)
                case ChoiceFinished():
                    self._reasons.append(event.reason)
                    attributes[names.FINISH_REASONS] = tuple(self._reasons)
                    if self._parts:
                        told = output_messages(self._parts, event.reason)
                        attributes[names.OUTPUT_MESSAGES] = told

    def entry(self, route: str, cost: Cost, outcome: Outcome) -> UsageRecord:
        """The record for the books, with the same record id each time."""
        if self._duration_s is None:
            self.stop()
        assert self._duration_s is not None
        usage = cost.usage
        return UsageRecord(
            request_id=self._context.request_id,
            at=self._at,
            tenant_id=self._principal.tenant_id,
            key_id=self._principal.key_id,
            model=self._asked_model,
            route=route,
            dialect=self._context.dialect,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            first_token_s=self._first_s,
            duration_s=self._duration_s,
            outcome=outcome,
            record_id=self._record_id,
            wasted_tokens=cost.wasted_tokens,
        )

    @property
    def _keeps_content(self) -> bool:
        return self._principal.key_id in self._telemetry.content_keys

    def _wait_no_more(self, waiting: Series) -> None:
        self._waiting = None
        waiting.value -= 1


def _attributes(
    operation: str, model: str, request: GenerationRequest | EmbeddingRequest
) -> dict[str, Value]:
    """The span attributes of a request: only what the caller set, and no text."""
    attributes: dict[str, Value] = {
        names.OPERATION: operation,
        names.PROVIDER_NAME: names.PROVIDER,
        names.REQUEST_MODEL: model,
    }
    if isinstance(request, EmbeddingRequest):
        return attributes
    sampling = request.sampling
    asked = {
        names.REQUEST_MAX_TOKENS: request.max_tokens,
        names.REQUEST_TEMPERATURE: sampling.temperature,
        names.REQUEST_TOP_P: sampling.top_p,
        names.REQUEST_TOP_K: sampling.top_k,
        names.REQUEST_SEED: sampling.seed,
        names.REQUEST_FREQUENCY_PENALTY: sampling.frequency_penalty,
        names.REQUEST_PRESENCE_PENALTY: sampling.presence_penalty,
        names.REQUEST_CHOICES: request.n if request.n > 1 else None,
    }
    attributes |= {name: value for name, value in asked.items() if value is not None}
    return attributes


def _result_attributes(usage: Usage, outcome: Outcome) -> dict[str, Value]:
    attributes: dict[str, Value] = {
        names.OUTCOME: outcome,
        names.INPUT_TOKENS: usage.prompt_tokens,
        names.OUTPUT_TOKENS: usage.completion_tokens,
        names.CACHED_TOKENS: usage.cached_tokens,
    }
    if usage.reasoning_tokens:
        attributes[names.REASONING_TOKENS] = usage.reasoning_tokens
    return attributes


class Refusals:
    """Context manager: reports an error to the meters of calls whose engine was not asked yet."""

    __slots__ = ("_meters",)

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = meters

    def __enter__(self) -> None:
        """Does nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is not None:
            for meter in self._meters:
                meter.failed(error)
                meter.ended(Usage(0, 0), "failed")
