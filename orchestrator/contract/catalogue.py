"""The catalogue: the models of this appliance, read from `model_repository/catalogue.toml`.

The engine builder, the `config.pbtxt` renderer and the orchestrator read it, so this module imports
only the standard library.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

Task = Literal["generate", "embed"]
DType = Literal["float32", "float16", "bfloat16", "int8", "int4", "int4_awq", "fp8", "nvfp4"]
CacheDType = Literal["fp8", "int8"]
Target = Literal["cpu", "trtllm", "llmapi"]
Parser = Literal["plain", "hermes", "qwen", "llama3", "mistral", "gemma"]
Reasoning = Literal["none", "think"]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int,),
    "str": (str,),
    "str | None": (str,),
    "float": (float, int),
    "bool": (bool,),
}


class CatalogueError(ValueError):
    """The catalogue cannot be used; the message names the file, the model and the key."""


@dataclass(frozen=True, slots=True)
class EngineRecipe:
    """How to build a model.

    `checkpoint` is a folder (relative to the project root) or a hub id with `revision`; `sha256`
    pins its files to a digest that the builder prints. `dtype` is the storage type of the weights:
    `int8` and `int4` are weight-only, and only the GPU supports the last three. `max_batch_size`
    is the number of concurrent sequences, `kv_cache_tokens` the tokens that the key/value cache
    holds for all of them (`None`: every sequence at full length). With `shared_prefix_cache`, all
    tenants use each other's cached prompts; token counts and latencies then reveal that.
    `overrides` are other values of the same keys for one target: `[model.engine.trtllm]`.
    """

    checkpoint: str
    dtype: DType = "float32"
    max_batch_size: int = 32
    max_queue_size: int = 256
    kv_cache_tokens: int | None = None
    revision: str | None = None
    sha256: str | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    max_num_tokens: int = 8192
    kv_cache_dtype: CacheDType | None = None
    kv_cache_fraction: float = 0.9
    weight_streaming: bool = False
    max_lora_rank: int = 0
    lora_checkpoint: str | None = None
    generation_logits: bool = False
    calibration_data: str | None = None
    shared_prefix_cache: bool = False
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def for_target(self, target: str) -> EngineRecipe:
        """Returns this recipe with the overrides of `target` applied."""
        return replace(self, **self.overrides.get(target, {}), overrides={})


@dataclass(frozen=True, slots=True)
class Model:
    """One entry. Callers use `id` and `aliases`; `name` is Triton's directory.

    `tritons` are the servers that it runs on, by their names in the settings; empty means the
    appliance's only Triton.
    """

    id: str
    name: str
    task: Task
    context_tokens: int
    engine: EngineRecipe
    parser: Parser = "plain"
    reasoning: Reasoning = "none"
    owned_by: str = "operayde"
    created: int = 0
    aliases: tuple[str, ...] = ()
    tritons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All models, in the order of the file."""

    models: tuple[Model, ...]

    def find(self, name: str) -> Model | None:
        """Returns the model whose id or alias is `name`."""
        for model in self.models:
            if name == model.id or name in model.aliases:
                return model
        return None


def load_catalogue(path: Path) -> Catalogue:
    """Reads the catalogue at `path`. Raises: CatalogueError."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogueError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    if unknown := set(document) - {"model"}:
        raise CatalogueError(f"{path}: unknown table `{min(unknown)}`")
    models = tuple(_model(path, entry) for entry in document.get("model", []))
    _check_unique(path, models)
    return Catalogue(models)


def _model(path: Path, entry: Mapping[str, Any]) -> Model:
    where = f"{path}: model `{entry.get('id', '?')}`"
    values = _checked(where, Model, entry)
    engine = values.get("engine")
    if not isinstance(engine, Mapping):
        raise CatalogueError(f"{where}: `engine` must be a table")
    values["engine"] = _recipe(f"{where}: engine", engine)
    values["aliases"] = tuple(values.get("aliases", ()))
    values["tritons"] = _tritons(where, values.get("tritons", []))
    model = Model(**values)
    if model.task not in get_args(Task):
        raise CatalogueError(f"{where}: `task` is `{model.task}`, allowed: {get_args(Task)}")
    if model.parser not in get_args(Parser):
        raise CatalogueError(f"{where}: `parser` is `{model.parser}`, allowed: {get_args(Parser)}")
    if model.reasoning not in get_args(Reasoning):
        allowed = get_args(Reasoning)
        raise CatalogueError(f"{where}: `reasoning` is `{model.reasoning}`, allowed: {allowed}")
    if not model.name or "/" in model.name or model.name.startswith("."):
        raise CatalogueError(f"{where}: `name` is `{model.name}`, not a folder name")
    if model.context_tokens < 1:
        raise CatalogueError(f"{where}: `context_tokens` is {model.context_tokens}, must be >= 1")
    return model


def _tritons(where: str, names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise CatalogueError(f"{where}: `tritons` must be a list of names")
    if len(set(names)) < len(names):
        raise CatalogueError(f"{where}: `tritons` names a server twice")
    return tuple(names)


def _recipe(where: str, entry: Mapping[str, Any]) -> EngineRecipe:
    """Returns the recipe of an `engine` table; its tables of targets become `overrides`."""
    if "overrides" in entry:
        raise CatalogueError(f"{where}: unknown key `overrides`")
    targets = [name for name in get_args(Target) if name in entry]
    own = {key: value for key, value in entry.items() if key not in targets}
    recipe = EngineRecipe(**_checked(where, EngineRecipe, own))
    overrides = {}
    for name in targets:
        if not isinstance(entry[name], Mapping):
            raise CatalogueError(f"{where}: `{name}` must be a table")
        merged = _checked(f"{where}: {name}", EngineRecipe, {**own, **entry[name]})
        overrides[name] = {key: merged[key] for key in entry[name]}
    return replace(recipe, overrides=overrides)


def _checked(where: str, shape: type, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `entry` as arguments of the dataclass `shape`; unknown or missing keys raise."""
    known = {f.name: f for f in fields(shape)}
    for key in entry:
        if key not in known:
            raise CatalogueError(f"{where}: unknown key `{key}`")
    required = shape.__match_args__  # type: ignore[attr-defined]  # every dataclass has it
    for name in cast("tuple[str, ...]", required):
        field = known[name]
        if name not in entry and _has_no_default(field):
            raise CatalogueError(f"{where}: `{name}` is missing")
        expected = _TYPES.get(str(field.type))
        if name in entry and expected and type(entry[name]) not in expected:
            raise CatalogueError(f"{where}: `{name}` must be of type {field.type}")
    return dict(entry)


def _has_no_default(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _check_unique(path: Path, models: tuple[Model, ...]) -> None:
    seen: set[str] = set()
    for model in models:
        for name in (model.id, *model.aliases, f"directory {model.name}"):
            if name in seen:
                raise CatalogueError(f"{path}: `{name}` is used twice")
            seen.add(name)
