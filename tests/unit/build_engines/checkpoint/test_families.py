from __future__ import annotations

import pytest

from build_engines.checkpoint.families import FAMILIES, check_served
from build_engines.checkpoint.files import CheckpointError
from build_engines.targets.cpu_graphs.architecture import DECODERS, ENCODERS


def test_the_cpu_engine_is_listed_with_all_that_it_knows() -> None:
    listed = {name for name, family in FAMILIES.items() if "cpu" in family.targets}
    assert listed == {*DECODERS, *ENCODERS}


@pytest.mark.parametrize(
    ("architecture", "task", "target", "message"),
    [
        (
            "Gemma2ForCausalLM",
            "generate",
            "cpu",
            "`--target trtllm` or `--target llmapi` serves it",
        ),
        ("Llama4ForConditionalGeneration", "generate", "trtllm", "`--target llmapi` serves it"),
        ("BertModel", "embed", "llmapi", "`--target cpu` or `--target trtllm` serves it"),
        ("BertModel", "generate", "cpu", "for the task `generate`, it is one to embed"),
        ("T5ForConditionalGeneration", "generate", "cpu", "is unsupported by every target; known"),
    ],
)
def test_who_could_serve_an_architecture_is_said(
    architecture: str, task: str, target: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_served(architecture, task, target)  # type: ignore[arg-type]  # a plain word


def test_a_served_architecture_has_a_family() -> None:
    assert check_served("Qwen3ForCausalLM", "generate", "cpu").name == "qwen"
    assert check_served("XLMRobertaModel", "embed", "trtllm").name == "roberta"
