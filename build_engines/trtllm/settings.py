"""The parameters of `config.pbtxt` for TensorRT-LLM's C++ backend.

Source: NVIDIA/TensorRT-LLM, triton_backend/all_models/inflight_batcher_llm, docs/model_config.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.contract.catalogue import Model

_WORKER = "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker"


def engine_parameters(model: Model, folder: Path, engine: str) -> Mapping[str, str]:
    """Returns the parameters for artefacts in `folder`: TensorRT-LLM needs absolute paths."""
    recipe, folder = model.engine, folder.absolute()
    parameters = {
        "max_beam_width": "1",
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": str(folder / engine),
        "executor_worker_path": _WORKER,
        "batch_scheduler_policy": "guaranteed_no_evict",
        "kv_cache_free_gpu_mem_fraction": f"{recipe.kv_cache_fraction:g}",
        "exclude_input_in_output": "true",
        # The C++ backend passes no salt to the executor, so it cannot separate tenants.
        "enable_kv_cache_reuse": "true" if recipe.shared_prefix_cache else "false",
        "enable_chunked_context": "true",
        "normalize_log_probs": "true",
        "cancellation_check_period_ms": "100",
        "stats_check_period_ms": "100",
        "gpu_weights_percent": "0.5" if recipe.weight_streaming else "1.0",
        # The backend reads these three even if no guides are used.
        "tokenizer_dir": str(folder),
        "guided_decoding_backend": "xgrammar",
        "xgrammar_tokenizer_info_path": str(folder / engine / "xgrammar_tokenizer_info.json"),
    }
    if recipe.kv_cache_tokens is not None:
        parameters["max_tokens_in_paged_kv_cache"] = str(recipe.kv_cache_tokens)
    if recipe.max_lora_rank:
        parameters["lora_cache_max_adapter_size"] = str(recipe.max_lora_rank)
    return parameters
