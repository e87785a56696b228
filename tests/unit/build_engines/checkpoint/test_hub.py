from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from build_engines.checkpoint.files import CheckpointError, open_checkpoint
from build_engines.checkpoint.hub import Location, cache_folder, locate
from build_engines.repository.manifest import check_hashes, checkpoint_files, digest
from orchestrator.contract.catalogue import EngineRecipe, Model
from tests.reference.checkpoints import write_decoder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache as the hub's client lays it out, with one small model."""
    cache = tmp_path / "hub"
    repository = cache / "models--acme--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    write_decoder(repository / "snapshots" / COMMIT, "llama")
    return cache


def located(cache: Path, checkpoint: str, revision: str | None = None) -> Location:
    recipe = EngineRecipe(checkpoint, revision=revision)
    environment = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    return locate(recipe, cache.parent, environment)


@pytest.mark.parametrize(
    ("checkpoint", "revision"),
    [
        ("acme/tiny", "main"),
        ("acme/tiny", COMMIT),
        ("acme/tiny@main", None),
        (f"acme/tiny@{COMMIT}", None),
    ],
)
def test_a_hub_id_is_found_in_the_cache_without_the_hub(
    cache: Path, checkpoint: str, revision: str | None
) -> None:
    location = located(cache, checkpoint, revision)
    assert location.revision == COMMIT
    assert open_checkpoint(location.path).architecture == "LlamaForCausalLM"


def test_a_folder_is_taken_as_it_is(cache: Path, tmp_path: Path) -> None:
    write_decoder(tmp_path / "here" / "llama", "llama")
    assert located(cache, "here/llama") == Location(tmp_path / "here" / "llama")
    assert located(cache, "deeper/than/a/hub-id").path == tmp_path / "deeper/than/a/hub-id"


@pytest.mark.parametrize(
    ("checkpoint", "revision", "message"),
    [
        ("acme/tiny", None, "is no folder, and as a hub id it needs a `revision`"),
        ("acme/tiny", "v9", "`acme/tiny` at `v9` is not in the cache .*HF_HUB_OFFLINE forbids"),
        ("acme/other", "main", "`acme/other` at `main` is not in the cache"),
    ],
)
def test_what_is_not_there_is_said(
    cache: Path, checkpoint: str, revision: str | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        located(cache, checkpoint, revision)


def test_a_fetch_that_was_broken_off_does_not_count(cache: Path) -> None:
    snapshot = cache / "models--acme--tiny" / "snapshots" / COMMIT
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is not in the cache"):
        located(cache, "acme/tiny", "main")


def test_without_the_hubs_client_the_way_out_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    recipe = EngineRecipe("acme/other", revision="main")
    with pytest.raises(CheckpointError, match="to fetch it install `huggingface_hub`, or carry"):
        locate(recipe, cache.parent, {"HF_HUB_CACHE": str(cache)})


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
    ],
)
def test_the_cache_lies_where_the_hubs_client_keeps_it(
    environment: dict[str, str], folder: str
) -> None:
    assert cache_folder(environment) == Path(folder)


def test_a_damaged_file_of_the_cache_is_told_by_its_name(cache: Path) -> None:
    snapshot = cache / "models--acme--tiny" / "snapshots" / COMMIT
    checkpoint = open_checkpoint(snapshot)
    files = checkpoint_files(checkpoint)
    blob = cache / "models--acme--tiny" / files["model.safetensors"]["sha256"]
    shutil.move(snapshot / "model.safetensors", blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    model = Model("a/b", "b", "generate", 128, EngineRecipe("acme/tiny"))
    check_hashes(model, checkpoint, checkpoint_files(checkpoint))
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"file `model.safetensors` is damaged: its SHA-256"):
        check_hashes(model, checkpoint, checkpoint_files(checkpoint))


def test_the_catalogue_may_pin_every_file(cache: Path) -> None:
    checkpoint = open_checkpoint(cache / "models--acme--tiny" / "snapshots" / COMMIT)
    files = checkpoint_files(checkpoint)
    pinned = Model("a/b", "b", "generate", 128, EngineRecipe("x", sha256=digest(files)))
    check_hashes(pinned, checkpoint, files)
    config = checkpoint.path / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(CheckpointError, match="the catalogue pins `sha256`"):
        check_hashes(pinned, checkpoint, checkpoint_files(checkpoint))
