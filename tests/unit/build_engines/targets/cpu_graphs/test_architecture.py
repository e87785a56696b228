from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from build_engines.checkpoint.files import CheckpointError
from build_engines.targets.cpu_graphs.architecture import (
    decoder_shape,
    encoder_shape,
    inverse_frequencies,
)
from tests.reference.checkpoints import DECODER_CONFIGS, ENCODER_CONFIGS


def config(kind: str, **changes: Any) -> dict[str, Any]:
    return {**DECODER_CONFIGS[kind], **changes}


def test_shapes_come_from_the_configuration() -> None:
    shape = decoder_shape("Qwen3ForCausalLM", config("qwen3"), 128)
    assert (shape.head_dim, shape.num_kv_heads, shape.qk_norm) == (32, 2, True)
    assert decoder_shape("Qwen2ForCausalLM", config("qwen2"), 128).attention_bias == (True, False)
    biased = decoder_shape("LlamaForCausalLM", config("llama", attention_bias=True), 128)
    assert biased.attention_bias == (True, True)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("GPT2LMHeadModel", {}, "architecture `GPT2LMHeadModel` is unsupported; known: Llama"),
        ("LlamaForCausalLM", {"hidden_act": "gelu"}, "`hidden_act` is `gelu`"),
        ("LlamaForCausalLM", {"hidden_size": None}, "`hidden_size` is None"),
        ("LlamaForCausalLM", {"num_key_value_heads": 3}, "no multiple of `num_key_value_heads` 3"),
        ("LlamaForCausalLM", {"rope_scaling": {"rope_type": "yarn"}}, "rope scaling `yarn`"),
        ("LlamaForCausalLM", {"partial_rotary_factor": 0.5}, "`partial_rotary_factor` is 0.5"),
        ("MistralForCausalLM", {"sliding_window": 100}, "`sliding_window` of 100 .* at most 100"),
        (
            "Qwen2ForCausalLM",
            {"sliding_window": 100, "use_sliding_window": True},
            "`sliding_window` of 100",
        ),
    ],
)
def test_an_unsupported_decoder_is_refused(
    architecture: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        decoder_shape(architecture, config("llama", **changes), 128)


def test_a_window_that_is_never_reached_does_not_matter() -> None:
    decoder_shape("MistralForCausalLM", config("mistral", sliding_window=128), 128)
    decoder_shape("Qwen2ForCausalLM", config("qwen2", sliding_window=64), 128)


def test_rope_is_read_in_the_old_and_the_new_spelling() -> None:
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
    assert inverse_frequencies(old, 8) == pytest.approx(inverse_frequencies(new, 8))
    assert inverse_frequencies(old, 8)[0] == 0.5


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones() -> None:
    plain = inverse_frequencies({"rope_theta": 5e5}, 64)
    scaled = inverse_frequencies(DECODER_CONFIGS["llama3"], 64)
    ratio = plain / scaled
    assert ratio[0] == pytest.approx(1.0)
    assert ratio[-1] == pytest.approx(8.0)
    assert (np.diff(ratio) >= -1e-9).all()


def test_positions_of_roberta_start_behind_its_padding() -> None:
    assert encoder_shape("BertModel", ENCODER_CONFIGS["bert"]).max_positions == 130
    roberta = encoder_shape("RobertaModel", ENCODER_CONFIGS["roberta"])
    assert (roberta.position_offset, roberta.max_positions) == (2, 128)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("DebertaModel", {}, "architecture `DebertaModel` is unsupported"),
        ("BertModel", {"position_embedding_type": "relative_key"}, "`relative_key`"),
        ("BertModel", {"hidden_act": "silu"}, "`hidden_act` is `silu`"),
    ],
)
def test_an_unsupported_encoder_is_refused(
    architecture: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        encoder_shape(architecture, {**ENCODER_CONFIGS["bert"], **changes})
