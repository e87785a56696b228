"""The `cpu` target: OpenVINO graphs for the CPU engine."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import openvino as ov

from build_engines.checkpoint import Checkpoint, CheckpointError
from build_engines.cpu.architecture import decoder_shape, encoder_shape
from build_engines.cpu.decoder import build_decoder
from build_engines.cpu.embedder import Embedder, Text
from build_engines.cpu.encoder import Pooling, build_encoder
from build_engines.cpu.graph import WeightFormat
from build_engines.cpu.guided import GuideCompiler
from build_engines.cpu.request import GUIDE_TYPES
from build_engines.cpu.runtime import PRECISIONS, DecoderRuntime, StepInputs
from build_engines.target import BuiltEngine, Progress
from build_engines.tokens import special_tokens
from orchestrator.catalogue import Model

MODEL_FILE = "model.xml"
_FORMATS: Mapping[str, WeightFormat] = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "f16",
    "int8": "i8",
}
_BYTES = {"f32": 4, "f16": 2, "i8": 1}
_SLACK_BYTES = 16 << 20


class CpuTarget:
    """Builds for `model_repository/backends/cpu`."""

    name = "cpu"
    backend = "cpu"
    version = 4

    def parameters(self, model: Model) -> Mapping[str, str]:
        """TensorRT-LLM's own keys where it has one, and two of ours."""
        if model.task == "embed":
            return {}
        return {
            "exclude_input_in_output": "true",
            "enable_kv_cache_reuse": "true",
            "cancellation_check_period_ms": "100",
            "max_queue_size": str(model.engine.max_queue_size),
            "response_window_ms": "10",
        }

    def disk_bytes(self, model: Model, checkpoint: Checkpoint) -> int:
        """The weights at their new width."""
        stored = sum(file.stat().st_size for file in checkpoint.weight_files)
        # A checkpoint holds at least two bytes a value.
        return stored // 2 * _BYTES[_format(model)] + _SLACK_BYTES

    def build(
        self, model: Model, checkpoint: Checkpoint, folder: Path, progress: Progress
    ) -> BuiltEngine:
        """Converts and tries the result once. Raises: CheckpointError."""
        if model.task == "embed":
            return _build_embed(model, checkpoint, folder, progress)
        return _build_generate(model, checkpoint, folder, progress)


def _build_generate(
    model: Model, checkpoint: Checkpoint, folder: Path, progress: Progress
) -> BuiltEngine:
    engine, length = model.engine, model.context_tokens
    shape = decoder_shape(checkpoint.architecture, checkpoint.config, length)
    _check_length(length, shape.max_positions)
    tokens = special_tokens(checkpoint)
    if tokens.end_id is None:
        raise CheckpointError("no end token: `eos_token_id` is missing in generation_config.json")
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
        embedder = Embedder(folder / MODEL_FILE, PRECISIONS[engine.dtype])
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
    """How the weights are stored. Raises: CheckpointError."""
    engine = model.engine
    if engine.dtype not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise CheckpointError(f"`dtype` is `{engine.dtype}` in the catalogue; known: {known}")
    for name in ("max_batch_size", "kv_cache_tokens"):
        value = getattr(engine, name)
        if value is not None and value < 1:
            raise CheckpointError(f"`{name}` is {value} in the catalogue, must be >= 1")
    return _FORMATS[engine.dtype]


def pooling_of(checkpoint: Checkpoint) -> tuple[Pooling, bool]:
    """How sentence-transformers' files say that token vectors become one, and if it is normalised.

    Raises: CheckpointError.
    """
    modules = checkpoint.optional_json("modules.json")
    if modules is None:
        raise CheckpointError("file `modules.json` is missing: it says how to pool the vectors")
    kinds = {str(module["type"]).rsplit(".", 1)[-1]: module.get("path", "") for module in modules}
    if unknown := set(kinds) - {"Transformer", "Pooling", "Normalize"}:
        raise CheckpointError(f"modules.json: module `{min(unknown)}` is unsupported")
    config = checkpoint.optional_json(f"{kinds.get('Pooling', '1_Pooling')}/config.json") or {}
    modes = [name for name in ("mean_tokens", "cls_token") if config.get(f"pooling_mode_{name}")]
    pooling = {"mean_tokens": "mean", "cls_token": "cls"}.get(
        "+".join(modes), str(config.get("pooling_mode", "+".join(modes)))
    )
    if pooling not in ("mean", "cls"):
        raise CheckpointError(f"pooling `{pooling or 'unknown'}` is unsupported; known: mean, cls")
    return cast("Pooling", pooling), "Normalize" in kinds


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
        # OpenVINO says "iostream error", whatever the reason.
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
    """OpenVINO's errors while the saved files are tried, as errors of the build."""
    try:
        yield
    except RuntimeError as error:
        raise CheckpointError(
            f"the converted engine cannot be opened ({str(error).strip().splitlines()[-1]})"
        ) from error


def _try_decoder(model_xml: Path, dtype: str) -> int:
    """Sends one token through the saved files: finds what a full disk or wrong weights spoiled.

    Returns the tokens in a block of the key/value cache.
    """
    runtime = DecoderRuntime(model_xml, PRECISIONS[dtype], 1)
    one, none = np.zeros(1, np.int64), np.zeros(1, np.int32)
    span = np.array([0, 1], np.int32)
    length = np.array(1, np.int32)
    _check_finite(runtime.run(StepInputs(one, one, none, span, none, span, length, one)))
    return runtime.block_size


def _check_finite(values: np.ndarray[Any, Any]) -> None:
    if not np.isfinite(values).all():
        raise CheckpointError("the converted engine computes values that are no finite numbers")
