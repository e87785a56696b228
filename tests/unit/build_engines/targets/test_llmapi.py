from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from build_engines.checkpoint.files import CheckpointError, open_checkpoint
from build_engines.host.machine import Gpu, Machine
from build_engines.plan import GIB, PlanError
from build_engines.targets.llmapi import LlmApiTarget, llm_arguments
from orchestrator.contract.catalogue import EngineRecipe, Model
from tests.reference.checkpoints import write_decoder

GPU = Gpu("NVIDIA H100", 80 * GIB, (9, 0), "580.1")
SERVER = Machine((GPU,), 256 * GIB, 250 * GIB, "1.4.0")
TARGET = LlmApiTarget()


def model_with(**recipe: Any) -> Model:
    values = {"dtype": "bfloat16", **recipe}
    return Model("a/b", "b", "generate", 128, EngineRecipe("somewhere", **values))


def test_the_arguments_are_the_recipes() -> None:
    arguments = llm_arguments(
        model_with(kv_cache_tokens=4096, kv_cache_dtype="fp8", tensor_parallel=2)
    )
    assert arguments["tensor_parallel_size"] == 2
    assert arguments["max_seq_len"] == 128
    assert arguments["trust_remote_code"] is False
    assert arguments["kv_cache_config"] == {
        "free_gpu_memory_fraction": 0.9,
        "enable_block_reuse": True,
        "max_tokens": 4096,
        "dtype": "fp8",
    }


def test_the_plan_says_that_nothing_is_compiled(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_decoder(tmp_path / "x", "llama"))
    plan = TARGET.plan(model_with(), checkpoint, SERVER)
    assert (plan.backend, plan.commands) == ("llmapi", ())
    assert "nothing is compiled" in "\n".join(plan.lines())
    TARGET.check(model_with(), checkpoint, SERVER)
    bare = Machine((GPU,), 256 * GIB, 250 * GIB)
    with pytest.raises(PlanError, match="TensorRT-LLM is not installed"):
        TARGET.check(model_with(), checkpoint, bare)


def test_only_a_checkpoint_that_was_quantised_is_served_so(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "x", "llama")
    with pytest.raises(CheckpointError, match=r"`dtype` is `fp8` .* of checkpoints that are so"):
        TARGET.plan(model_with(dtype="fp8"), open_checkpoint(folder), SERVER)
    (folder / "hf_quant_config.json").write_text("{}")
    assert TARGET.plan(model_with(dtype="fp8"), open_checkpoint(folder), SERVER).dtype == "fp8"
    with pytest.raises(CheckpointError, match="`dtype` is `int8`"):
        TARGET.plan(model_with(dtype="int8"), open_checkpoint(folder), SERVER)
