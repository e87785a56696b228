"""The way of one request, read from top to bottom."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.auth import Principal
from orchestrator.backends import Run
from orchestrator.core.context import CallContext
from orchestrator.core.errors import GatewayError, UpstreamFailed
from orchestrator.core.events import GenerationEvent, GenerationFinished, Usage
from orchestrator.core.ids import new_id
from orchestrator.core.request import EmbeddingRequest, GenerationRequest
from orchestrator.deployments import Deployment, Deployments
from orchestrator.explain import Explainer
from orchestrator.gate import Asked, Gate, unknown_model
from orchestrator.metering import Books, Outcome, UsageRecord
from orchestrator.policy import PolicyEngine
from orchestrator.quota import Admission, Quota
from orchestrator.routing import Route, Router

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model as a caller may see it."""

    id: str
    created: int
    owned_by: str
    task: str
    ready: bool
    context_tokens: int


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Float32 little-endian vectors, one for each input, in their order."""

    model: str
    vectors: Sequence[memoryview]
    prompt_tokens: int
    headers: Mapping[str, str]


class Generation:
    """A generation whose first event is there already. Iterate it to its end, and close it."""

    def __init__(
        self,
        first: GenerationEvent,
        events: AsyncGenerator[GenerationEvent, None],
        headers: Mapping[str, str],
        before_end: Callable[[Outcome], None],
        on_end: Callable[[Outcome], None],
    ) -> None:
        """`before_end` is called before the reader can know of the end, `on_end` after it."""
        self.headers = headers
        self._first = first
        self._events = events
        self._before_end = before_end
        self._on_end = on_end
        self._outcome: Outcome = "cancelled"
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[GenerationEvent]:
        """The events from the first. Raises: GatewayError."""
        yield self._first
        try:
            async for event in self._events:
                if isinstance(event, GenerationFinished):
                    self._outcome = "ok"
                    self._before_end("ok")
                yield event
        except Exception:
            self._outcome = "failed"
            self._before_end("failed")
            raise

    async def aclose(self) -> None:
        """Stops the engine's side if it still runs; settles what it produced. Twice is once."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._events.aclose()
        finally:
            self._on_end(self._outcome)


class Gateway:
    """Policy, route, quota, backend; everything that can fail fails before the first event."""

    def __init__(
        self,
        deployments: Deployments,
        policy: PolicyEngine,
        router: Router,
        quota: Quota,
        books: Books,
    ) -> None:
        self._deployments = deployments
        self._gate = Gate(deployments, policy, router)
        self._quota = quota
        self._books = books
        self._settling: set[asyncio.Task[None]] = set()

    def explainer(self) -> Explainer:
        """What tells of calls before they are made, by the same gate, limits and books."""
        return Explainer(self._gate, self._quota, self._books)

    def models(self, principal: Principal) -> list[ModelEntry]:
        """What `principal` may name as a model, aliases too, whether it is loaded or not."""
        return [
            _entry(deployment, name)
            for deployment in self._deployments.all
            if _in_scope(principal, deployment)
            for name in (deployment.model.id, *deployment.model.aliases)
        ]

    def model(self, principal: Principal, name: str) -> ModelEntry:
        """The model of that id or alias, named as it was asked for. Raises: ModelNotFound."""
        deployment = self._deployments.find(name)
        if deployment is None or not _in_scope(principal, deployment):
            raise unknown_model(name)
        return _entry(deployment, name)

    async def check(self, principal: Principal, model: str, context: CallContext) -> None:
        """Whether a generation could begin now. Spends nothing. Raises: GatewayError."""
        asked = Asked(model, "generate", "local-only", context.client_ip)
        admitted = await self._gate.admit(principal, asked)
        self._books.check()
        refusal = (await self._quota.outlook(admitted.caller, "chat", 1)).refusal
        # Requests of this moment may have ended when the generation begins.
        if refusal is not None and (refusal.hit is None or refusal.hit.kind != "concurrency"):
            raise refusal

    async def generate(
        self, principal: Principal, request: GenerationRequest, context: CallContext
    ) -> Generation:
        """A started generation. Raises: GatewayError, from 403 to 504, before any event."""
        meter = Meter(principal, request.model, context)
        asked = Asked(request.model, "generate", request.route_hint, context.client_ip)
        admitted = await self._gate.admit(principal, asked)
        route = admitted.route
        self._books.check()
        admission = await self._quota.admit(admitted.caller, "chat")
        try:
            prepared = await route.backend.prepare(route.served, request)
        except BaseException as error:
            await admission.cancel()
            _tell_limits(error, admission)
            raise
        await admission.reserve(prepared.most_tokens)
        run = route.backend.generate(prepared, context.engine_id)
        events = run.events()

        def promise(outcome: Outcome) -> None:
            usage = _charged(run.so_far(), outcome)
            self._books.promise(meter.entry(route.backend.name, usage, outcome))

        def end(outcome: Outcome) -> None:
            try:
                promise(outcome)
            finally:
                self._own(self._settle(run, route, admission, meter, outcome))

        try:
            first = await anext(events, None)
            if first is None:
                raise UpstreamFailed("The engine gave no answer.")
        except BaseException as error:
            try:
                await events.aclose()
            finally:
                end("failed" if isinstance(error, Exception) else "cancelled")
            _tell_limits(error, admission)
            raise
        meter.first_token()
        return Generation(first, events, _headers(route, admission), promise, end)

    async def embed(
        self, principal: Principal, request: EmbeddingRequest, context: CallContext
    ) -> Embeddings:
        """The vectors of `request`. Raises: GatewayError."""
        meter = Meter(principal, request.model, context)
        asked = Asked(request.model, "embed", request.route_hint, context.client_ip)
        admitted = await self._gate.admit(principal, asked)
        route = admitted.route
        self._books.check()
        admission = await self._quota.admit(admitted.caller, "chat")
        try:
            batch = await route.backend.prepare_embedding(route.served, request)
        except BaseException as error:
            await admission.cancel()
            _tell_limits(error, admission)
            raise
        await admission.reserve(batch.prompt_tokens)
        outcome: Outcome = "cancelled"
        usage = Usage(0, 0)
        try:
            vectors = await route.backend.embed(batch, context.engine_id)
            outcome, usage = "ok", Usage(batch.prompt_tokens, 0)
        except Exception as error:
            outcome = "failed"
            _tell_limits(error, admission)
            raise
        finally:
            try:
                self._books.record(meter.entry(route.backend.name, usage, outcome))
            finally:
                await admission.settle(usage.total_tokens)
        headers = _headers(route, admission)
        return Embeddings(request.model, vectors, batch.prompt_tokens, headers)

    async def count(
        self, principal: Principal, request: GenerationRequest, context: CallContext
    ) -> int:
        """How many tokens the prompt of `request` has. Costs nothing. Raises: GatewayError."""
        return len(await self.tokenize(principal, request, context))

    async def tokenize(
        self, principal: Principal, request: GenerationRequest, context: CallContext
    ) -> Sequence[int]:
        """The token ids that the engine would get for `request`. Raises: GatewayError."""
        asked = Asked(request.model, "generate", request.route_hint, context.client_ip)
        admitted = await self._gate.admit(principal, asked)
        served = admitted.route.served
        return await served.renderer.arender(request.prompt)

    async def detokenize(
        self, principal: Principal, model: str, token_ids: Sequence[int], context: CallContext
    ) -> str:
        """The text of `token_ids`, special tokens included. Raises: GatewayError."""
        asked = Asked(model, "generate", "local-only", context.client_ip)
        renderer = (await self._gate.admit(principal, asked)).route.served.renderer
        renderer.check_ids(token_ids, param="tokens")
        return renderer.decode(token_ids)

    async def close(self) -> None:
        """Waits until everything that ended is settled."""
        while self._settling:
            await asyncio.wait(self._settling)

    async def _settle(
        self, run: Run, route: Route, admission: Admission, meter: Meter, outcome: Outcome
    ) -> None:
        """Charges what the engine produced, once its side has ended."""
        usage = _charged(await run.produced(), outcome)
        # The books first: they are always there, a quota may be out of reach.
        try:
            self._books.record(meter.entry(route.backend.name, usage, outcome))
        finally:
            await admission.settle(usage.total_tokens)

    def _own(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a request could not be settled", exc_info=error)


class Meter:
    """The clock of one request."""

    def __init__(self, principal: Principal, model: str, context: CallContext) -> None:
        self._principal = principal
        self._model = model
        self._context = context
        self._at = time.time()
        self._record_id = new_id("use")
        self._began_at = time.perf_counter()
        self._first_s: float | None = None
        self._duration_s: float | None = None

    def first_token(self) -> None:
        """The first token has come."""
        self._first_s = time.perf_counter() - self._began_at

    def stop(self) -> None:
        """The reader has what it gets; what follows is not its time. Twice is once."""
        if self._duration_s is None:
            self._duration_s = time.perf_counter() - self._began_at

    def entry(self, route: str, usage: Usage, outcome: Outcome) -> UsageRecord:
        """The record for the books, always of the same id."""
        self.stop()
        assert self._duration_s is not None
        return UsageRecord(
            request_id=self._context.request_id,
            at=self._at,
            tenant_id=self._principal.tenant_id,
            key_id=self._principal.key_id,
            model=self._model,
            route=route,
            dialect=self._context.dialect,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            first_token_s=self._first_s,
            duration_s=self._duration_s,
            outcome=outcome,
            record_id=self._record_id,
        )


def _charged(produced: Usage, outcome: Outcome) -> Usage:
    """What a request costs: nothing when it failed before the engine had produced anything."""
    if produced.completion_tokens == 0 and outcome == "failed":
        return Usage(0, 0)
    return produced


def _in_scope(principal: Principal, deployment: Deployment) -> bool:
    """Whether the key names the model, by its id or by one of its aliases, or names all."""
    allowed = principal.allowed_models
    model = deployment.model
    return "*" in allowed or model.id in allowed or any(name in allowed for name in model.aliases)


def _entry(deployment: Deployment, name: str) -> ModelEntry:
    model = deployment.model
    return ModelEntry(
        id=name,
        created=model.created,
        owned_by=model.owned_by,
        task=model.task,
        ready=deployment.ready,
        context_tokens=model.context_tokens,
    )


def _tell_limits(error: BaseException, admission: Admission) -> None:
    """A reply that fails after the request was counted tells the limits too."""
    if isinstance(error, GatewayError):
        error.headers = admission.headers


def _headers(route: Route, admission: Admission) -> dict[str, str]:
    return {
        "x-op-route": route.backend.name,
        "x-op-model": route.served.model.id,
        **({"x-op-route-reason": route.reason} if route.reason else {}),
        **admission.headers,
    }
