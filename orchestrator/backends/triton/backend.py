"""The backend for this appliance's own engines, which run in Triton."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from orchestrator.backends.protocol import NO_LIMITS, EmbeddingRun, GenerationRun, Permit
from orchestrator.backends.triton import embedding
from orchestrator.backends.triton.affinity import Blocks
from orchestrator.backends.triton.choice import Attempt, CallFirst, Choice
from orchestrator.backends.triton.comeback import Comeback, WaitingRoom
from orchestrator.backends.triton.embedding import Embedder
from orchestrator.backends.triton.guides import guide_for, may_call_instead
from orchestrator.backends.triton.placed_stream import PlacedStream
from orchestrator.backends.triton.placement import Placement, Placements
from orchestrator.backends.triton.prefix_salts import PrefixSalts
from orchestrator.backends.triton.run import TritonRun
from orchestrator.backends.triton.served import PreparedEmbedding, PreparedGeneration, ServedModel
from orchestrator.contract.catalogue import Model
from orchestrator.core.errors import ContextLengthExceeded, InvalidRequest
from orchestrator.core.fair_threads import LARGE_BYTES, FairThreads
from orchestrator.core.request import (
    ChatPrompt,
    EmbeddingRequest,
    GenerationRequest,
    Prompt,
    ReasoningEffort,
    SamplingParams,
    ToolChoice,
)
from orchestrator.core.value import value
from orchestrator.rendering.renderer import (
    LONG_PROMPT_CHARACTERS,
    PromptTooLongError,
    rendering_size,
)
from orchestrator.triton.contract import GenerateCall, Guide

CONTEXTS_COUNTED = 4
"""Max prompt of calls that count tokens, in contexts: callers count to find what to cut."""
_SEED_BITS = 63


class TritonBackend:
    """Renders prompts and decodes answers; Triton sees token ids only."""

    name = "local"

    def __init__(
        self,
        served: Callable[[Model], ServedModel],
        placements: Placements,
        salts: PrefixSalts,
        *,
        first_token_timeout_s: float,
        threads: FairThreads | None = None,
        clamps_max_tokens: bool = False,
        waiting: WaitingRoom | None = None,
    ) -> None:
        """`served` returns what is served of a model, or raises ModelUnavailable.

        Long prompts are rendered in `threads`. With `clamps_max_tokens` every request counts as
        one with `clamps`. Calls wait in `waiting` for a model that is being restarted.
        """
        self._served = served
        self._placements = placements
        self._salts = salts
        self._clamps = clamps_max_tokens
        self._first_token_timeout_s = first_token_timeout_s
        self._threads = threads or FairThreads(1, most_running_bytes=LARGE_BYTES)
        self._waiting = waiting or WaitingRoom(0)
        self._embedder = Embedder(
            placements, timeout_s=first_token_timeout_s, waiting=self._waiting
        )

    def check(self, model: Model) -> None:
        """Raises: ModelUnavailable where `model` is neither loaded nor being restarted."""
        self._served(model)

    async def prepare(
        self,
        model: Model,
        request: GenerationRequest,
        owner: str = "",
        sharing: tuple[str, ...] = (),
        permit: Permit = NO_LIMITS,
    ) -> PreparedGeneration:
        """`request` in tokens. Raises: InvalidRequest, ContextLengthExceeded, RateLimited."""
        served = self._served(model)
        _check_supported(served, request)
        guide = guide_for(request, served.manifest.guides)
        request = _as_rendered(request, guided=guide is not None)
        clamps = request.clamps or self._clamps
        if not clamps:
            _check_max_tokens(served, request)
        prompt, reasoning = request.prompt, request.reasoning
        if (size := rendering_size(prompt)) < LONG_PROMPT_CHARACTERS:
            permit.begin()
            token_ids = served.renderer.render(prompt, reasoning, owner)
        else:
            asked = _Rendering(served, prompt, reasoning, owner, permit)
            work = partial(asked.work, _most_input(served))
            token_ids = await self._threads.run(owner, size, work)
        if not token_ids:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        max_tokens = _max_tokens(served, request, len(token_ids), clamps=clamps)
        calls_first = guide is not None and may_call_instead(request)
        salt = 0 if served.manifest.prefix_cache == "shared" else self._salts.of(owner, sharing)
        return PreparedGeneration(
            served, request, token_ids, max_tokens, self.begin, guide, calls_first, salt, owner
        )

    def begin(self, prepared: PreparedGeneration, request_id: str) -> GenerationRun:
        """Starts a generation, one Triton request for each choice.

        If the model is being restarted, it starts when the model is back.
        """
        placement = self._placements.of(prepared.served.model.name)
        start = partial(self._start, prepared, request_id)
        return TritonRun(prepared, start, Comeback(placement, self._waiting, prepared.owner))

    async def tokens(
        self,
        model: Model,
        prompt: Prompt,
        reasoning: ReasoningEffort | None,
        owner: str,
        permit: Permit,
    ) -> Sequence[int]:
        """The token ids of `prompt`, which may have up to `CONTEXTS_COUNTED` contexts.

        Raises: InvalidRequest, ContextLengthExceeded.
        """
        served = self._served(model)
        if (size := rendering_size(prompt)) < LONG_PROMPT_CHARACTERS:
            permit.begin()
            return served.renderer.render(prompt, reasoning, owner)
        asked = _Rendering(served, prompt, reasoning, owner, permit)
        work = partial(asked.work, CONTEXTS_COUNTED * _most_input(served))
        return await self._threads.run(owner, size, work)

    async def text(self, model: Model, token_ids: Sequence[int], owner: str, permit: Permit) -> str:
        """The text of `token_ids`. Raises: InvalidRequest, ContextLengthExceeded."""
        served = self._served(model)
        most = CONTEXTS_COUNTED * _most_input(served)
        if len(token_ids) > most:
            raise _too_long(served, len(token_ids), most, param="tokens")
        permit.begin()

        def work() -> str:
            served.renderer.check_ids(token_ids, param="tokens")
            return served.renderer.decode(token_ids)

        if len(token_ids) < LONG_PROMPT_CHARACTERS:
            return work()
        return await self._threads.run(owner, len(token_ids), work)

    def token_texts(self, model: Model, token_ids: Sequence[int]) -> Sequence[str]:
        r"""The text of each of `token_ids`; bytes that form no character become `\xff`."""
        raw = self._served(model).renderer.token_bytes
        return [raw(one).decode("utf-8", "backslashreplace") for one in token_ids]

    async def prepare_embedding(
        self,
        model: Model,
        request: EmbeddingRequest,
        owner: str = "",
        permit: Permit = NO_LIMITS,
    ) -> PreparedEmbedding:
        """`request` in tokens. Raises: InvalidRequest, ContextLengthExceeded, RateLimited."""
        served = self._served(model)
        rows = await embedding.rows_of(served, request, owner, permit, self._threads)
        return PreparedEmbedding(served, request, rows, self.begin_embedding, owner)

    def begin_embedding(self, prepared: PreparedEmbedding, request_id: str) -> EmbeddingRun:
        """A run that sends one Triton request for each batch when its vectors are awaited."""
        return embedding.TritonEmbedding(self._embedder, prepared, request_id)

    def _start(self, prepared: PreparedGeneration, request_id: str) -> list[Choice]:
        request = prepared.request
        sampling = _with_defaults(request.sampling, prepared.served.defaults)
        seed = sampling.seed if sampling.seed is not None else random.getrandbits(_SEED_BITS)
        # One call may start several generations, and a stop names its generation by this id.
        engine_id = f"{request_id}-{random.getrandbits(48):012x}"
        placement = self._placements.of(prepared.served.model.name)
        blocks = placement.blocks(
            prepared.token_ids, prepared.served.manifest.tokens_per_block, prepared.cache_salt
        )
        choices: list[Choice] = []
        for index in range(request.n):
            attempt = partial(
                self._attempt, prepared, placement, blocks, index, sampling, seed + index
            )
            choice_id = f"{engine_id}-{index}"
            if prepared.calls_first:
                free = replace(request, response_format=None, whole=False)
                said = replace(request, tool_choice=ToolChoice("none"), whole=False)
                otherwise = partial(attempt, f"{choice_id}-said", said, prepared.guide)
                choices.append(CallFirst(attempt(choice_id, free, None), otherwise))
            else:
                choices.append(attempt(choice_id, request, prepared.guide))
        return choices

    def _attempt(
        self,
        prepared: PreparedGeneration,
        placement: Placement,
        blocks: Blocks,
        index: int,
        sampling: SamplingParams,
        seed: int,
        engine_id: str,
        request: GenerationRequest,
        guide: Guide | None,
    ) -> Attempt:
        served, manifest = prepared.served, prepared.served.manifest
        call = GenerateCall(
            model=served.model.name,
            request_id=engine_id,
            token_ids=prepared.token_ids,
            max_tokens=prepared.max_tokens,
            end_id=manifest.end_id,
            pad_id=manifest.pad_id,
            extra_end_ids=manifest.extra_end_ids,
            sampling=sampling,
            seed=seed,
            vocab_size=manifest.vocab_size,
            reports_finish_reason=manifest.reports_finish_reason,
            # If the engine may share its cache between tenants, its counts and times are hidden.
            reports_perf_metrics=manifest.reports_perf_metrics and manifest.prefix_cache != "",
            log_probs=request.top_logprobs is not None,
            top_log_probs=request.top_logprobs or 0,
            guide=guide,
            whole=request.whole and not _may_be_stopped(request),
            cache_salt=prepared.cache_salt if manifest.prefix_cache == "salted" else None,
        )
        decoder = served.renderer.decoder(index, request, prepared.token_ids)
        stream = PlacedStream(placement, blocks, call, self._first_token_timeout_s)
        return Attempt(stream, decoder, served.renderer)


@value
class _Rendering:
    """A prompt that is to be rendered into tokens."""

    served: ServedModel
    prompt: Prompt
    reasoning: ReasoningEffort | None
    owner: str
    permit: Permit

    def work(self, most: int) -> array[int]:
        """The tokens of a long prompt, at most `most`. Runs in a thread.

        A prompt whose length alone shows that it is too long is refused before it is rendered.
        Raises: InvalidRequest, ContextLengthExceeded, RateLimited.
        """
        renderer = self.served.renderer
        fewest = renderer.fewest_tokens(self.prompt, most)
        if fewest > most:
            raise _too_long(self.served, fewest, most)
        self.permit.check(fewest)
        self.permit.begin()
        try:
            return renderer.render(self.prompt, self.reasoning, self.owner, most)
        except PromptTooLongError as error:
            raise _too_long(self.served, error.fewest, most) from error


def _as_rendered(request: GenerationRequest, *, guided: bool) -> GenerationRequest:
    """The request as the prompt is to show it.

    Tools that may not be called are not shown. Under a guide the model cannot think first, so
    `reasoning` is `none`.
    """
    if request.tool_choice.mode == "none" and isinstance(request.prompt, ChatPrompt):
        request = replace(request, prompt=replace(request.prompt, tools=()))
    return replace(request, reasoning="none") if guided else request


def _may_be_stopped(request: GenerationRequest) -> bool:
    """Whether the answer needs a streamed response: its content may end it early.

    Log-probabilities need one too: an engine reports them with each token or not at all.
    """
    return bool(request.stop) or request.top_logprobs is not None or not request.parallel_tool_calls


def _check_supported(served: ServedModel, request: GenerationRequest) -> None:
    sampling, manifest = request.sampling, served.manifest
    if sampling.min_p and not manifest.supports_min_p:
        raise InvalidRequest(
            f"`min_p` is not supported by the engine of `{served.model.id}`.", param="min_p"
        )
    if request.top_logprobs is not None and not manifest.supports_log_probs:
        raise InvalidRequest(
            f"`logprobs` is not supported by the engine of `{served.model.id}`.", param="logprobs"
        )
    if request.top_logprobs and not manifest.supports_top_log_probs:
        raise InvalidRequest(
            f"`top_logprobs` is not supported by the engine of `{served.model.id}`.",
            param="top_logprobs",
        )
    vocab_size = manifest.vocab_size
    for token in sampling.logit_bias:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"`logit_bias` names token {token}; `{served.model.id}` has 0 to {vocab_size - 1}.",
                param="logit_bias",
            )


def _most_input(served: ServedModel) -> int:
    """The max tokens of a prompt that leaves room for an answer."""
    context = min(served.manifest.max_seq_len, served.model.context_tokens)
    return min(served.manifest.max_input_len, context - 1)


def _too_long(
    served: ServedModel, fewest: int, most: int, *, param: str = "messages"
) -> ContextLengthExceeded:
    """The error for a prompt of at least `fewest` tokens where `most` are taken."""
    context = min(served.manifest.max_seq_len, served.model.context_tokens)
    limit = f"This model's maximum context length is {context} tokens"
    if most > context:
        limit = f"At most {most} tokens of this model can be counted"
    return ContextLengthExceeded(
        f"{limit}: the prompt has at least {fewest}.", param=param, prompt_tokens=fewest, most=most
    )


def _check_max_tokens(served: ServedModel, request: GenerationRequest) -> None:
    """Raises: ContextLengthExceeded where `max_tokens` alone fills the context."""
    context = min(served.manifest.max_seq_len, served.model.context_tokens)
    if (request.max_tokens or 0) >= context:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {context} tokens, prompt included:"
            f" {request.max_tokens} were asked for.",
            param="max_tokens",
        )


def _max_tokens(
    served: ServedModel, request: GenerationRequest, prompt_tokens: int, *, clamps: bool
) -> int:
    """The max tokens of each choice: what was requested, or all that fits."""
    context = served.manifest.max_seq_len
    room = min(context, served.model.context_tokens) - prompt_tokens
    asked = f" and {request.max_tokens} were asked for" if request.max_tokens else ""
    too_long = room < 1 or prompt_tokens > served.manifest.max_input_len
    if too_long or ((request.max_tokens or 0) > room and not clamps):
        raise ContextLengthExceeded(
            "This model's maximum context length is"
            f" {min(context, served.model.context_tokens)} tokens:"
            f" the prompt has {prompt_tokens}{asked}.",
            param="messages" if room < 1 or not request.max_tokens else "max_tokens",
            prompt_tokens=prompt_tokens if too_long else None,
            most=_most_input(served),
        )
    return min(request.max_tokens or room, room)


def _with_defaults(asked: SamplingParams, defaults: SamplingParams) -> SamplingParams:
    """`asked`, with the model's own values where the caller gave none.

    A caller who gives a temperature gets exactly that distribution: the model's top-k and top-p
    belong to its own temperature.
    """
    if asked.temperature is not None:
        return asked
    return replace(
        asked,
        temperature=defaults.temperature,
        top_p=asked.top_p if asked.top_p is not None else defaults.top_p,
        top_k=asked.top_k if asked.top_k is not None else defaults.top_k,
    )
