"""The `cpu` target: OpenVINO graphs for the CPU engine."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from build_engines.checkpoint.families import TargetName, family_of
from build_engines.checkpoint.files import Checkpoint, CheckpointError, check_unquantised
from build_engines.checkpoint.network import Network, read_network
from build_engines.checkpoint.pooling import pooling_of
from build_engines.checkpoint.tokens import check_end
from build_engines.cpu.embedder import Embedder
from build_engines.cpu.guided import GuideCompiler
from build_engines.cpu.precision import Precision, precision_for
from build_engines.cpu.runtime import DecoderRuntime, StepInputs
from build_engines.cpu.serving import MODEL_FILE
from build_engines.host.machine import Machine
from build_engines.journal import Progress
from build_engines.plan import Plan
from build_engines.serving.artefacts import open_artefacts
from build_engines.serving.request import GUIDE_TYPES
from build_engines.serving.texts import Text
from build_engines.targets.cpu_golden import record
from build_engines.targets.cpu_graphs.architecture import decoder_shape, encoder_shape
from build_engines.targets.cpu_graphs.decoder import build_decoder
from build_engines.targets.cpu_graphs.encoder import build_encoder
from build_engines.targets.cpu_graphs.ops import BITS, WeightFormat
from build_engines.targets.target import BuiltEngine, Workplace
from orchestrator.contract.catalogue import Model

_FORMATS: Mapping[str, WeightFormat] = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "f16",
    "int8": "i8",
    "int4": "i4",
}
_CACHE_BYTES = {"f32": 4}
_SLACK_BYTES = 16 << 20


class CpuTarget:
    """Builds for `model_repository/backends/cpu`."""

    name: TargetName = "cpu"
    version = 5

    def plan(self, model: Model, checkpoint: Checkpoint, machine: Machine) -> Plan:
        """Plans for the weights in their new width, twice while they are written, and the cache."""
        del machine
        check_unquantised(checkpoint)
        fmt, network = _format(model), read_network(checkpoint)
        precision = precision_for(model.engine.dtype)
        weights = int(network.values * BITS[fmt]) // 8
        notes = [precision.note] if precision.note else []
        if model.task == "generate" and not checkpoint.chat_templates():
            notes.append("no chat template: completions only")
        return Plan(
            target=self.name,
            backend="cpu",
            architecture=checkpoint.architecture,
            family=family_of(checkpoint.architecture).name,
            dtype=model.engine.dtype,
            cache_dtype=precision.kv_cache if model.task == "generate" else "",
            disk_bytes=weights + _SLACK_BYTES,
            host_bytes=2 * weights + _cache_bytes(model, network, precision) + _SLACK_BYTES,
            notes=tuple(notes),
        )

    def check(self, model: Model, checkpoint: Checkpoint, machine: Machine) -> None:
        """Accepts any machine."""

    def parameters(self, model: Model, folder: Path) -> Mapping[str, str]:
        """Returns TensorRT-LLM's keys where it has them, and two of our own."""
        del folder
        if model.task == "embed":
            return {}
        return {
            "exclude_input_in_output": "true",
            "enable_kv_cache_reuse": "true",
            "cancellation_check_period_ms": "100",
            "max_queue_size": str(model.engine.max_queue_size),
            "response_window_ms": "10",
        }

    def build(
        self, model: Model, checkpoint: Checkpoint, plan: Plan, place: Workplace
    ) -> BuiltEngine:
        """Converts the checkpoint and tries the result once. Raises: CheckpointError."""
        del plan
        if model.task == "embed":
            return _build_embed(model, checkpoint, place.folder, place.journal.stage)
        return _build_generate(model, checkpoint, place.folder, place.journal.stage)

    def self_test(self, model: Model, place: Workplace) -> Mapping[str, Any]:
        """Runs every golden prompt alone and all of them together. Raises: SelfTestError."""
        with _opening():
            return record(open_artefacts(place.folder, self.name), model.engine.dtype)


def _cache_bytes(model: Model, network: Network, precision: Precision) -> int:
    """Returns the bytes of the running server's cache. The engine rounds up to whole blocks."""
    if model.task == "embed":
        return 0
    sequences = model.engine.max_batch_size
    tokens = model.engine.kv_cache_tokens or sequences * model.context_tokens
    return network.cached_values(1) * tokens * _CACHE_BYTES.get(precision.kv_cache, 2)


def _build_generate(
    model: Model, checkpoint: Checkpoint, folder: Path, progress: Progress
) -> BuiltEngine:
    engine, length = model.engine, model.context_tokens
    shape = decoder_shape(checkpoint.architecture, checkpoint.config, length)
    _check_length(length, shape.max_positions)
    tokens = check_end(checkpoint)
    assert tokens.end_id is not None
    end_ids = [tokens.end_id, *tokens.extra_end_ids]
    guides = GuideCompiler(checkpoint.path / "tokenizer.json", shape.vocab_size, end_ids)
    progress("converting the weights")
    graph = build_decoder(shape, checkpoint.weights(), length, _format(model))
    _save(graph, folder)
    progress("trying the engine")
    with _opening():
        block_size = _try_decoder(folder / MODEL_FILE, engine.dtype)
    limits = {
        "max_batch_size": engine.max_batch_size,
        "max_input_len": length - 1,
        "max_seq_len": length,
        "vocab_size": shape.vocab_size,
        "kv_cache_tokens": engine.kv_cache_tokens or engine.max_batch_size * length,
        "tokens_per_block": block_size,
    }
    features = {
        "min_p": True,
        "log_probs": True,
        "top_log_probs": True,
        "perf_metrics": True,
        "finish_reason": True,
        "guided": [] if guides.unavailable else list(GUIDE_TYPES),
        "prefix_cache": "shared" if engine.shared_prefix_cache else "salted",
    }
    return _built(model, limits, features, None)


def _build_embed(
    model: Model, checkpoint: Checkpoint, folder: Path, progress: Progress
) -> BuiltEngine:
    engine, length = model.engine, model.context_tokens
    shape = encoder_shape(checkpoint.architecture, checkpoint.config)
    _check_length(length, shape.max_positions)
    pooling, normalize = pooling_of(checkpoint)
    progress("converting the weights")
    fmt = _format(model)
    _save(build_encoder(shape, checkpoint.weights(), fmt, pooling, normalize), folder)
    progress("trying the engine")
    with _opening():
        embedder = Embedder(folder / MODEL_FILE, precision_for(engine.dtype))
        zeros = np.zeros(1, np.int32)
        _check_finite(embedder.embed([Text(zeros, zeros)]))
    limits = {
        "max_batch_size": engine.max_batch_size,
        "max_input_len": length,
        "max_seq_len": length,
        "vocab_size": shape.vocab_size,
        "type_vocab_size": shape.type_vocab_size,
    }
    embedding = {
        "dimension": embedder.dimension,
        "pooling": pooling,
        "normalize": normalize,
    }
    return _built(model, limits, {}, embedding)


def _format(model: Model) -> WeightFormat:
    """Returns the storage format of the weights. Raises: CheckpointError."""
    engine = model.engine
    if engine.dtype not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise CheckpointError(f"`dtype` is `{engine.dtype}` in the catalogue; known: {known}")
    for name in ("max_batch_size", "kv_cache_tokens"):
        value = getattr(engine, name)
        if value is not None and value < 1:
            raise CheckpointError(f"`{name}` is {value} in the catalogue, must be >= 1")
    return _FORMATS[engine.dtype]


def _built(
    model: Model,
    limits: Mapping[str, int],
    features: Mapping[str, Any],
    embedding: Mapping[str, Any] | None,
) -> BuiltEngine:
    return BuiltEngine(
        limits=limits,
        features=features,
        embedding=embedding,
        versions={name: version(name) for name in ("openvino", "llguidance")},
        runtime={"dtype": model.engine.dtype},
    )


def _save(graph: ov.Model, folder: Path) -> None:
    try:
        # Every weight already has its storage type.
        ov.save_model(graph, folder / MODEL_FILE, compress_to_fp16=False)
    except RuntimeError as error:
        # OpenVINO says "iostream error" for any reason.
        weights = sum(op.data.nbytes for op in graph.get_ops() if op.get_type_name() == "Constant")
        full = shutil.disk_usage(folder).free < weights
        reason = errno.ENOSPC if full else errno.EIO
        raise OSError(reason, os.strerror(reason), str(folder / MODEL_FILE)) from error


def _check_length(length: int, positions: int) -> None:
    if length > positions:
        raise CheckpointError(
            f"`context_tokens` is {length}, the checkpoint knows positions up to {positions}"
        )


@contextmanager
def _opening() -> Iterator[None]:
    """Turns OpenVINO's errors, while the saved files are tried, into errors of the build."""
    try:
        yield
    except RuntimeError as error:
        raise CheckpointError(
            f"the converted engine cannot be opened ({str(error).strip().splitlines()[-1]})"
        ) from error


def _try_decoder(model_xml: Path, dtype: str) -> int:
    """Runs one token through the saved files, to find damage by a full disk or wrong weights.

    Returns the number of tokens in a block of the key/value cache.
    """
    runtime = DecoderRuntime(model_xml, precision_for(dtype), 1)
    one, none = np.zeros(1, np.int64), np.zeros(1, np.int32)
    span = np.array([0, 1], np.int32)
    length = np.array(1, np.int32)
    _check_finite(runtime.run(StepInputs(one, one, none, span, none, span, length, one)))
    return runtime.block_size


def _check_finite(values: np.ndarray[Any, Any]) -> None:
    if not np.isfinite(values).all():
        raise CheckpointError("the converted engine computes values that are no finite numbers")
