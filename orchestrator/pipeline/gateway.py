"""The pipeline: every step of one request, from policy to backend."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from orchestrator.backends.protocol import (
    NO_LIMITS,
    EmbeddingRun,
    GenerationRun,
    Prepared,
    Request,
    Run,
    TokenizingBackend,
)
from orchestrator.books.usage_records import Books
from orchestrator.core.context import CallContext
from orchestrator.core.costs import Outcome
from orchestrator.core.errors import (
    ContextLengthExceeded,
    GatewayError,
    InvalidRequest,
    UpstreamFailed,
)
from orchestrator.core.events import GenerationEvent
from orchestrator.core.limits import Bucket
from orchestrator.core.request import EmbeddingRequest, GenerationRequest, SamplingParams
from orchestrator.keys.principal import Principal
from orchestrator.models.hosted import Deployment, Deployments
from orchestrator.pipeline.account import Account
from orchestrator.pipeline.call_meter import Meter, Refusals
from orchestrator.pipeline.gate import Admitted, Asked, Gate, unknown_model
from orchestrator.pipeline.generation import Generation
from orchestrator.pipeline.routing import Route
from orchestrator.pipeline.tasks import EMBED, GENERATE, Task
from orchestrator.quota import Admission, Caller, Quota
from orchestrator.telemetry import names
from orchestrator.telemetry.process import Telemetry

logger = logging.getLogger(__name__)

T = TypeVar("T")
Q = TypeVar("Q", GenerationRequest, EmbeddingRequest)
R = TypeVar("R", bound=Run)


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
    """Runs requests through policy, route, quota and backend.

    Refusals are raised before the first event.
    """

    def __init__(
        self,
        gate: Gate,
        deployments: Deployments,
        quota: Quota,
        books: Books,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or Telemetry()
        self._deployments = deployments
        self._gate = gate
        self._quota = quota
        self._books = books
        self._settling: set[asyncio.Task[None]] = set()

    def models(self, principal: Principal) -> list[ModelEntry]:
        """The models that `principal` may use, with their aliases, loaded or not."""
        return [
            _entry(deployment, name)
            for deployment in self._deployments.all
            if _in_scope(principal, deployment)
            for name in (deployment.model.id, *deployment.model.aliases)
        ]

    def model(self, principal: Principal, name: str) -> ModelEntry:
        """The model with id or alias `name`, under that name. Raises: ModelNotFound."""
        deployment = self._deployments.find(name)
        if deployment is None or not _in_scope(principal, deployment):
            raise unknown_model(name)
        return _entry(deployment, name)

    def defaults(self, name: str) -> SamplingParams:
        """The model's own sampling parameters, which apply where the caller sets none."""
        deployment = self._deployments.find(name)
        return SamplingParams() if deployment is None else deployment.defaults

    async def check(self, principal: Principal, model: str, context: CallContext) -> None:
        """Checks that a generation could start now. Uses no budget. Raises: GatewayError."""
        asked = Asked(model, GENERATE.name, "local-only", context.client_ip)
        admitted = await self._gate.admit(principal, asked)
        self._books.check()
        refusal = (await self._quota.outlook(admitted.caller, GENERATE.bucket, 1)).refusal
        # The concurrent requests of now may have finished when the generation starts.
        if refusal is not None and (refusal.hit is None or refusal.hit.kind != "concurrency"):
            raise refusal

    async def generate(
        self,
        principal: Principal,
        request: GenerationRequest,
        context: CallContext,
        shorten: Callable[[], GenerationRequest | None] | None = None,
    ) -> Generation:
        """Starts a generation. Raises: GatewayError, from 403 to 504, before any event.

        If the prompt is too long, `shorten` returns a shorter request for the same model, or
        `None`. The shorter request is not counted again.
        """
        prepare = partial(_prepare, shorten=shorten)
        accounts = await self._start(GENERATE, principal, [request], context, prepare)
        (first,) = await _answers(accounts, [_first(accounts[0])], context)
        return _begun(accounts[0], first)

    async def generate_all(
        self,
        principal: Principal,
        requests: Sequence[GenerationRequest],
        context: CallContext,
    ) -> Sequence[Generation]:
        """Starts a generation for each of `requests`, which name the same model.

        Each counts as one request, but all are checked against the limits in one step. Either all
        start or none does. Raises: GatewayError, from 403 to 504, before any event.
        """
        accounts = await self._start(GENERATE, principal, requests, context, _prepare)
        firsts = await _answers(accounts, [_first(one) for one in accounts], context)
        return [_begun(*each) for each in zip(accounts, firsts, strict=True)]

    async def embed(
        self, principal: Principal, request: EmbeddingRequest, context: CallContext
    ) -> Embeddings:
        """The vectors of `request`. Raises: GatewayError."""
        accounts = await self._start(EMBED, principal, [request], context, _prepare_embedding)
        account = accounts[0]
        (vectors,) = await _answers(accounts, [account.run.vectors()], context)
        tokens = account.cost("ok").usage.prompt_tokens
        await account.close("ok")
        return Embeddings(request.model, vectors, tokens, account.headers())

    async def _start(
        self,
        task: Task,
        principal: Principal,
        requests: Sequence[Q],
        context: CallContext,
        prepare: Callable[[Admitted, Admission, Q], Coroutine[None, None, Prepared[R]]],
    ) -> list[Account[R]]:
        """Starts `requests` for one model, all of them or none. Raises: GatewayError.

        The steps of every task: admit, count, prepare, reserve, start. The caller must close the
        accounts that it returns.
        """
        meters = [Meter(self._telemetry, principal, one.model, context) for one in requests]
        with Refusals(meters):
            admitted = await self._gate.admit(principal, _asked(requests[0], task, context))
            admission = await self._admit(admitted, task.bucket, meters[0], len(requests))
            preparing = _together([prepare(admitted, admission, one) for one in requests])
            prepared = await self._prepared(preparing, admission, meters[0])
            costs = [one.most_tokens for one in prepared]
            await self._reserve(admission, sum(costs), meters[0], admitted.route)
        parts = [admission] if len(requests) == 1 else admission.split(costs)
        return [
            self._account(admitted.route, *each, context)
            for each in zip(prepared, parts, meters, strict=True)
        ]

    def _account(
        self,
        route: Route,
        prepared: Prepared[R],
        admission: Admission,
        meter: Meter,
        context: CallContext,
    ) -> Account[R]:
        """Sends one request to the engine."""
        request = prepared.request
        meter.start(route.model.id, request)
        run = prepared.start(context.engine_id)
        whole = isinstance(request, GenerationRequest) and request.whole
        return Account(run, route, admission, meter, self._books, self._own, whole=whole)

    async def check_limits(self, principal: Principal, bucket: Bucket = "chat") -> None:
        """Checks that key and tenant are within their limits, before the request is read.

        Uses no budget. Raises: RateLimited, QuotaUnavailable.
        """
        caller = Caller(
            principal.key_id, principal.tenant_id, principal.limits, principal.tenant_limits
        )
        refusal = (await self._quota.outlook(caller, bucket, 1)).refusal
        if refusal is not None:
            raise refusal

    async def check_counts(self, principal: Principal) -> None:
        """`check_limits` for calls that only count. Raises: RateLimited, QuotaUnavailable."""
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
        route, admission = await self._counting(principal, _asked(request, GENERATE, context))
        owner = principal.tenant_id
        tokens = _tokenizing(route).tokens(
            route.model, request.prompt, request.reasoning, owner, admission
        )
        return await _counted(tokens, admission)

    async def recount(
        self, principal: Principal, request: GenerationRequest, context: CallContext
    ) -> int:
        """`count` for a shorter form of a request that was counted before; not counted again."""
        admitted = await self._gate.admit(principal, _asked(request, GENERATE, context))
        route, owner = admitted.route, principal.tenant_id
        tokens = _tokenizing(route).tokens(
            route.model, request.prompt, request.reasoning, owner, NO_LIMITS
        )
        return len(await tokens)

    async def detokenize(
        self, principal: Principal, model: str, token_ids: Sequence[int], context: CallContext
    ) -> str:
        """The text of `token_ids`, special tokens included. Raises: GatewayError."""
        asked = Asked(model, GENERATE.name, "local-only", context.client_ip)
        route, admission = await self._counting(principal, asked)
        owner = principal.tenant_id
        return await _counted(
            _tokenizing(route).text(route.model, token_ids, owner, admission), admission
        )

    async def prompt_text(
        self, principal: Principal, model: str, token_ids: Sequence[int], context: CallContext
    ) -> str:
        """`detokenize` for the prompt of a started generation; not counted again."""
        asked = Asked(model, GENERATE.name, "local-only", context.client_ip)
        route = (await self._gate.admit(principal, asked)).route
        return await _tokenizing(route).text(route.model, token_ids, principal.tenant_id, NO_LIMITS)

    async def token_texts(
        self, principal: Principal, model: str, token_ids: Sequence[int], context: CallContext
    ) -> Sequence[str]:
        r"""The text of each of `token_ids`; bytes that form no character become `\xff`.

        For ids that `tokenize` has returned; not counted again.
        """
        asked = Asked(model, GENERATE.name, "local-only", context.client_ip)
        route = (await self._gate.admit(principal, asked)).route
        return _tokenizing(route).token_texts(route.model, token_ids)

    async def _counting(self, principal: Principal, asked: Asked) -> tuple[Route, Admission]:
        """Admits a call that only counts tokens, and counts it in the bucket `count`."""
        admitted = await self._gate.admit(principal, asked)
        return admitted.route, await self._quota.admit(admitted.caller, "count")

    async def close(self) -> None:
        """Waits until all finished runs are settled."""
        while self._settling:
            await asyncio.wait(self._settling)

    async def _admit(
        self, admitted: Admitted, bucket: Bucket, meter: Meter, requests: int
    ) -> Admission:
        """Counts the call as `requests`, all or none of them.

        Raises: RateLimited, QuotaUnavailable, StoreUnavailable.
        """
        self._books.check()
        with meter.call.stage(names.QUOTA):
            return await self._quota.admit(admitted.caller, bucket, requests)

    async def _prepared(
        self, preparing: Coroutine[None, None, T], admission: Admission, meter: Meter
    ) -> T:
        """Awaits `preparing`; if it fails, cancels the admission. Raises: GatewayError."""
        try:
            with meter.call.stage(names.RENDER):
                return await preparing
        except BaseException as error:
            await admission.cancel()
            _tell_limits(error, admission)
            raise

    async def _reserve(self, admission: Admission, tokens: int, meter: Meter, route: Route) -> None:
        """Reserves the max cost of the request. Raises: RateLimited, QuotaUnavailable."""
        with meter.call.stage(names.QUOTA) as stage:
            await admission.reserve(tokens)
            stage.note(names.RESERVED_TOKENS, tokens)
        meter.reserved(route.model.id, tokens)

    def _own(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)


def _asked(request: Request, task: Task, context: CallContext) -> Asked:
    return Asked(request.model, task.name, request.route_hint, context.client_ip)


def _in_scope(principal: Principal, deployment: Deployment) -> bool:
    """Whether the key allows the model, by its id, by an alias, or because it allows all."""
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
    admitted: Admitted,
    admission: Admission,
    request: GenerationRequest,
    shorten: Callable[[], GenerationRequest | None] | None = None,
) -> Prepared[GenerationRun]:
    """Prepares the request, or the first shorter one that fits. Raises: GatewayError."""
    route, owner = admitted.route, admitted.caller.tenant_id
    while True:
        try:
            return await route.backend.prepare(
                route.model, request, owner, admitted.cache_tenants, admission
            )
        except ContextLengthExceeded:
            shorter = None if shorten is None else shorten()
            if shorter is None:
                raise
            request = shorter


async def _prepare_embedding(
    admitted: Admitted, admission: Admission, request: EmbeddingRequest
) -> Prepared[EmbeddingRun]:
    """Prepares the request. Raises: GatewayError."""
    route, owner = admitted.route, admitted.caller.tenant_id
    return await route.backend.prepare_embedding(route.model, request, owner, admission)


async def _together(work: Sequence[Coroutine[None, None, T]]) -> list[T]:
    """Returns the results of `work`. The first error cancels the others and is raised."""
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _first(account: Account[GenerationRun]) -> list[GenerationEvent]:
    """The first events of a generation. Raises: GatewayError."""
    first = await account.run.next()
    if not first:
        raise UpstreamFailed("The engine gave no answer.")
    return first


def _outcome(error: BaseException, context: CallContext) -> Outcome:
    """The outcome of a call that `error` ended; a cancellation is the client's if not ours."""
    return "failed" if isinstance(error, Exception) or context.at_fault() else "cancelled"


async def _answers(
    accounts: Sequence[Account[R]],
    waiting: Sequence[Coroutine[None, None, T]],
    context: CallContext,
) -> list[T]:
    """Returns the results of `waiting`. The first error closes all `accounts` and is raised."""
    try:
        return await _together(waiting)
    except BaseException as error:
        for account in accounts:
            account.meter.failed(error)
            await account.close(_outcome(error, context))
        _tell_limits(error, accounts[-1].admission)
        raise


def _begun(account: Account[GenerationRun], first: list[GenerationEvent]) -> Generation:
    account.meter.first_token(alone=account.run.is_streamed)
    return Generation(first, account.headers(), account)


def _tokenizing(route: Route) -> TokenizingBackend:
    """The backend of `route`. Raises: InvalidRequest where it has no tokenizer of the model."""
    if isinstance(route.backend, TokenizingBackend):
        return route.backend
    raise InvalidRequest(f"Tokens of `{route.model.id}` cannot be counted.", param="model")


async def _counted(work: Coroutine[None, None, T], admission: Admission) -> T:
    """Returns what `work` returns, and ends the admission. Work that began stays counted."""
    try:
        return await work
    finally:
        await admission.cancel()


def _tell_limits(error: BaseException, admission: Admission) -> None:
    """Adds the limits to `error`: its reply shows them once the request was counted."""
    if isinstance(error, GatewayError):
        error.headers = admission.headers
