from __future__ import annotations

import pytest

from build_engines.repository.configuration import ConfigurationError, render_config
from orchestrator.contract.catalogue import EngineRecipe, Model, Task
from tests.unit.build_engines.conftest import TEMPLATES


def render(task: Task, template: str = "", backend: str = "cpu", **parameters: str) -> str:
    model = Model("test/model", "model", task, 128, EngineRecipe("x"))
    text = template or (TEMPLATES / f"{task}.pbtxt").read_text()
    return render_config(text, model, backend=backend, parameters=parameters, version=4)


@pytest.mark.parametrize("task", ["generate", "embed"])
def test_the_version_that_is_served_is_named(task: Task) -> None:
    assert "version_policy { specific { versions: [ 4 ] } }\n" in render(task)


_STOP = 'name: "stop"\n    data_type: TYPE_'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name: "${name}"', 'name: "other"', "is for `other` on `cpu`, not for `model` on `cpu`"),
        ("decoupled: true", "decoupled: false", "`decoupled` must be true for generation only"),
        ('"input_lengths"', '"lengths"', "tensor `input_lengths` is missing, must be TYPE_INT32"),
        (f"{_STOP}BOOL", f"{_STOP}INT32", "tensor `stop` is TYPE_INT32, must be TYPE_BOOL"),
        ("max_batch_size:", "batch_size:", r"config\.pbtxt of `model`: .*batch_size"),
    ],
)
def test_a_template_that_does_not_keep_the_contract_is_refused(
    old: str, new: str, message: str
) -> None:
    text = (TEMPLATES / "generate.pbtxt").read_text()
    assert old in text
    with pytest.raises(ConfigurationError, match=message):
        render("generate", text.replace(old, new))


def test_a_parameter_that_tensorrt_llm_would_ignore_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match="TensorRT-LLM knows no parameter `gpt_modell_path`"
    ):
        render("generate", backend="tensorrtllm", gpt_modell_path="/x")
    assert "gpt_modell_path" in render("generate", gpt_modell_path="/x")
