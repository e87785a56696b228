"""Command lines of TensorRT-LLM's programs, for every family and precision.

Written for version 1.2.1. Sources: its examples/models/core/*/convert_checkpoint.py,
examples/quantization/quantize.py and `trtllm-build --help`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from build_engines.checkpoint.families import Family
from build_engines.checkpoint.files import CheckpointError
from build_engines.host.program import Command
from orchestrator.contract.catalogue import Model

VERSION = "1.2.1"
PRECISIONS = ("float32", "float16", "bfloat16", "fp8", "int8", "int4", "int4_awq", "nvfp4")

#: The names in quantize.py for the catalogue's `dtype`.
_FORMATS: Mapping[str, str] = {
    "fp8": "fp8",
    "int8": "int8_wo",
    "int4": "int4_wo",
    "int4_awq": "int4_awq",
    "nvfp4": "nvfp4",
}
#: These need sample texts to find their scales.
CALIBRATED = frozenset({"fp8", "int4_awq", "nvfp4"})
_WEIGHT_ONLY = frozenset({"int8", "int4"})

_WHISPER_FRAMES = 3000
_WHISPER_PROMPT = 14
_WHISPER_TOKENS = 114


def build_commands(
    family: Family, model: Model, *, checkpoint: Path, work: Path, engine: Path, examples: Path
) -> tuple[Command, ...]:
    """Returns all programs of one build, in order. Raises: CheckpointError.

    `work` is for intermediate files; it may be deleted afterwards.
    """
    check_precision(family, model)
    scripts = _Scripts(examples, checkpoint, work)
    if family.name == "whisper":
        return _whisper(family, model, scripts, engine)
    if family.task == "embed":
        return (_convert_encoder(family, model, scripts), _build_encoder(model, work, engine))
    return (_convert(family, model, scripts), _build(model, work, engine))


def check_precision(family: Family, model: Model) -> None:
    """Refuses a precision that the family's converter does not support. Raises: CheckpointError."""
    engine = model.engine
    known: tuple[str, ...] = PRECISIONS
    if family.task == "embed":
        known = ("float32", "float16")
    elif family.task == "transcribe":
        known = ("float16", "int8")
    if engine.dtype not in known:
        raise CheckpointError(
            f"`dtype` is `{engine.dtype}` in the catalogue; "
            f"TensorRT engines of the {family.name} family know: {', '.join(known)}"
        )
    if engine.max_lora_rank and engine.lora_checkpoint is None:
        raise CheckpointError(
            f"`max_lora_rank` is {engine.max_lora_rank} and `lora_checkpoint` is missing: "
            "an adapter says which matrices are adapted"
        )
    if engine.pipeline_parallel > 1 and not family.pipeline:
        raise CheckpointError(
            f"`pipeline_parallel` is {engine.pipeline_parallel}, the {family.name} family "
            "must stay at 1: use `tensor_parallel`"
        )
    if family.task == "embed" and engine.tensor_parallel > 2:
        raise CheckpointError(
            f"`tensor_parallel` is {engine.tensor_parallel}, encoders take 1 or 2"
        )


def needs_calibration(model: Model) -> bool:
    """Whether the build needs sample texts."""
    return model.engine.dtype in CALIBRATED or model.engine.kv_cache_dtype is not None


class _Scripts:
    """The paths of the converters, of their input and of their output."""

    def __init__(self, examples: Path, checkpoint: Path, work: Path) -> None:
        self._examples = examples
        self.checkpoint = checkpoint
        self.work = work

    def converter(self, family: Family) -> list[str]:
        script = self._examples / "models" / "core" / family.script / "convert_checkpoint.py"
        return ["python3", str(script)]

    def quantizer(self) -> list[str]:
        return ["python3", str(self._examples / "quantization" / "quantize.py")]


def _convert(family: Family, model: Model, scripts: _Scripts) -> Command:
    """Uses quantize.py for calibration and a quantised cache, else the converter."""
    if needs_calibration(model):
        return _quantize(model, scripts)
    engine = model.engine
    arguments = scripts.converter(family)
    if family.name == "gemma":
        # The only converter with hyphens in its options, and without pipelines.
        arguments += ["--ckpt-type", "hf", "--model-dir", str(scripts.checkpoint)]
        arguments += ["--output-model-dir", str(scripts.work)]
        arguments += ["--world-size", str(engine.tensor_parallel)]
    else:
        arguments += ["--model_dir", str(scripts.checkpoint), "--output_dir", str(scripts.work)]
        arguments += ["--tp_size", str(engine.tensor_parallel)]
        arguments += ["--pp_size", str(engine.pipeline_parallel)]
    arguments += ["--dtype", _compute_type(model)]
    if engine.dtype in _WEIGHT_ONLY:
        arguments += ["--use_weight_only", "--weight_only_precision", engine.dtype]
    if family.name in ("llama", "mistral"):
        # Otherwise the host memory holds the whole checkpoint several times.
        arguments += ["--load_by_shard"]
    if family.name == "gemma":
        arguments += ["--load_model_on_cpu"]
    return Command("converting the checkpoint", tuple(arguments))


def _quantize(model: Model, scripts: _Scripts) -> Command:
    engine = model.engine
    arguments = [
        *scripts.quantizer(),
        *("--model_dir", str(scripts.checkpoint), "--output_dir", str(scripts.work)),
        *("--dtype", _compute_type(model)),
        *("--qformat", _FORMATS.get(engine.dtype, "full_prec")),
        *("--tp_size", str(engine.tensor_parallel), "--pp_size", str(engine.pipeline_parallel)),
    ]
    if engine.dtype == "int4_awq":
        arguments += ["--awq_block_size", "128"]
    if engine.kv_cache_dtype is not None:
        arguments += ["--kv_cache_dtype", engine.kv_cache_dtype]
    if engine.calibration_data is not None:
        arguments += ["--calib_dataset", engine.calibration_data]
    return Command("quantising the checkpoint", tuple(arguments))


def _build(model: Model, work: Path, engine_dir: Path) -> Command:
    engine = model.engine
    arguments = [
        *_builder(work, engine_dir),
        *("--max_batch_size", str(engine.max_batch_size)),
        *("--max_input_len", str(max(1, model.context_tokens - 1))),
        *("--max_seq_len", str(model.context_tokens)),
        *("--max_num_tokens", str(max(engine.max_num_tokens, engine.max_batch_size))),
        *("--max_beam_width", "1", "--kv_cache_type", "paged"),
        *("--gpt_attention_plugin", "auto", "--gemm_plugin", _gemm_plugin(model)),
        *("--remove_input_padding", "enable", "--context_fmha", "enable"),
        *("--use_paged_context_fmha", "enable", "--multiple_profiles", "enable"),
        *("--use_fp8_context_fmha", "enable" if _fp8_attention(model) else "disable"),
        *("--workers", str(engine.tensor_parallel * engine.pipeline_parallel)),
    ]
    if engine.generation_logits:
        arguments += ["--gather_generation_logits"]
    if engine.weight_streaming:
        arguments += ["--weight_streaming"]
    if engine.max_lora_rank:
        arguments += ["--lora_plugin", "auto", "--max_lora_rank", str(engine.max_lora_rank)]
        # Shows the builder which matrices are adapted.
        assert engine.lora_checkpoint is not None
        arguments += ["--lora_dir", engine.lora_checkpoint, "--lora_ckpt_source", "hf"]
    return Command("building the engine", tuple(arguments))


def _gemm_plugin(model: Model) -> str:
    if model.engine.weight_streaming:
        # A plugin would keep its weights on the GPU.
        return "disable"
    return "nvfp4" if model.engine.dtype == "nvfp4" else "auto"


def _fp8_attention(model: Model) -> bool:
    """Whether both activations and cache are fp8, which fp8 attention needs."""
    return model.engine.dtype == "fp8" and model.engine.kv_cache_dtype == "fp8"


def _convert_encoder(family: Family, model: Model, scripts: _Scripts) -> Command:
    kind = "RobertaModel" if family.name == "roberta" else "BertModel"
    arguments = [
        *scripts.converter(family),
        *("--model", kind, "--model_dir", str(scripts.checkpoint)),
        *("--output_dir", str(scripts.work), "--dtype", model.engine.dtype),
        *("--tp_size", str(model.engine.tensor_parallel)),
    ]
    return Command("converting the checkpoint", tuple(arguments))


def _build_encoder(model: Model, work: Path, engine_dir: Path) -> Command:
    """Returns the command for a packed engine: texts are concatenated without padding."""
    engine = model.engine
    arguments = [
        *_builder(work, engine_dir),
        *("--max_batch_size", str(engine.max_batch_size)),
        *("--max_input_len", str(model.context_tokens)),
        *("--max_num_tokens", str(max(engine.max_num_tokens, model.context_tokens))),
        *("--remove_input_padding", "enable", "--context_fmha", "enable"),
        *("--bert_attention_plugin", engine.dtype),
    ]
    return Command("building the engine", tuple(arguments))


def _whisper(
    family: Family, model: Model, scripts: _Scripts, engine_dir: Path
) -> tuple[Command, ...]:
    """Returns the commands for encoder and decoder. The converter reads OpenAI's published weights,
    named by size.
    """
    engine = model.engine
    convert = [
        *scripts.converter(family),
        *("--model_dir", str(scripts.checkpoint), "--output_dir", str(scripts.work)),
        *("--model_name", scripts.checkpoint.name.removeprefix("whisper-")),
    ]
    if engine.dtype == "int8":
        convert += ["--use_weight_only", "--weight_only_precision", "int8"]
    shared = ["--moe_plugin", "disable", "--max_batch_size", str(engine.max_batch_size)]
    shared += ["--bert_attention_plugin", "float16"]
    encoder = [
        *_builder(scripts.work / "encoder", engine_dir / "encoder"),
        *shared,
        *("--gemm_plugin", "disable"),
        *("--max_input_len", str(_WHISPER_FRAMES), "--max_seq_len", str(_WHISPER_FRAMES)),
    ]
    decoder = [
        *_builder(scripts.work / "decoder", engine_dir / "decoder"),
        *shared,
        *("--gemm_plugin", "float16", "--gpt_attention_plugin", "float16"),
        *("--max_beam_width", "1", "--max_seq_len", str(_WHISPER_TOKENS)),
        *("--max_input_len", str(_WHISPER_PROMPT)),
        *("--max_encoder_input_len", str(_WHISPER_FRAMES)),
    ]
    return (
        Command("converting the checkpoint", tuple(convert)),
        Command("building the encoder", tuple(encoder)),
        Command("building the decoder", tuple(decoder)),
    )


def _builder(work: Path, engine_dir: Path) -> list[str]:
    return ["trtllm-build", "--checkpoint_dir", str(work), "--output_dir", str(engine_dir)]


def _compute_type(model: Model) -> str:
    """Returns the type of weights that are not quantised: by default the checkpoint's own."""
    dtype = model.engine.dtype
    return dtype if dtype in ("float32", "float16", "bfloat16") else "auto"
