from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engines.checkpoint.files import open_checkpoint
from build_engines.checkpoint.network import Network, read_network
from build_engines.host.machine import Gpu, Machine
from build_engines.plan import (
    GIB,
    Plan,
    PlanError,
    check_gpus,
    check_host,
    check_length,
    gpu_memory,
    weight_bytes,
)
from orchestrator.contract.catalogue import EngineRecipe, Model
from tests.reference.checkpoints import write_decoder, write_safetensors

LAYERS, HIDDEN = 32, 4096
LLAMA_8B = Network(
    hidden_size=HIDDEN,
    intermediate_size=14336,
    num_layers=LAYERS,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=128256,
    max_positions=131072,
    windows=(0,) * LAYERS,
    linear_values=6_980_000_000,
    other_values=1_050_000_000,
)


def model_with(context: int = 8192, **recipe: Any) -> Model:
    values = {"dtype": "bfloat16", "max_batch_size": 64, **recipe}
    return Model("a/b", "b", "generate", context, EngineRecipe("somewhere", **values))


def machine_with(count: int = 1, gib: int = 80, capability: tuple[int, int] = (9, 0)) -> Machine:
    gpu = Gpu("NVIDIA H100", gib * GIB, capability, "580.1")
    return Machine((gpu,) * count, 512 * GIB, 500 * GIB, "1.2.1")


def test_weights_shrink_by_what_is_quantised_only() -> None:
    assert weight_bytes(LLAMA_8B, "bfloat16") == 2 * LLAMA_8B.values
    int4 = weight_bytes(LLAMA_8B, "int4_awq")
    assert int4 == (LLAMA_8B.linear_values * 9 // 2 + LLAMA_8B.other_values * 16) // 8


def test_the_cache_counts_shared_heads_once_per_gpu() -> None:
    # Two values of 8 heads times 128 in 32 layers, two bytes each: 128 KiB a token.
    one = gpu_memory(LLAMA_8B, model_with(context=1024, max_batch_size=1)).cache
    assert one == 2 * 8 * 128 * 32 * 2 * 1024
    cut = gpu_memory(LLAMA_8B, model_with(1024, max_batch_size=1, tensor_parallel=4)).cache
    assert cut == one // 4
    # 8 heads on 16 GPUs: each holds one, not half of one.
    many = gpu_memory(LLAMA_8B, model_with(1024, max_batch_size=1, tensor_parallel=16)).cache
    assert many == one // 8


@pytest.mark.parametrize(
    ("recipe", "share"),
    [
        ({"kv_cache_dtype": "fp8"}, 2),
        ({"kv_cache_dtype": "int8"}, 2),
        ({"pipeline_parallel": 2}, 2),
    ],
)
def test_the_cache_shrinks_with_its_type_and_with_pipelines(
    recipe: dict[str, Any], share: int
) -> None:
    plain = gpu_memory(LLAMA_8B, model_with()).cache
    assert gpu_memory(LLAMA_8B, model_with(**recipe)).cache == plain // share


def test_a_stated_cache_takes_the_place_of_a_full_batch() -> None:
    stated = gpu_memory(LLAMA_8B, model_with(kv_cache_tokens=8 * 8192)).cache
    assert stated == gpu_memory(LLAMA_8B, model_with(max_batch_size=8)).cache


def test_layers_with_a_window_hold_no_more_than_it() -> None:
    windows = (1024, 0) * (LAYERS // 2)
    network = Network(**{**_fields(LLAMA_8B), "windows": windows})
    assert network.cached_values(512) == LLAMA_8B.cached_values(512)
    assert network.cached_values(8192) == LLAMA_8B.cached_values(8192) * (1024 + 8192) // (2 * 8192)


def _fields(network: Network) -> dict[str, Any]:
    return {name: getattr(network, name) for name in network.__slots__}


def test_what_does_not_fit_is_refused_with_numbers_and_what_would() -> None:
    with pytest.raises(PlanError) as refused:
        check_gpus(model_with(), LLAMA_8B, machine_with(gib=48))
    text = str(refused.value)
    assert "64 sequences of 8192 tokens need 81.4 GiB (weights 15.0 GiB" in text
    assert "key/value cache 64.0 GiB" in text
    assert "NVIDIA H100 has 48.0 GiB" in text
    assert "`max_batch_size` 16" in text
    assert "`context_tokens` 2048" in text
    assert "`tensor_parallel` 2, on a machine with 2 GPUs would fit" in text


@pytest.mark.parametrize("change", [{"max_batch_size": 16}, {"context": 2048}])
def test_what_is_said_to_fit_does(change: dict[str, Any]) -> None:
    check_gpus(model_with(**change), LLAMA_8B, machine_with(gib=48))


def test_weights_that_fill_the_gpu_are_offered_a_smaller_precision() -> None:
    with pytest.raises(PlanError, match=r"`dtype` fp8, or `tensor_parallel` 2"):
        check_gpus(model_with(2048, max_batch_size=4), LLAMA_8B, machine_with(gib=14))
    old = machine_with(gib=14, capability=(8, 0))
    with pytest.raises(PlanError, match=r"`dtype` int8, or `tensor_parallel` 2"):
        check_gpus(model_with(2048, max_batch_size=4), LLAMA_8B, old)


@pytest.mark.parametrize(
    ("recipe", "machine", "message"),
    [
        ({"tensor_parallel": 2}, machine_with(), "needs 2 GPUs, this machine has 1"),
        ({"tensor_parallel": 3}, machine_with(4), "`tensor_parallel` is 3, must divide the 32"),
        ({"pipeline_parallel": 64}, machine_with(64), "must be from 1 to the 32 layers"),
        ({"dtype": "nvfp4"}, machine_with(), "`nvfp4` needs compute capability 10.0, NVIDIA H100"),
        (
            {"kv_cache_dtype": "fp8"},
            machine_with(capability=(8, 6)),
            "`fp8` needs compute capability 8.9, NVIDIA H100 has 8.6",
        ),
    ],
)
def test_what_the_gpus_cannot_do_is_refused(
    recipe: dict[str, Any], machine: Machine, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        check_gpus(model_with(**recipe), LLAMA_8B, machine)


def test_streamed_weights_need_not_fit() -> None:
    check_gpus(model_with(weight_streaming=True), LLAMA_8B, machine_with(gib=10))


def test_a_context_beyond_what_the_checkpoint_knows_is_refused() -> None:
    check_length(model_with(131072), LLAMA_8B)
    with pytest.raises(PlanError, match=r"`context_tokens` is 131072, .* positions up to 131070"):
        check_length(model_with(131072), LLAMA_8B, position_offset=2)


def test_yarn_stretches_the_context(tmp_path: Path) -> None:
    rope = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    folder = write_decoder(tmp_path / "x", "qwen2", rope_scaling=rope)
    assert read_network(open_checkpoint(folder)).max_positions == 2048


def test_a_build_that_would_be_killed_for_its_memory_is_refused() -> None:
    plan = Plan("cpu", "cpu", "X", "x", "int8", disk_bytes=0, host_bytes=600 * GIB)
    with pytest.raises(PlanError, match=r"about 600\.0 GiB of host memory, 500\.0 GiB of 512\.0"):
        check_host(plan, machine_with())


def test_a_network_is_measured_by_the_headers_of_its_weights(tmp_path: Path) -> None:
    network = read_network(open_checkpoint(write_decoder(tmp_path / "llama", "llama")))
    assert (network.num_layers, network.num_heads, network.num_kv_heads) == (2, 4, 2)
    assert (network.head_dim, network.vocab_size) == (16, 272)
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 112
    assert network.linear_values == 2 * layer
    assert network.other_values == 272 * 64 + 5 * 64


@pytest.mark.parametrize(
    ("architecture", "config", "windows"),
    [
        ("MistralForCausalLM", {"sliding_window": 64}, (64,) * 6),
        ("LlamaForCausalLM", {}, (0,) * 6),
        ("Qwen2ForCausalLM", {"sliding_window": 64, "use_sliding_window": False}, (0,) * 6),
        (
            "Qwen2ForCausalLM",
            {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 4},
            (0, 0, 0, 0, 64, 64),
        ),
        ("Gemma2ForCausalLM", {"sliding_window": 64}, (64, 0, 64, 0, 64, 0)),
        (
            "Gemma3ForCausalLM",
            {"sliding_window": 64, "sliding_window_pattern": 3},
            (64, 64, 0, 64, 64, 0),
        ),
        (
            "Gemma3ForCausalLM",
            {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"] * 3},
            (64, 0) * 3,
        ),
    ],
)
def test_every_family_looks_back_in_its_own_way(
    tmp_path: Path, architecture: str, config: dict[str, Any], windows: tuple[int, ...]
) -> None:
    folder = write_decoder(
        tmp_path / "x", "llama", architectures=[architecture], num_hidden_layers=6, **config
    )
    assert read_network(open_checkpoint(folder)).windows == windows


def test_a_language_model_that_also_sees_is_measured_by_its_own_part(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "x", "llama")
    config = json.loads((folder / "config.json").read_text())
    nested = {"architectures": config["architectures"], "text_config": config}
    (folder / "config.json").write_text(json.dumps(nested))
    write_safetensors(folder / "model.safetensors", {"w": np.zeros((2, 2), np.float32)})
    assert read_network(open_checkpoint(folder)).hidden_size == 64
