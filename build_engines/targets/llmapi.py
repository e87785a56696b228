"""The `llmapi` target: the checkpoint itself, served by TensorRT-LLM's PyTorch engine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from build_engines.checkpoint.families import TargetName, family_of
from build_engines.checkpoint.files import Checkpoint, CheckpointError
from build_engines.checkpoint.network import read_network, text_config
from build_engines.host.machine import Machine, this_machine
from build_engines.llmapi.engine import ARGUMENTS_FILE
from build_engines.plan import GIB, Plan, PlanError, check_gpus, check_length, gpu_memory
from build_engines.targets.target import BuiltEngine, Workplace
from build_engines.targets.trial import try_on_triton
from orchestrator.contract.catalogue import Model

_PLAIN = ("float16", "bfloat16")
#: ModelOpt's file: it says that the checkpoint is quantised already.
_QUANTISED = "hf_quant_config.json"
_TOKENS_PER_BLOCK = 32
_HOST_SLACK_BYTES = 4 * GIB
_DISK_SLACK_BYTES = 64 << 20


class LlmApiTarget:
    """Builds for architectures without a TensorRT engine, and for TensorRT-LLM without engines."""

    name: TargetName = "llmapi"
    version = 2

    def plan(self, model: Model, checkpoint: Checkpoint, machine: Machine) -> Plan:
        """Plans no conversion: the weights are linked if the disk allows it, else copied."""
        _check_precision(model, checkpoint)
        network, stored = read_network(checkpoint), _stored(checkpoint)
        check_length(model, network)
        notes = ["the checkpoint is served as it is: nothing is compiled"]
        if not machine.gpus:
            notes.append("no GPU here: what it needs is not compared with what there is")
        return Plan(
            target=self.name,
            backend="llmapi",
            architecture=checkpoint.architecture,
            family=family_of(checkpoint.architecture).name,
            dtype=model.engine.dtype,
            cache_dtype=model.engine.kv_cache_dtype or "as computed",
            tensor_parallel=model.engine.tensor_parallel,
            pipeline_parallel=model.engine.pipeline_parallel,
            disk_bytes=stored + _DISK_SLACK_BYTES,
            host_bytes=stored + _HOST_SLACK_BYTES,
            gpu=gpu_memory(network, model),
            notes=tuple(notes),
        )

    def check(self, model: Model, checkpoint: Checkpoint, machine: Machine) -> None:
        """Checks that there are suitable GPUs and TensorRT-LLM. Raises: PlanError."""
        if not machine.gpus:
            raise PlanError("there is no NVIDIA GPU here; `--target cpu` needs none")
        if not machine.tensorrt_llm:
            raise PlanError("TensorRT-LLM is not installed: build inside the GPU image")
        check_gpus(model, read_network(checkpoint), machine)

    def parameters(self, model: Model, folder: Path) -> Mapping[str, str]:
        """Returns the parameters that our backend reads."""
        del folder
        return {
            "exclude_input_in_output": "true",
            "cancellation_check_period_ms": "100",
            "max_queue_size": str(model.engine.max_queue_size),
            "response_window_ms": "10",
        }

    def build(
        self, model: Model, checkpoint: Checkpoint, plan: Plan, place: Workplace
    ) -> BuiltEngine:
        """Writes the checkpoint and its arguments to the folder."""
        del plan
        place.journal.stage("linking the weights")
        for file in [*checkpoint.files(), *_extra_files(checkpoint)]:
            if not (place.folder / file.name).exists():
                _link(file, place.folder / file.name)
        arguments = llm_arguments(model)
        text = json.dumps(arguments, indent=2) + "\n"
        (place.folder / ARGUMENTS_FILE).write_text(text, encoding="utf-8")
        return _describe(model, checkpoint)

    def self_test(self, model: Model, place: Workplace) -> Mapping[str, Any]:
        """Runs the test on a separate Triton. Raises: SelfTestError."""
        return try_on_triton(model, place)


def llm_arguments(model: Model) -> dict[str, Any]:
    """Returns arguments of `tensorrt_llm.LLM`; `kv_cache_config` holds those of its own class."""
    engine = model.engine
    cache: dict[str, Any] = {
        "free_gpu_memory_fraction": engine.kv_cache_fraction,
        "enable_block_reuse": True,
    }
    if engine.kv_cache_tokens is not None:
        cache["max_tokens"] = engine.kv_cache_tokens
    if engine.kv_cache_dtype is not None:
        cache["dtype"] = engine.kv_cache_dtype
    return {
        "dtype": engine.dtype if engine.dtype in _PLAIN else "auto",
        "tensor_parallel_size": engine.tensor_parallel,
        "pipeline_parallel_size": engine.pipeline_parallel,
        "max_batch_size": engine.max_batch_size,
        "max_num_tokens": engine.max_num_tokens,
        "max_seq_len": model.context_tokens,
        "guided_decoding_backend": "xgrammar",
        # Code in a checkpoint is never run.
        "trust_remote_code": False,
        "kv_cache_config": cache,
    }


def _check_precision(model: Model, checkpoint: Checkpoint) -> None:
    """Checks that the checkpoint is quantised if `dtype` is. Raises: CheckpointError."""
    dtype = model.engine.dtype
    is_quantised = (checkpoint.path / _QUANTISED).is_file()
    is_quantised = is_quantised or bool(checkpoint.config.get("quantization_config"))
    if dtype not in _PLAIN and not (dtype in ("fp8", "nvfp4", "int4_awq") and is_quantised):
        raise CheckpointError(
            f"`dtype` is `{dtype}` in the catalogue; the llmapi target knows: "
            f"{', '.join(_PLAIN)}, and fp8, nvfp4, int4_awq of checkpoints that are so already"
        )


def _extra_files(checkpoint: Checkpoint) -> list[Path]:
    names = (_QUANTISED, "model.safetensors.index.json")
    return [checkpoint.path / name for name in names if (checkpoint.path / name).is_file()]


def _link(source: Path, target: Path) -> None:
    """Links the file: a hard link keeps the bytes even if the checkpoint's folder changes."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _stored(checkpoint: Checkpoint) -> int:
    return sum(file.stat().st_size for file in checkpoint.weight_files)


def _describe(model: Model, checkpoint: Checkpoint) -> BuiltEngine:
    engine, length = model.engine, model.context_tokens
    gpu = this_machine().gpus[0]
    return BuiltEngine(
        limits={
            "max_batch_size": engine.max_batch_size,
            "max_input_len": length - 1,
            "max_seq_len": length,
            "vocab_size": int(text_config(checkpoint.config)["vocab_size"]),
            "tokens_per_block": _TOKENS_PER_BLOCK,
        },
        features={
            "min_p": True,
            "log_probs": True,
            "top_log_probs": True,
            "perf_metrics": False,
            "finish_reason": True,
            "guided": ["json", "json_schema", "regex", "ebnf_grammar"],
            "prefix_cache": "shared" if engine.shared_prefix_cache else "salted",
        },
        embedding=None,
        versions={"tensorrt_llm": metadata.version("tensorrt_llm")},
        runtime={
            "dtype": engine.dtype,
            "gpu": gpu.name,
            "compute_capability": ".".join(map(str, gpu.compute_capability)),
            "world_size": engine.tensor_parallel * engine.pipeline_parallel,
        },
    )
