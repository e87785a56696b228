"""`config.pbtxt`: rendered from a task's template and checked before it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from string import Template

from orchestrator.contract.catalogue import Model


class ConfigurationError(ValueError):
    """The rendered `config.pbtxt` does not fit Triton or the engine."""


#: Tensors that the orchestrator needs to call a model, with Triton's types.
_REQUIRED: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "generate": (
        {
            "input_ids": "TYPE_INT32",
            "input_lengths": "TYPE_INT32",
            "request_output_len": "TYPE_INT32",
            "end_id": "TYPE_INT32",
            "streaming": "TYPE_BOOL",
            "stop": "TYPE_BOOL",
        },
        {"output_ids": "TYPE_INT32", "sequence_length": "TYPE_INT32"},
    ),
    "embed": (
        {"input_ids": "TYPE_INT32", "attention_mask": "TYPE_INT32"},
        {"embedding": "TYPE_FP32"},
    ),
}

#: The keys that TensorRT-LLM's C++ backend reads; it ignores a misspelt key without a message.
# fmt: off
TRTLLM_PARAMETERS = frozenset({
    "FORCE_CPU_ONLY_INPUT_TENSORS", "batch_scheduler_policy", "cancellation_check_period_ms",
    "cross_kv_cache_fraction", "cuda_graph_cache_size", "cuda_graph_mode", "decoding_mode",
    "eagle_choices", "enable_chunked_context", "enable_context_fmha_fp32_acc",
    "enable_kv_cache_reuse", "encoder_model_path", "exclude_input_in_output",
    "executor_worker_path", "gpt_model_path", "gpt_model_type", "gpu_device_ids",
    "gpu_weights_percent", "guided_decoding_backend", "iter_stats_max_iterations",
    "kv_cache_free_gpu_mem_fraction", "kv_cache_host_memory_bytes", "kv_cache_onboard_blocks",
    "lookahead_ngram_size", "lookahead_verification_set_size", "lookahead_window_size",
    "lora_cache_gpu_memory_fraction", "lora_cache_host_memory_bytes",
    "lora_cache_max_adapter_size", "lora_cache_optimal_adapter_size", "lora_prefetch_dir",
    "max_attention_window_size", "max_beam_width", "max_tokens_in_paged_kv_cache",
    "medusa_choices", "multi_block_mode", "normalize_log_probs", "num_nodes", "participant_ids",
    "request_stats_max_iterations", "sink_token_length", "speculative_decoding_fast_logits",
    "stats_check_period_ms", "tokenizer_dir", "xgrammar_tokenizer_info_path",
})
# fmt: on


def render_config(
    template: str,
    model: Model,
    *,
    backend: str,
    parameters: Mapping[str, str],
    version: int = 1,
    instance_kind: str = "KIND_CPU",
) -> str:
    """Renders and checks `config.pbtxt` for `version` of `model`. Raises: ConfigurationError."""
    text = Template(template).substitute(
        name=model.name,
        backend=backend,
        max_batch_size=model.engine.max_batch_size,
        instance_kind=instance_kind,
        parameters="".join(_parameter(key, value) for key, value in parameters.items()),
    )
    # The orchestrator also reads this line, which says which version is served.
    text += f"version_policy {{ specific {{ versions: [ {version} ] }} }}\n"
    _check(text, model, backend)
    return text


def _check(text: str, model: Model, backend: str) -> None:
    # Imported only when something is built: usually everything is up to date.
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ConfigurationError(f"config.pbtxt of `{model.name}`: {error}") from error
    if (config.name, config.backend) != (model.name, backend):
        raise ConfigurationError(
            f"config.pbtxt is for `{config.name}` on `{config.backend}`, "
            f"not for `{model.name}` on `{backend}`"
        )
    if config.model_transaction_policy.decoupled != (model.task == "generate"):
        raise ConfigurationError(
            f"config.pbtxt of `{model.name}`: `decoupled` must be true for generation only"
        )
    inputs, outputs = _REQUIRED[model.task]
    type_name = model_config_pb2.DataType.Name
    _check_tensors(model, inputs, {t.name: type_name(t.data_type) for t in config.input})
    _check_tensors(model, outputs, {t.name: type_name(t.data_type) for t in config.output})
    if backend == "tensorrtllm" and (unknown := set(config.parameters) - TRTLLM_PARAMETERS):
        raise ConfigurationError(
            f"config.pbtxt of `{model.name}`: TensorRT-LLM knows no parameter `{min(unknown)}`"
        )


def _check_tensors(model: Model, wanted: Mapping[str, str], kinds: Mapping[str, str]) -> None:
    for name, kind in wanted.items():
        if kinds.get(name) != kind:
            raise ConfigurationError(
                f"config.pbtxt of `{model.name}`: tensor `{name}` is {kinds.get(name, 'missing')}, "
                f"must be {kind}"
            )


def _parameter(key: str, value: str) -> str:
    # JSON's escapes are a subset of the escapes of protobuf's text format.
    return (
        f"parameters {{\n  key: {json.dumps(key)}\n"
        f"  value {{ string_value: {json.dumps(value)} }}\n}}\n"
    )
