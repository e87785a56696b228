"""The known architectures, and the kinds of engine that can serve each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from build_engines.checkpoint.files import CheckpointError

Task = Literal["generate", "embed", "transcribe"]
TargetName = Literal["cpu", "trtllm", "llmapi"]


@dataclass(frozen=True, slots=True)
class Family:
    """Architectures with the same converter. `script` is its folder in TensorRT-LLM.

    `pipeline` says whether that converter can distribute layers over GPUs.
    """

    name: str
    task: Task
    targets: tuple[TargetName, ...]
    script: str = ""
    pipeline: bool = True


_LLAMA = Family("llama", "generate", ("cpu", "trtllm", "llmapi"), "llama")
_MISTRAL = Family("mistral", "generate", ("cpu", "trtllm", "llmapi"), "llama")
_MIXTRAL = Family("mistral", "generate", ("trtllm", "llmapi"), "llama")
_QWEN = Family("qwen", "generate", ("cpu", "trtllm", "llmapi"), "qwen")
_QWEN_MOE = Family("qwen", "generate", ("trtllm", "llmapi"), "qwen")
_GEMMA = Family("gemma", "generate", ("trtllm", "llmapi"), "gemma", pipeline=False)
_PHI = Family("phi", "generate", ("trtllm", "llmapi"), "phi", pipeline=False)
_PYTORCH = Family("pytorch", "generate", ("llmapi",))
_BERT = Family("bert", "embed", ("cpu", "trtllm"), "bert", pipeline=False)
_ROBERTA = Family("roberta", "embed", ("cpu", "trtllm"), "bert", pipeline=False)
_WHISPER = Family("whisper", "transcribe", ("trtllm",), "whisper", pipeline=False)

#: Sources: TensorRT-LLM 1.2.1, `MODEL_MAP` for engines; its list of PyTorch models for the rest.
FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _MISTRAL,
    "MixtralForCausalLM": _MIXTRAL,
    "Qwen2ForCausalLM": _QWEN,
    "Qwen3ForCausalLM": _QWEN,
    "Qwen2MoeForCausalLM": _QWEN_MOE,
    "Qwen3MoeForCausalLM": _QWEN_MOE,
    "GemmaForCausalLM": _GEMMA,
    "Gemma2ForCausalLM": _GEMMA,
    "Gemma3ForCausalLM": _GEMMA,
    "PhiForCausalLM": _PHI,
    "Phi3ForCausalLM": _PHI,
    "Llama4ForConditionalGeneration": _PYTORCH,
    "DeepseekV3ForCausalLM": _PYTORCH,
    "GptOssForCausalLM": _PYTORCH,
    "Qwen3NextForCausalLM": _PYTORCH,
    "NemotronHForCausalLM": _PYTORCH,
    "BertModel": _BERT,
    "BertForMaskedLM": _BERT,
    "RobertaModel": _ROBERTA,
    "RobertaForMaskedLM": _ROBERTA,
    "XLMRobertaModel": _ROBERTA,
    "XLMRobertaForMaskedLM": _ROBERTA,
    "WhisperForConditionalGeneration": _WHISPER,
}


def family_of(architecture: str) -> Family:
    """Returns the family of an architecture. Raises: CheckpointError."""
    family = FAMILIES.get(architecture)
    if family is None:
        raise CheckpointError(
            f"architecture `{architecture}` is unsupported by every target; "
            f"known: {', '.join(FAMILIES)}"
        )
    return family


def check_served(architecture: str, task: str, target: TargetName) -> Family:
    """Returns the family if `target` serves its `task`. Raises: CheckpointError naming who can."""
    family = family_of(architecture)
    if family.task != task and family.task != "transcribe":
        known = ", ".join(
            name
            for name, other in FAMILIES.items()
            if other.task == task and target in other.targets
        )
        raise CheckpointError(
            f"architecture `{architecture}` is unsupported for the task `{task}`, "
            f"it is one to {family.task}; known: {known}"
        )
    if target not in family.targets:
        able = " or ".join(f"`--target {name}`" for name in family.targets)
        raise CheckpointError(
            f"architecture `{architecture}` is unsupported by the target `{target}`; "
            f"{able} serves it"
        )
    return family
