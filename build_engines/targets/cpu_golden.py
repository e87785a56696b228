"""Records golden answers of a CPU engine, and checks that it gives the same ones in a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from build_engines.cpu.engine import Engine
from build_engines.cpu.serving import open_embedder, open_engine
from build_engines.golden.selftest import (
    NEW_TOKENS,
    Answer,
    SelfTestError,
    Vector,
    check_same,
    embedding_document,
    generation_document,
    golden_inputs,
)
from build_engines.serving.artefacts import Artefacts
from build_engines.serving.request import Generation, Request, Sampling
from build_engines.serving.texts import Text

_TIMEOUT_S = 600.0
_TOGETHER = "asked together with the others"


def record(artefacts: Artefacts, dtype: str) -> Mapping[str, Any]:
    """Returns the document `selftest.json` of the engine in `artefacts`. Raises: SelfTestError."""
    limits = artefacts.manifest["limits"]
    inputs = golden_inputs(artefacts.folder, int(limits["max_input_len"]))
    if artefacts.task == "embed":
        alone, together = _embed(artefacts, inputs)
        document = embedding_document(alone, dtype)
        check_same(document, embedding_document(together, dtype), _TOGETHER)
        return document
    answers, company = _generate(artefacts, inputs)
    document = generation_document(answers, dtype)
    check_same(document, generation_document(company, dtype), _TOGETHER)
    return document


def _embed(artefacts: Artefacts, inputs: list[list[int]]) -> tuple[list[Vector], list[Vector]]:
    embedder = open_embedder(artefacts)
    texts = [Text(np.array(ids, np.int32), np.zeros(len(ids), np.int32)) for ids in inputs]
    alone = [Vector(ids, embedder.embed([text])[0].tolist()) for ids, text in _pairs(inputs, texts)]
    together = embedder.embed(texts)
    return alone, [Vector(ids, row.tolist()) for ids, row in _pairs(inputs, together)]


def _pairs(inputs: list[list[int]], others: Any) -> Any:
    return zip(inputs, others, strict=True)


def _generate(artefacts: Artefacts, inputs: list[list[int]]) -> tuple[list[Answer], list[Answer]]:
    """Returns the answers alone and in a batch. Allocates only as much cache as they need."""
    limits = dict(artefacts.manifest["limits"])
    block = int(limits["tokens_per_block"])
    longest = max(len(ids) for ids in inputs) + NEW_TOKENS
    limits["kv_cache_tokens"] = len(inputs) * (longest + block)
    limits["max_batch_size"] = len(inputs)
    small = Artefacts(artefacts.folder, {**artefacts.manifest, "limits": limits})
    engine = open_engine(small, max_queue_size=0, reuse=False, on_progress=lambda _urgent: None)
    try:
        requests = [_request(ids, engine.limits.max_seq_len) for ids in inputs]
        alone = [_answer(engine.submit(request)) for request in requests]
        running = _submit_all(engine, requests)
        return alone, [_answer(generation) for generation in running]
    finally:
        engine.close()


def _submit_all(engine: Engine, requests: list[Request]) -> list[Generation]:
    return [engine.submit(request) for request in requests]


def _request(ids: list[int], max_seq_len: int) -> Request:
    return Request(
        input_ids=np.array(ids, np.int32),
        max_new_tokens=max(1, min(NEW_TOKENS, max_seq_len - len(ids))),
        sampling=Sampling(top_k=1),
        log_probs=True,
        top_log_probs=2,
    )


def _answer(generation: Generation) -> Answer:
    if not generation.wait(_TIMEOUT_S):
        raise SelfTestError(f"the engine did not answer within {_TIMEOUT_S:g} s")
    if generation.finish == "error":
        raise SelfTestError(f"the engine refused a golden prompt: {generation.error}")
    if not np.isfinite(generation.log_probs).all():
        raise SelfTestError("the engine computes log-probabilities that are no finite numbers")
    return Answer(
        input_ids=generation.request.input_ids.tolist(),
        output_ids=list(generation.token_ids),
        log_probs=[round(value, 5) for value in generation.log_probs],
        margins=[round(float(v[0] - v[-1]), 5) for _, v in generation.top_log_probs],
    )
