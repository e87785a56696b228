"""What of the `trtllm` target can be told without a GPU: plans, refusals, configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from build_engines.checkpoint.files import Checkpoint, CheckpointError, open_checkpoint
from build_engines.host.machine import Gpu, Machine
from build_engines.plan import GIB, PlanError
from build_engines.repository.configuration import TRTLLM_PARAMETERS, render_config
from build_engines.targets.trtllm import TrtLlmTarget
from orchestrator.contract.catalogue import EngineRecipe, Model
from tests.reference.checkpoints import write_decoder, write_encoder
from tests.unit.build_engines.conftest import TEMPLATES

GPU = Gpu("NVIDIA H100", 80 * GIB, (9, 0), "580.1")
BUILDER = Machine((GPU,), 256 * GIB, 250 * GIB, "1.2.1")
TARGET = TrtLlmTarget()


@pytest.fixture
def llama(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_decoder(tmp_path / "llama", "llama"))


def model_with(task: Any = "generate", **recipe: Any) -> Model:
    values = {"dtype": "bfloat16", **recipe}
    return Model("a/b", "b", task, 128, EngineRecipe("somewhere", **values))


def test_the_plan_of_a_chat_model_tells_every_program(llama: Checkpoint) -> None:
    plan = TARGET.plan(model_with(), llama, BUILDER)
    assert (plan.backend, plan.family, plan.dtype) == ("tensorrtllm", "llama", "bfloat16")
    assert [command.stage for command in plan.commands] == [
        "converting the checkpoint",
        "building the engine",
        "reading the tokenizer",
    ]
    assert plan.gpu is not None
    lines = "\n".join(plan.lines())
    assert "LlamaForCausalLM for `trtllm` (backend tensorrtllm)" in lines
    assert "each GPU 1.5 GiB (weights 0 MiB, key/value cache 1 MiB, work 1.5 GiB)" in lines
    assert "runs: trtllm-build --checkpoint_dir SCRATCH --output_dir FOLDER/engine" in lines
    TARGET.check(model_with(), llama, BUILDER)


def test_the_plan_of_an_encoder_is_for_our_own_backend(tmp_path: Path) -> None:
    bert = open_checkpoint(write_encoder(tmp_path / "bert", "bert"))
    plan = TARGET.plan(model_with("embed", dtype="float16"), bert, BUILDER)
    assert (plan.backend, plan.cache_dtype) == ("trtllm_embed", "")
    assert plan.gpu is not None
    assert plan.gpu.cache == 0


def test_several_gpus_are_told(llama: Checkpoint) -> None:
    plan = TARGET.plan(model_with(tensor_parallel=2, pipeline_parallel=2), llama, BUILDER)
    assert "over 4 GPUs (tensor 2, pipeline 2)" in "\n".join(plan.lines())


def test_a_whisper_engine_is_planned_and_not_built(llama: Checkpoint) -> None:
    whisper = replace(llama, architecture="WhisperForConditionalGeneration")
    plan = TARGET.plan(model_with(dtype="float16"), whisper, BUILDER)
    assert [command.stage for command in plan.commands][1:] == [
        "building the encoder",
        "building the decoder",
    ]
    with pytest.raises(PlanError, match="planned and not built"):
        TARGET.check(model_with(dtype="float16"), whisper, BUILDER)


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (replace(BUILDER, gpus=()), "there is no NVIDIA GPU here; `--target cpu` needs none"),
        (replace(BUILDER, tensorrt_llm=""), "need TensorRT-LLM 1.2.1, found none"),
        (replace(BUILDER, tensorrt_llm="1.4.0"), "found 1.4.0: .* or `--target llmapi`"),
    ],
)
def test_a_machine_that_cannot_build_engines_is_refused(
    llama: Checkpoint, machine: Machine, message: str
) -> None:
    TARGET.plan(model_with(), llama, machine)
    with pytest.raises(PlanError, match=message):
        TARGET.check(model_with(), llama, machine)


def test_calibration_without_network_needs_a_folder(
    llama: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PlanError, match="HF_HUB_OFFLINE forbids to fetch them"):
        TARGET.check(model_with(dtype="fp8"), llama, BUILDER)
    TARGET.check(model_with(dtype="fp8", calibration_data="/texts"), llama, BUILDER)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"auto_map": {"AutoModel": "evil.py"}}, "`auto_map` in config.json asks for Python code"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantised weights \(`awq`\)"),
    ],
)
def test_a_checkpoint_that_the_converters_must_not_read_is_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    checkpoint = open_checkpoint(write_decoder(tmp_path / "x", "llama", **config))
    with pytest.raises(CheckpointError, match=message):
        TARGET.plan(model_with(), checkpoint, BUILDER)


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"kv_cache_tokens": 4096},
        {"max_lora_rank": 8, "lora_checkpoint": "/lora"},
        {"weight_streaming": True},
        {"shared_prefix_cache": True},
    ],
    ids=str,
)
def test_the_configuration_holds_parameters_that_the_backend_looks_up(
    recipe: dict[str, Any],
) -> None:
    model = model_with(**recipe)
    parameters = TARGET.parameters(model, Path("/models/b/2"))
    assert parameters.keys() <= TRTLLM_PARAMETERS
    assert parameters["gpt_model_path"] == "/models/b/2/engine"
    # It takes no salt: what is cached of one tenant's prompts must serve nobody else.
    shared = bool(recipe.get("shared_prefix_cache"))
    assert parameters["enable_kv_cache_reuse"] == str(shared).lower()
    # Read by the backend whether they are used or not.
    assert {"tokenizer_dir", "guided_decoding_backend"} <= parameters.keys()
    template = (TEMPLATES / "generate.pbtxt").read_text()
    render_config(template, model, backend="tensorrtllm", parameters=parameters, version=2)
