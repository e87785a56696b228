"""Every command line against the tables of TensorRT-LLM's own options."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from build_engines.checkpoint.families import FAMILIES, Family
from build_engines.checkpoint.files import CheckpointError
from build_engines.host.program import Command
from build_engines.targets.trtllm_commands import PRECISIONS, build_commands, needs_calibration
from orchestrator.contract.catalogue import DType, EngineRecipe, Model

DATA = Path(__file__).resolve().parents[1] / "data" / "trtllm_flags.json"
OPTIONS = json.loads(DATA.read_text())
CHAT = {family.name: family for family in FAMILIES.values() if family.task == "generate"}
CHAT.pop("pytorch")
ENCODERS = {family.name: family for family in FAMILIES.values() if family.task == "embed"}


def model_with(**recipe: Any) -> Model:
    return Model("a/b", "b", "generate", 4096, EngineRecipe("somewhere", **recipe))


def commands_for(family: Family, **recipe: Any) -> tuple[Command, ...]:
    return build_commands(
        family,
        model_with(**recipe),
        checkpoint=Path("/checkpoints/whisper-large-v3"),
        work=Path("/build"),
        engine=Path("/engine"),
        examples=Path("/app/examples"),
    )


def options_of(command: Command) -> dict[str, str]:
    """Options by name; the value of a switch is empty."""
    words = list(command.arguments)
    assert words[0] in ("python3", "trtllm-build")
    words = words[2:] if words[0] == "python3" else words[1:]
    options: dict[str, str] = {}
    while words:
        name = words.pop(0)
        assert name.startswith("--"), name
        options[name] = words.pop(0) if words and not words[0].startswith("--") else ""
    return options


def program_of(command: Command) -> str:
    first = command.arguments[0]
    if first != "python3":
        return first
    script = Path(command.arguments[1])
    return script.name if script.name in OPTIONS else f"{script.parent.name}/{script.name}"


def check_known(command: Command) -> None:
    known = OPTIONS[program_of(command)]
    for name, value in options_of(command).items():
        assert name in known, f"{command.arguments[0]} has no option {name}"
        words = known[name]
        if words == []:
            assert value == "", f"{name} takes no value"
        else:
            assert value != "", f"{name} needs a value"
            assert words is None or value in words, f"{name} does not know {value}"


SPREADS = [(1, 1), (2, 1), (4, 2)]


@pytest.mark.parametrize("spread", SPREADS, ids=str)
@pytest.mark.parametrize("cache", [None, "fp8", "int8"])
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("family", CHAT.values(), ids=lambda family: family.name)
def test_every_chat_family_and_precision_uses_known_options(
    family: Family, dtype: str, cache: str | None, spread: tuple[int, int]
) -> None:
    tensor, pipeline = spread if family.pipeline else (spread[0], 1)
    recipe = {"dtype": dtype, "kv_cache_dtype": cache}
    spread_over = {"tensor_parallel": tensor, "pipeline_parallel": pipeline}
    convert, build = commands_for(family, **recipe, **spread_over)
    check_known(convert)
    check_known(build)
    options = options_of(build)
    assert options["--max_batch_size"] == "32"
    assert options["--max_seq_len"] == "4096"
    assert options["--workers"] == str(tensor * pipeline)
    given = options_of(convert)
    spread_given = given.get("--tp_size") or given["--world-size"]
    assert spread_given == str(tensor)


def test_the_catalogue_names_what_the_engines_know() -> None:
    assert set(PRECISIONS) == set(get_args(DType))


@pytest.mark.parametrize(
    ("dtype", "cache", "expected"),
    [
        ("float16", None, ("llama/convert_checkpoint.py", "--dtype", "float16")),
        ("bfloat16", None, ("llama/convert_checkpoint.py", "--dtype", "bfloat16")),
        ("int8", None, ("llama/convert_checkpoint.py", "--weight_only_precision", "int8")),
        ("int4", None, ("llama/convert_checkpoint.py", "--weight_only_precision", "int4")),
        ("int8", "fp8", ("quantization/quantize.py", "--qformat", "int8_wo")),
        ("bfloat16", "fp8", ("quantization/quantize.py", "--qformat", "full_prec")),
        ("fp8", None, ("quantization/quantize.py", "--qformat", "fp8")),
        ("int4_awq", None, ("quantization/quantize.py", "--qformat", "int4_awq")),
        ("nvfp4", "fp8", ("quantization/quantize.py", "--qformat", "nvfp4")),
    ],
)
def test_a_precision_is_made_by_its_program(
    dtype: str, cache: str | None, expected: tuple[str, str, str]
) -> None:
    convert, _ = commands_for(CHAT["llama"], dtype=dtype, kv_cache_dtype=cache)
    program, option, value = expected
    assert program_of(convert) == program
    assert options_of(convert)[option] == value
    assert needs_calibration(model_with(dtype=dtype, kv_cache_dtype=cache)) == (
        program == "quantization/quantize.py"
    )


@pytest.mark.parametrize(
    ("recipe", "option", "value"),
    [
        ({"dtype": "fp8", "kv_cache_dtype": "fp8"}, "--use_fp8_context_fmha", "enable"),
        ({"dtype": "fp8"}, "--use_fp8_context_fmha", "disable"),
        ({"dtype": "nvfp4"}, "--gemm_plugin", "nvfp4"),
        ({"dtype": "bfloat16"}, "--gemm_plugin", "auto"),
        ({"dtype": "bfloat16", "weight_streaming": True}, "--gemm_plugin", "disable"),
        ({"dtype": "bfloat16", "weight_streaming": True}, "--weight_streaming", ""),
        ({"max_lora_rank": 16, "lora_checkpoint": "/lora"}, "--max_lora_rank", "16"),
        ({"max_lora_rank": 16, "lora_checkpoint": "/lora"}, "--lora_dir", "/lora"),
        ({"generation_logits": True}, "--gather_generation_logits", ""),
        ({"max_num_tokens": 16, "max_batch_size": 64}, "--max_num_tokens", "64"),
    ],
)
def test_what_the_recipe_asks_reaches_the_builder(
    recipe: dict[str, Any], option: str, value: str
) -> None:
    _, build = commands_for(CHAT["qwen"], **recipe)
    check_known(build)
    assert options_of(build)[option] == value


def test_calibration_reads_the_folder_that_the_recipe_names() -> None:
    quantize, _ = commands_for(CHAT["mistral"], dtype="int4_awq", calibration_data="/texts")
    assert options_of(quantize)["--calib_dataset"] == "/texts"


@pytest.mark.parametrize(
    ("family", "dtype", "tensor"),
    list(itertools.product(ENCODERS.values(), ["float16", "float32"], [1, 2])),
    ids=str,
)
def test_encoders_are_converted_by_their_class_and_built_packed(
    family: Family, dtype: str, tensor: int
) -> None:
    convert, build = commands_for(family, dtype=dtype, tensor_parallel=tensor)
    check_known(convert)
    check_known(build)
    kind = {"bert": "BertModel", "roberta": "RobertaModel"}[family.name]
    assert options_of(convert)["--model"] == kind
    assert options_of(build)["--remove_input_padding"] == "enable"
    assert "--max_seq_len" not in options_of(build)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_whisper_is_an_encoder_and_a_decoder(dtype: str) -> None:
    whisper = FAMILIES["WhisperForConditionalGeneration"]
    convert, encoder, decoder = commands_for(whisper, dtype=dtype)
    for command in (convert, encoder, decoder):
        check_known(command)
    assert options_of(convert)["--model_name"] == "large-v3"
    assert options_of(encoder)["--output_dir"] == "/engine/encoder"
    assert options_of(encoder)["--gemm_plugin"] == "disable"
    assert options_of(decoder)["--checkpoint_dir"] == "/build/decoder"
    assert options_of(decoder)["--max_encoder_input_len"] == "3000"


@pytest.mark.parametrize(
    ("family", "recipe", "message"),
    [
        (ENCODERS["bert"], {"dtype": "bfloat16"}, "the bert family know: float32, float16"),
        (ENCODERS["bert"], {"dtype": "float16", "tensor_parallel": 4}, "encoders take 1 or 2"),
        (CHAT["llama"], {"max_lora_rank": 8}, "`max_lora_rank` is 8 and `lora_checkpoint` is mis"),
        (CHAT["gemma"], {"pipeline_parallel": 2}, "the gemma family must stay at 1"),
        (CHAT["phi"], {"pipeline_parallel": 2}, "the phi family must stay at 1"),
    ],
)
def test_what_a_converter_cannot_do_is_refused(
    family: Family, recipe: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        commands_for(family, **recipe)
