from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from build_engines.checkpoint.families import TargetName
from build_engines.host.machine import Gpu, Machine
from build_engines.targets.table import TARGETS, default_target, load_target
from orchestrator.contract.catalogue import EngineRecipe, Model
from tests.reference.checkpoints import write_decoder, write_encoder

GPU = (Gpu("NVIDIA H100", 80 << 30, (9, 0), "580.1"),)


def model_of(checkpoint: Path, task: Any) -> Model:
    return Model("a/b", "b", task, 128, EngineRecipe(str(checkpoint)))


@pytest.mark.parametrize(
    ("installed", "architecture", "target"),
    [
        ("1.2.1", "LlamaForCausalLM", "trtllm"),
        ("1.2.1", "GptOssForCausalLM", "llmapi"),
        ("1.2.1", "BertModel", "trtllm"),
        ("1.4.0", "LlamaForCausalLM", "llmapi"),
        ("1.4.0", "BertModel", "cpu"),
        ("", "LlamaForCausalLM", "cpu"),
    ],
)
def test_the_target_is_what_machine_and_architecture_both_have(
    tmp_path: Path, installed: str, architecture: str, target: TargetName
) -> None:
    if architecture == "BertModel":
        model = model_of(write_encoder(tmp_path / "x", "bert"), "embed")
    else:
        folder = write_decoder(tmp_path / "x", "llama", architectures=[architecture])
        model = model_of(folder, "generate")
    assert default_target(model, tmp_path, Machine(GPU, 1, 1, installed)) == target


def test_a_checkpoint_that_cannot_be_read_is_left_to_the_build(tmp_path: Path) -> None:
    model = model_of(tmp_path / "nowhere", "generate")
    assert default_target(model, tmp_path, Machine(GPU, 1, 1, "1.2.1")) == "trtllm"


def test_every_target_can_be_loaded_where_its_engine_cannot_run() -> None:
    assert {load_target(name).name for name in TARGETS} == set(TARGETS)
