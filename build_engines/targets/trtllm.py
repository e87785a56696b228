"""The `trtllm` target: TensorRT engines, built by TensorRT-LLM inside the GPU image."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from build_engines.checkpoint.families import TargetName, family_of
from build_engines.checkpoint.files import Checkpoint, CheckpointError, check_unquantised
from build_engines.checkpoint.hub import is_offline
from build_engines.checkpoint.network import position_offset, read_network
from build_engines.checkpoint.pooling import pooling_of
from build_engines.host.machine import Gpu, Machine, this_machine
from build_engines.host.program import Command, run
from build_engines.plan import (
    GIB,
    Plan,
    PlanError,
    check_gpus,
    check_length,
    gpu_memory,
    weight_bytes,
)
from build_engines.targets.target import BuiltEngine, Workplace
from build_engines.targets.trial import try_on_triton
from build_engines.targets.trtllm_commands import VERSION, build_commands, needs_calibration
from build_engines.trtllm.settings import engine_parameters
from orchestrator.contract.catalogue import Model

ENGINE_FOLDER = "engine"
TOKENS_PER_BLOCK = 32
_EXAMPLES = Path("/app/examples")
_GUIDES = ["json", "json_schema", "regex", "ebnf_grammar"]
#: Host memory of TensorRT and of the converters, in addition to the weights.
_HOST_SLACK_BYTES = 4 * GIB
_DISK_SLACK_BYTES = GIB // 4


class TrtLlmTarget:
    """Builds chat models for TensorRT-LLM's C++ backend, embeddings for our `trtllm_embed`."""

    name: TargetName = "trtllm"
    version = 2

    def plan(self, model: Model, checkpoint: Checkpoint, machine: Machine) -> Plan:
        """Plans commands with placeholders instead of their folders."""
        _check_readable(checkpoint)
        family, engine = family_of(checkpoint.architecture), model.engine
        network = read_network(checkpoint)
        offset = position_offset(checkpoint) if family.name == "roberta" else 0
        check_length(model, network, offset)
        weights = weight_bytes(network, engine.dtype)
        stored = sum(file.stat().st_size for file in checkpoint.weight_files)
        notes = []
        if not machine.gpus:
            notes.append("no GPU here: what it needs is not compared with what there is")
        if needs_calibration(model) and engine.calibration_data is None:
            notes.append("calibration fetches `cnn_dailymail`; `calibration_data` names a folder")
        if family.task == "transcribe":
            notes.append("the converter reads the weights that OpenAI published; not yet served")
        return Plan(
            target=self.name,
            backend="trtllm_embed" if family.task == "embed" else "tensorrtllm",
            architecture=checkpoint.architecture,
            family=family.name,
            dtype=engine.dtype,
            cache_dtype=engine.kv_cache_dtype or ("" if family.task == "embed" else "as computed"),
            tensor_parallel=engine.tensor_parallel,
            pipeline_parallel=engine.pipeline_parallel,
            disk_bytes=2 * weights + _DISK_SLACK_BYTES,
            host_bytes=max(stored * 6 // 5, 2 * weights) + _HOST_SLACK_BYTES,
            gpu=gpu_memory(network, model),
            commands=_commands(model, checkpoint, Path("SCRATCH"), Path("FOLDER")),
            notes=tuple(notes),
        )

    def check(self, model: Model, checkpoint: Checkpoint, machine: Machine) -> None:
        """Checks that there are suitable GPUs and TensorRT-LLM's programs. Raises: PlanError."""
        if family_of(checkpoint.architecture).task == "transcribe":
            raise PlanError("transcription engines are planned and not built: nothing serves them")
        if not machine.gpus:
            raise PlanError("there is no NVIDIA GPU here; `--target cpu` needs none")
        if not machine.has_engines:
            found = machine.tensorrt_llm or "none"
            raise PlanError(
                f"TensorRT engines need TensorRT-LLM {VERSION}, found {found}: build inside the "
                "GPU image, or `--target llmapi`"
            )
        check_gpus(model, read_network(checkpoint), machine)
        unfetched = needs_calibration(model) and model.engine.calibration_data is None
        if unfetched and is_offline(os.environ):
            raise PlanError(
                f"`{model.engine.dtype}` is calibrated with sample texts and HF_HUB_OFFLINE "
                "forbids to fetch them: set `calibration_data` to a folder"
            )

    def parameters(self, model: Model, folder: Path) -> Mapping[str, str]:
        """Returns TensorRT-LLM's keys for chat; none for embeddings, where the manifest has all."""
        return {} if model.task == "embed" else engine_parameters(model, folder, ENGINE_FOLDER)

    def build(
        self, model: Model, checkpoint: Checkpoint, plan: Plan, place: Workplace
    ) -> BuiltEngine:
        """Runs the programs of the plan. Raises: ProgramError, CheckpointError."""
        del plan
        commands = _commands(model, checkpoint, place.scratch / "converted", place.folder)
        for command in commands:
            run(command, place.journal)
        described = _read_engine(place.folder / ENGINE_FOLDER)
        gpu = this_machine().gpus[0]
        built = _describe(model, described, gpu, commands)
        if model.task != "embed":
            return built
        pooling, normalize = pooling_of(checkpoint)
        is_roberta = family_of(checkpoint.architecture).name == "roberta"
        embedding = {
            "dimension": int(checkpoint.config["hidden_size"]),
            "pooling": pooling,
            "normalize": normalize,
            "position_offset": position_offset(checkpoint) if is_roberta else 0,
        }
        types = int(checkpoint.config.get("type_vocab_size") or 1)
        limits = {**built.limits, "type_vocab_size": types}
        return replace(built, embedding=embedding, limits=limits, features={})

    def self_test(self, model: Model, place: Workplace) -> Mapping[str, Any]:
        """Runs the test on a separate Triton. Raises: SelfTestError."""
        return try_on_triton(model, place)


def _commands(
    model: Model, checkpoint: Checkpoint, scratch: Path, folder: Path
) -> tuple[Command, ...]:
    examples = Path(os.environ.get("TRTLLM_EXAMPLES", _EXAMPLES))
    commands = build_commands(
        family_of(checkpoint.architecture),
        model,
        checkpoint=checkpoint.path,
        work=scratch,
        engine=folder / ENGINE_FOLDER,
        examples=examples,
    )
    if family_of(checkpoint.architecture).task != "generate":
        return commands
    script = str(examples / "generate_xgrammar_tokenizer_info.py")
    paths = ("--model_dir", str(checkpoint.path), "--output_dir", str(folder / ENGINE_FOLDER))
    return (*commands, Command("reading the tokenizer", ("python3", script, *paths)))


def _check_readable(checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint with code in it, because the converters would run that."""
    check_unquantised(checkpoint)
    if checkpoint.config.get("auto_map"):
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: `auto_map` in config.json asks for Python code of its "
            "own, which is not run"
        )


def _read_engine(folder: Path) -> Mapping[str, Any]:
    try:
        described: Mapping[str, Any] = json.loads((folder / "config.json").read_bytes())
        _ = described["build_config"], described["pretrained_config"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"the engine's config.json cannot be read: {error}") from error
    return described


def _describe(
    model: Model, described: Mapping[str, Any], gpu: Gpu, commands: tuple[Command, ...]
) -> BuiltEngine:
    engine, build, network = (
        model.engine,
        described["build_config"],
        described["pretrained_config"],
    )
    if int(build["max_batch_size"]) != engine.max_batch_size:
        raise CheckpointError(
            f"the engine was built for {build['max_batch_size']} sequences, "
            f"`max_batch_size` is {engine.max_batch_size}"
        )
    spread, width = engine.tensor_parallel, int(network["vocab_size"])
    limits = {
        "max_batch_size": engine.max_batch_size,
        "max_input_len": int(build["max_input_len"]),
        "max_seq_len": int(build.get("max_seq_len") or model.context_tokens),
        "max_num_tokens": int(build["max_num_tokens"]),
        # The projection is split into equal parts.
        "vocab_size": -(-width // spread) * spread,
        "tokens_per_block": TOKENS_PER_BLOCK,
    }
    features = {
        "min_p": False,
        "log_probs": True,
        "top_log_probs": False,
        "perf_metrics": True,
        "finish_reason": False,
        "guided": _GUIDES,
        "prefix_cache": "shared" if engine.shared_prefix_cache else "off",
    }
    runtime = {
        "dtype": engine.dtype,
        "gpu": gpu.name,
        "compute_capability": ".".join(map(str, gpu.compute_capability)),
        "driver": gpu.driver,
        "world_size": engine.tensor_parallel * engine.pipeline_parallel,
    }
    return BuiltEngine(
        limits=limits,
        features=features,
        embedding=None,
        versions={name: metadata.version(name) for name in ("tensorrt_llm", "tensorrt")},
        runtime=runtime,
        commands=tuple(str(command) for command in commands),
    )
