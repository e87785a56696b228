"""The templates, parsed by Triton's own protobuf, against TensorRT-LLM's contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from build_engines.repository.configuration import TRTLLM_PARAMETERS, render_config
from orchestrator.contract.catalogue import EngineRecipe, Model, Task
from tests.unit.build_engines.conftest import TEMPLATES

CONTRACT = json.loads((Path(__file__).parent / "data" / "tensor_contract.json").read_text())


def rendered(task: Task, **parameters: str) -> Any:
    model = Model("test/model", "test-model", task, 128, EngineRecipe("x", max_batch_size=7))
    template = (TEMPLATES / f"{task}.pbtxt").read_text()
    text = render_config(template, model, backend="cpu", parameters=parameters)
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def as_contract(tensor: Any) -> dict[str, Any]:
    kind = model_config_pb2.DataType.Name(tensor.data_type)
    described = {"name": tensor.name, "data_type": kind, "dims": list(tensor.dims)}
    for flag in ("optional", "allow_ragged_batch"):
        if getattr(tensor, flag, False):
            described[flag] = True
    if tensor.HasField("reshape"):
        described["reshape"] = list(tensor.reshape.shape)
    return described


@pytest.mark.parametrize("task", ["generate", "embed"])
def test_every_tensor_is_as_the_contract_says(task: Task) -> None:
    config, contract = rendered(task), CONTRACT[task]
    inputs = [*contract["inputs"], *contract.get("own_inputs", [])]
    outputs = [*contract["outputs"], *contract.get("own_outputs", [])]
    assert [as_contract(tensor) for tensor in config.input] == inputs
    assert [as_contract(tensor) for tensor in config.output] == outputs


def test_generation_is_decoupled_and_embedding_is_not() -> None:
    generate, embed = rendered("generate"), rendered("embed")
    assert generate.model_transaction_policy.decoupled
    assert not embed.model_transaction_policy.decoupled
    assert generate.max_batch_size == embed.max_batch_size == 7
    assert generate.name == "test-model"
    assert generate.backend == "cpu"


@pytest.mark.parametrize("task", ["generate", "embed"])
def test_no_queue_policy_makes_the_batcher_stall(task: Task) -> None:
    config = rendered(task)
    assert config.HasField("dynamic_batching")
    assert not config.dynamic_batching.HasField("default_queue_policy")


def test_parameters_survive_quotes_and_backslashes() -> None:
    config = rendered("generate", path='a "b" \\ c', other="ü")
    values = {key: value.string_value for key, value in config.parameters.items()}
    assert values == {"path": 'a "b" \\ c', "other": "ü"}


def test_the_parameters_that_tensorrt_llm_looks_up_are_known() -> None:
    assert set(CONTRACT["generate"]["parameters"]) == TRTLLM_PARAMETERS
