"""The catalogue, and what it says about a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.contract.catalogue import CatalogueError, load_catalogue
from orchestrator.settings import PROJECT_ROOT

GOOD = """
[[model]]
id = "acme/chat"
name = "acme-chat"
task = "generate"
context_tokens = 128
aliases = ["chat"]
[model.engine]
checkpoint = "somewhere"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "catalogue.toml"
    path.write_text(text)
    return path


def test_the_shipped_catalogue_loads() -> None:
    root = PROJECT_ROOT
    catalogue = load_catalogue(root / "model_repository" / "catalogue.toml")
    assert {model.task for model in catalogue.models} == {"generate", "embed"}


def test_a_model_is_found_by_id_and_by_alias(tmp_path: Path) -> None:
    catalogue = load_catalogue(write(tmp_path, GOOD))
    assert catalogue.find("acme/chat") is catalogue.find("chat") is catalogue.models[0]
    assert catalogue.find("acme-chat") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("task =", "tusk =", "unknown key `tusk`"),
        ('"generate"', '"dance"', "`task` is `dance`"),
        ("context_tokens = 128", "", "`context_tokens` is missing"),
        ("context_tokens = 128", 'context_tokens = "many"', "`context_tokens` must be of type int"),
        ("context_tokens = 128", "context_tokens = 0", "must be >= 1"),
        ('checkpoint = "somewhere"', "", "`checkpoint` is missing"),
        ('"acme-chat"', '"../chat"', "not a folder name"),
        ('["chat"]', '["acme/chat"]', "used twice"),
        ('"somewhere"', '"somewhere"\nmax_batch_size = true', "must be of type int"),
        ('"somewhere"', '"somewhere"\nkv_cache_tokens = "2k"', "must be of type int | None"),
        ('"somewhere"', '"somewhere"\ncpu = 1', "engine: `cpu` must be a table"),
        ('"somewhere"', '"somewhere"\ncpu = {dtipe = "int8"}', "cpu: unknown key `dtipe`"),
        ('"somewhere"', '"somewhere"\noverrides = {}', "engine: unknown key `overrides`"),
        (
            '["chat"]',
            '["chat"]\nparser = "yaml"',
            "`parser` is `yaml`, allowed: ('plain', 'hermes'",
        ),
        ('["chat"]', '["chat"]\nreasoning = "loud"', "`reasoning` is `loud`, allowed: ('none'"),
        ('["chat"]', '["chat"]\ntritons = "a"', "`tritons` must be a list of names"),
        ('["chat"]', '["chat"]\ntritons = ["a", 1]', "`tritons` must be a list of names"),
        ('["chat"]', '["chat"]\ntritons = ["a", "a"]', "`tritons` names a server twice"),
        ("[[model]]", "[[modul]]", "unknown table `modul`"),
        ("[[model]]", "[[model", "catalogue.toml"),
    ],
)
def test_a_bad_catalogue_is_refused_with_file_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(write(tmp_path, GOOD.replace(old, new, 1)))
    assert message in str(caught.value)
    assert "catalogue.toml" in str(caught.value)


def test_a_model_is_placed_on_tritons_by_name(tmp_path: Path) -> None:
    text = GOOD.replace("aliases", 'tritons = ["a", "b"]\naliases')
    assert load_catalogue(write(tmp_path, text)).models[0].tritons == ("a", "b")
    assert load_catalogue(write(tmp_path, GOOD)).models[0].tritons == ()


def test_a_missing_catalogue_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"nothing\.toml: No such file"):
        load_catalogue(tmp_path / "nothing.toml")


def test_a_target_has_values_of_its_own(tmp_path: Path) -> None:
    text = GOOD + 'dtype = "int8"\n[model.engine.trtllm]\ndtype = "fp8"\ntensor_parallel = 2\n'
    recipe = load_catalogue(write(tmp_path, text)).models[0].engine
    assert (recipe.dtype, recipe.for_target("cpu").dtype) == ("int8", "int8")
    gpu = recipe.for_target("trtllm")
    assert (gpu.dtype, gpu.tensor_parallel, gpu.checkpoint) == ("fp8", 2, "somewhere")


def test_a_model_says_how_it_writes_calls_and_thoughts(tmp_path: Path) -> None:
    assert load_catalogue(write(tmp_path, GOOD)).models[0].parser == "plain"
    text = GOOD.replace("aliases", 'parser = "qwen"\nreasoning = "think"\naliases')
    model = load_catalogue(write(tmp_path, text)).models[0]
    assert (model.parser, model.reasoning) == ("qwen", "think")
