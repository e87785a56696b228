"""The way of one request, read from top to bottom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.backends.protocol import NO_LIMITS, Prepared
from orchestrator.books.usage_records import Books
from orchestrator.core.context import CallContext
from orchestrator.core.costs import Outcome, cost_of_vectors
from orchestrator.core.errors import ContextLengthExceeded, GatewayError, UpstreamFailed
from orchestrator.core.events import GenerationEvent
from orchestrator.core.limits import Bucket
from orchestrator.core.request import EmbeddingRequest, GenerationRequest, SamplingParams
from orchestrator.keys.principal import Principal
from orchestrator.models.hosted import Deployment, Deployments
from orchestrator.pipeline.call_meter import Meter
from orchestrator.pipeline.explain import Explainer
from orchestrator.pipeline.gate import MAX_REMEMBERED, Admitted, Asked, Gate, unknown_model
from orchestrator.pipeline.generation import Account, Generation
from orchestrator.pipeline.routing import Route, Router
from orchestrator.policy import PolicyEngine
from orchestrator.quota import Admission, Caller, Quota
from orchestrator.telemetry import names
from orchestrator.telemetry.process import Telemetry

logger = logging.getLogger(__name__)

T = TypeVar("T")


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


class Gateway:
    """Policy, route, quota, backend; everything that can fail fails before the first event."""

    def __init__(
        self,
        deployments: Deployments,
        policy: PolicyEngine,
        router: Router,
        quota: Quota,
        books: Books,
        telemetry: Telemetry | None = None,
        most_remembered: int = MAX_REMEMBERED,
    ) -> None:
        """`most_remembered` keys keep what follows from them between requests."""
        self._telemetry = telemetry or Telemetry()
        self._deployments = deployments
        self._gate = Gate(deployments, policy, router, most_remembered)
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

    def defaults(self, name: str) -> SamplingParams:
        """What the model of that id or alias draws by where a caller says nothing, if known."""
        deployment = self._deployments.find(name)
        served = None if deployment is None else deployment.served
        return SamplingParams() if served is None else served.defaults

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
        self,
        principal: Principal,
        request: GenerationRequest,
        context: CallContext,
        shorten: Callable[[], GenerationRequest | None] | None = None,
    ) -> Generation:
        """A started generation. Raises: GatewayError, from 403 to 504, before any event.

        Where the prompt is too long, `shorten` gives the request to try instead, of the same model
        and by the same place in the minute, or `None`.
        """
        meter = Meter(self._telemetry, principal, request.model, context)
        with meter:
            admitted = await self._gate.admit(principal, _asked(request, "generate", context))
            route = admitted.route
            admission = await self._admit(admitted, meter)
            preparing = _prepare(principal, admitted, admission, request, shorten)
            prepared = await self._prepared(preparing, admission, meter)
            await self._reserve(admission, prepared.most_tokens, meter, route)
        account = self._start(route, prepared, admission, meter, context)
        try:
            first = await _first(account)
        except BaseException as error:
            meter.failed(error)
            await account.close(_outcome(error, context))
            _tell_limits(error, admission)
            raise
        return _begun(route, admission, account, first)

    async def generate_all(
        self,
        principal: Principal,
        requests: Sequence[GenerationRequest],
        context: CallContext,
    ) -> Sequence[Generation]:
        """A started generation for each of `requests`, which name the same model.

        They count as so many requests, and their limits are taken in one step for all of them.
        Either all begin or none goes on. Raises: GatewayError, from 403 to 504, before any event.
        """
        if len(requests) == 1:
            return [await self.generate(principal, requests[0], context)]
        meters = [Meter(self._telemetry, principal, one.model, context) for one in requests]
        with ExitStack() as stack:
            for meter in meters:
                stack.enter_context(meter)
            admitted = await self._gate.admit(principal, _asked(requests[0], "generate", context))
            route = admitted.route
            admission = await self._admit(admitted, meters[0], len(requests))
            preparing = _together(
                [_prepare(principal, admitted, admission, request) for request in requests]
            )
            prepared = await self._prepared(preparing, admission, meters[0])
            costs = [one.most_tokens for one in prepared]
            await self._reserve(admission, sum(costs), meters[0], route)
        admissions = admission.split(costs)
        accounts = [
            self._start(route, *each, context)
            for each in zip(prepared, admissions, meters, strict=True)
        ]
        try:
            firsts = await _together([_first(account) for account in accounts])
        except BaseException as error:
            for account in accounts:
                account.meter.failed(error)
                await account.close(_outcome(error, context))
            _tell_limits(error, admissions[-1])
            raise
        return [_begun(route, *each) for each in zip(admissions, accounts, firsts, strict=True)]

    def _start(
        self,
        route: Route,
        prepared: Prepared,
        admission: Admission,
        meter: Meter,
        context: CallContext,
    ) -> Account:
        """Asks the engine."""
        meter.start(route.served.model.id, prepared.request)
        run = route.backend.generate(prepared, context.engine_id)
        whole = prepared.request.whole
        return Account(run, route, admission, meter, self._books, self._own, whole=whole)

    async def embed(
        self, principal: Principal, request: EmbeddingRequest, context: CallContext
    ) -> Embeddings:
        """The vectors of `request`. Raises: GatewayError."""
        meter = Meter(self._telemetry, principal, request.model, context)
        with meter:
            admitted = await self._gate.admit(principal, _asked(request, "embed", context))
            route = admitted.route
            admission = await self._admit(admitted, meter)
            preparing = route.backend.prepare_embedding(
                route.served, request, principal.tenant_id, admission
            )
            batch = await self._prepared(preparing, admission, meter)
            await self._reserve(admission, batch.prompt_tokens, meter, route)
        meter.start(route.served.model.id, request)
        outcome: Outcome = "ok"
        answered: list[int] = []
        try:
            vectors = await route.backend.embed(batch, context.engine_id, answered.append)
        except BaseException as error:
            outcome = _outcome(error, context)
            meter.failed(error)
            _tell_limits(error, admission)
            raise
        finally:
            cost = cost_of_vectors(batch.prompt_tokens, outcome, answered=sum(answered))
            try:
                self._books.record(meter.entry(route.backend.name, cost, outcome))
            finally:
                meter.ended(cost.usage, outcome)
                await admission.settle(cost.usage.total_tokens)
                meter.settled(cost, outcome)
        headers = _headers(route, admission)
        meter.limits(headers)
        return Embeddings(request.model, vectors, batch.prompt_tokens, headers)

    async def check_limits(self, principal: Principal, bucket: Bucket = "chat") -> None:
        """Whether the limits of key and tenant have room, before more is known of the request.

        Spends nothing. Raises: RateLimited, QuotaUnavailable.
        """
        caller = Caller(
            principal.key_id, principal.tenant_id, principal.limits, principal.tenant_limits
        )
        refusal = (await self._quota.outlook(caller, bucket, 1)).refusal
        if refusal is not None:
            raise refusal

    async def check_counts(self, principal: Principal) -> None:
        """The same for calls that only count tokens. Raises: RateLimited, QuotaUnavailable."""
        await self.check_limits(principal, "count")

    async def count(
        self, principal: Principal, request: GenerationRequest, context: CallContext
    ) -> int:
        """How many tokens the prompt of `request` has. Costs no tokens. Raises: GatewayError."""
        return len(await self.tokenize(principal, request, context))

    async def tokenize(
        self, principal: Principal, request: GenerationRequest, context: CallContext
    ) -> Sequence[int]:
        """The token ids that the engine would get for `request`. Raises: GatewayError."""
        route, admission = await self._counting(principal, _asked(request, "generate", context))
        owner = principal.tenant_id
        tokens = route.backend.tokens(
            route.served, request.prompt, request.reasoning, owner, admission
        )
        return await _counted(tokens, admission)

    async def recount(
        self, principal: Principal, request: GenerationRequest, context: CallContext
    ) -> int:
        """`count` of a shorter form of what was counted before, by the same place in the minute."""
        admitted = await self._gate.admit(principal, _asked(request, "generate", context))
        route, owner = admitted.route, principal.tenant_id
        tokens = route.backend.tokens(
            route.served, request.prompt, request.reasoning, owner, NO_LIMITS
        )
        return len(await tokens)

    async def detokenize(
        self, principal: Principal, model: str, token_ids: Sequence[int], context: CallContext
    ) -> str:
        """The text of `token_ids`, special tokens included. Raises: GatewayError."""
        asked = Asked(model, "generate", "local-only", context.client_ip)
        route, admission = await self._counting(principal, asked)
        owner = principal.tenant_id
        return await _counted(
            route.backend.text(route.served, token_ids, owner, admission), admission
        )

    async def prompt_text(
        self, principal: Principal, model: str, token_ids: Sequence[int], context: CallContext
    ) -> str:
        """`detokenize` for the prompt of a generation that has begun; nothing is counted again."""
        asked = Asked(model, "generate", "local-only", context.client_ip)
        route = (await self._gate.admit(principal, asked)).route
        return await route.backend.text(route.served, token_ids, principal.tenant_id, NO_LIMITS)

    async def token_texts(
        self, principal: Principal, model: str, token_ids: Sequence[int], context: CallContext
    ) -> Sequence[str]:
        r"""The text of each of `token_ids`, bytes that are no character written as `\xff`.

        They are those that `tokenize` has returned; nothing is counted again.
        """
        asked = Asked(model, "generate", "local-only", context.client_ip)
        renderer = (await self._gate.admit(principal, asked)).route.served.renderer
        return [renderer.token_bytes(one).decode("utf-8", "backslashreplace") for one in token_ids]

    async def _counting(self, principal: Principal, asked: Asked) -> tuple[Route, Admission]:
        """The way of a call that only counts tokens; it has its place in their minute."""
        admitted = await self._gate.admit(principal, asked)
        return admitted.route, await self._quota.admit(admitted.caller, "count")

    async def close(self) -> None:
        """Waits until everything that ended is settled."""
        while self._settling:
            await asyncio.wait(self._settling)

    async def _admit(self, admitted: Admitted, meter: Meter, requests: int = 1) -> Admission:
        """Counts the call as `requests`, all or none of them.

        Raises: RateLimited, QuotaUnavailable, StoreUnavailable.
        """
        self._books.check()
        with meter.call.stage(names.QUOTA):
            return await self._quota.admit(admitted.caller, "chat", requests)

    async def _prepared(
        self, preparing: Coroutine[None, None, T], admission: Admission, meter: Meter
    ) -> T:
        """The request in tokens; where that fails it has ended. Raises: GatewayError."""
        try:
            with meter.call.stage(names.RENDER):
                return await preparing
        except BaseException as error:
            await admission.cancel()
            _tell_limits(error, admission)
            raise

    async def _reserve(self, admission: Admission, tokens: int, meter: Meter, route: Route) -> None:
        """Takes the most that the request can cost. Raises: RateLimited, QuotaUnavailable."""
        with meter.call.stage(names.QUOTA) as stage:
            await admission.reserve(tokens)
            stage.note(names.RESERVED_TOKENS, tokens)
        meter.reserved(route.served.model.id, tokens)

    def _own(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)


def _asked(request: GenerationRequest | EmbeddingRequest, task: str, context: CallContext) -> Asked:
    return Asked(request.model, task, request.route_hint, context.client_ip)


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


async def _prepare(
    principal: Principal,
    admitted: Admitted,
    admission: Admission,
    request: GenerationRequest,
    shorten: Callable[[], GenerationRequest | None] | None = None,
) -> Prepared:
    """The request in tokens, or the first that is short enough. Raises: GatewayError."""
    route = admitted.route
    while True:
        try:
            return await route.backend.prepare(
                route.served, request, principal.tenant_id, admitted.cache_tenants, admission
            )
        except ContextLengthExceeded:
            shorter = None if shorten is None else shorten()
            if shorter is None:
                raise
            request = shorter


async def _together(work: Sequence[Coroutine[None, None, T]]) -> list[T]:
    """What each of `work` returns. The first error ends the others, and is raised after that."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _first(account: Account) -> list[GenerationEvent]:
    """The first events of a generation. Raises: GatewayError."""
    first = await account.run.next()
    if not first:
        raise UpstreamFailed("The engine gave no answer.")
    return first


def _outcome(error: BaseException, context: CallContext) -> Outcome:
    """How a call ended that `error` has ended: a cancellation is the client's unless we did it."""
    return "failed" if isinstance(error, Exception) or context.at_fault() else "cancelled"


def _begun(
    route: Route, admission: Admission, account: Account, first: list[GenerationEvent]
) -> Generation:
    account.meter.first_token(alone=account.run.is_streamed)
    headers = _headers(route, admission)
    account.meter.limits(headers)
    return Generation(first, headers, account)


async def _counted(work: Coroutine[None, None, T], admission: Admission) -> T:
    """What `work` returns; the place in the minute stays used if it was done."""
    try:
        return await work
    finally:
        await admission.cancel()


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
