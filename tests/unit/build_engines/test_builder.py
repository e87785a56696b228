from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import openvino as ov
import pytest

from build_engines.builder import Builder, BuildError
from build_engines.checkpoint.files import sha256_file
from build_engines.host.machine import Machine
from build_engines.plan import Plan
from build_engines.repository.versions import Repository
from orchestrator.contract.catalogue import Model
from tests.reference.checkpoints import END_ID, EXTRA_END_ID, PAD_ID, write_decoder, write_encoder
from tests.unit.build_engines.conftest import builder_for, model_of

pytestmark = pytest.mark.slow


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return model_of(write_decoder(tmp_path / "llama", "llama"), "generate")


def build(builder: Builder, model: Model, *, force: bool = False, dry_run: bool = False) -> str:
    return builder.build(model, lambda _stage: None, force=force, dry_run=dry_run).status


def manifest_of(repository: Path, name: str, version: int = 1) -> dict[str, Any]:
    file = repository / name / str(version) / "manifest.json"
    document: dict[str, Any] = json.loads(file.read_text())
    return document


def hidden_entries(repository: Path) -> list[str]:
    known = ("llama", ".lock", ".logs")
    return [entry.name for entry in repository.iterdir() if entry.name not in known]


def test_the_manifest_tells_all_that_the_orchestrator_needs(repository: Path, model: Model) -> None:
    assert build(builder_for(repository), model) == "built"
    manifest = manifest_of(repository, "llama")
    assert manifest["format"] == 1
    assert (manifest["model"], manifest["name"]) == ("test/llama", "llama")
    assert (manifest["task"], manifest["target"]) == ("generate", "cpu")
    assert manifest["limits"] == {
        "max_batch_size": 32,
        "max_input_len": 255,
        "max_seq_len": 256,
        "vocab_size": 272,
        "kv_cache_tokens": 32 * 256,
        "tokens_per_block": 32,
    }
    assert manifest["tokens"] == {
        "bos_id": 256,
        "end_id": END_ID,
        "extra_end_ids": [EXTRA_END_ID],
        "pad_id": PAD_ID,
    }
    assert manifest["features"]["finish_reason"] is True
    assert manifest["embedding"] is None
    assert manifest["versions"]["openvino"]
    folder = repository / "llama" / "1"
    assert manifest["files"] == {
        file.name: sha256_file(file) for file in folder.iterdir() if file.name != "manifest.json"
    }
    assert manifest["stages"].keys() >= {"converting the weights", "testing the engine"}
    assert {
        "model.xml",
        "model.bin",
        "tokenizer.json",
        "selftest.json",
        "config.pbtxt",
    } <= manifest["files"].keys()
    assert "model.safetensors" in manifest["checkpoint"]["files"]


def test_what_is_up_to_date_is_left_alone(repository: Path, model: Model) -> None:
    builder = builder_for(repository)
    build(builder, model)
    before = (repository / "llama" / "1" / "model.bin").stat().st_ino
    assert build(builder, model) == "up_to_date"
    assert (repository / "llama" / "1" / "model.bin").stat().st_ino == before
    assert build(builder, model, force=True) == "built"


def test_a_touched_file_of_the_same_content_is_up_to_date(repository: Path, model: Model) -> None:
    builder = builder_for(repository)
    build(builder, model)
    os.utime(Path(model.engine.checkpoint) / "model.safetensors", (1, 1))
    assert build(builder, model) == "up_to_date"


@pytest.mark.parametrize("change", ["checkpoint", "recipe", "artefact", "manifest"])
def test_every_change_builds_anew(repository: Path, model: Model, change: str) -> None:
    builder = builder_for(repository)
    build(builder, model)
    folder = repository / "llama" / "1"
    if change == "checkpoint":
        write_decoder(Path(model.engine.checkpoint), "llama", rope_theta=20000.0)
    elif change == "recipe":
        model = model_of(Path(model.engine.checkpoint), "generate", context_tokens=128)
    elif change == "artefact":
        (folder / "model.bin").unlink()
    else:
        (folder / "manifest.json").write_text("{")
    assert build(builder, model, dry_run=True) == "would_build"
    assert build(builder, model) == "built"
    assert build(builder, model) == "up_to_date"


def test_an_interrupted_build_leaves_the_old_engine_and_nothing_else(
    repository: Path, model: Model
) -> None:
    builder = builder_for(repository)
    build(builder, model)
    built_at = manifest_of(repository, "llama")["built_at"]

    def interrupt(stage: str) -> None:
        if stage == "testing the engine":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        builder.build(model, interrupt, force=True)
    assert manifest_of(repository, "llama")["built_at"] == built_at
    assert hidden_entries(repository) == []
    assert build(builder, model) == "up_to_date"


def test_what_a_killed_builder_left_is_put_right(repository: Path, model: Model) -> None:
    builder = builder_for(repository)
    build(builder, model)
    (repository / ".llama.new").mkdir()
    (repository / ".llama.new" / "model.bin").write_text("half of it")
    with builder.repository.locked():
        assert build(builder, model) == "up_to_date"
    assert hidden_entries(repository) == []


def test_a_version_that_was_finished_when_its_builder_was_killed_is_served(
    repository: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = builder_for(repository)
    build(builder, model)

    def killed(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(Repository, "serve", killed)
        with pytest.raises(SystemExit):
            build(builder, model, force=True)
    assert builder.repository.served_version("llama") == 1
    with builder.repository.locked():
        assert builder.repository.served_version("llama") == 2
    assert hidden_entries(repository) == []


def test_a_build_stands_beside_the_one_before_and_can_be_taken_back(
    repository: Path, model: Model
) -> None:
    builder = builder_for(repository)
    build(builder, model)
    shorter = model_of(Path(model.engine.checkpoint), "generate", context_tokens=128)
    assert build(builder, shorter) == "built"
    assert manifest_of(repository, "llama", 2)["limits"]["max_seq_len"] == 128
    assert builder.roll_back(shorter).version == 1
    held = builder.build(shorter, lambda _stage: None)
    assert (held.status, held.version) == ("up_to_date", 1)
    assert "version 1 is served since a rollback" in str(held.note)
    assert builder.roll_back(shorter).version == 2
    assert builder.build(shorter, lambda _stage: None).note is None


def test_an_artefact_that_was_changed_in_place_is_built_anew(
    repository: Path, model: Model
) -> None:
    builder = builder_for(repository)
    build(builder, model)
    file = repository / "llama" / "1" / "model.bin"
    content = bytearray(file.read_bytes())
    content[1000] ^= 0x40
    file.write_bytes(content)
    assert build(builder, model) == "built"
    assert builder.repository.served_version("llama") == 2


def test_an_engine_that_answers_unlike_the_one_before_is_not_served(
    repository: Path, model: Model
) -> None:
    builder = builder_for(repository)
    build(builder, model)
    file = repository / "llama" / "1" / "selftest.json"
    golden = json.loads(file.read_text())
    golden["cases"][1]["output_ids"][3] += 1
    golden["cases"][1]["margins"] = [9.0] * 16
    file.write_text(json.dumps(golden))
    with pytest.raises(
        BuildError, match=r"golden prompt 2 differs from version 1, .*: token 4 is \d+, not \d+"
    ) as refused:
        build(builder, model)
    assert refused.value.log == repository / ".logs" / "llama.log"
    assert "SelfTestError" in refused.value.log.read_text()
    assert builder.repository.versions("llama") == [1]
    assert build(builder, model, force=True) == "built"


def test_weights_that_compute_no_numbers_are_refused(repository: Path, tmp_path: Path) -> None:
    checkpoint = write_decoder(tmp_path / "llama", "llama")
    file = checkpoint / "model.safetensors"
    content = file.read_bytes()
    # The end of the file is the last layer's norm: infinities all over.
    file.write_bytes(content[:-1024] + b"\x00\x00\x80\x7f" * 256)
    with pytest.raises(BuildError, match="computes values that are no finite numbers"):
        build(builder_for(repository), model_of(checkpoint, "generate"))


def test_the_time_of_the_last_build_is_expected_of_the_next(repository: Path, model: Model) -> None:
    builder = builder_for(repository)
    plans: list[Plan] = []
    build(builder, model)
    builder.build(model, lambda _stage: None, plans.append, force=True)
    assert plans[0].expected_s == manifest_of(repository, "llama", 1)["duration_s"]
    assert plans[0].stages.keys() >= {"converting the weights"}


def test_a_machine_without_the_memory_is_refused(repository: Path, model: Model) -> None:
    small = Machine((), memory_bytes=1 << 20, available_bytes=1 << 20)
    builder = replace(builder_for(repository), machine=small)
    with pytest.raises(BuildError, match="of host memory, 1 MiB of 1 MiB are free"):
        build(builder, model)


def test_a_full_disk_is_one_sentence(
    repository: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(BuildError, match=r"the disk of .*repository is full"):
        build(builder_for(repository), model)
    assert hidden_entries(repository) == []


def test_too_little_disk_is_said_before_the_work(
    repository: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(repository.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=3 << 20))
    with pytest.raises(BuildError, match=r"has 3 MiB free, the engine needs about \d+ MiB"):
        build(builder_for(repository), model)


def test_a_file_that_the_disk_cut_short_is_noticed(
    repository: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ov.save_model

    def cut(graph: ov.Model, path: Path, **options: Any) -> None:
        save(graph, path, **options)
        os.truncate(path.with_suffix(".bin"), 1000)

    monkeypatch.setattr(ov, "save_model", cut)
    with pytest.raises(BuildError, match="test/llama: the converted engine cannot be opened"):
        build(builder_for(repository), model)
    assert hidden_entries(repository) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_tokens": 1000}, "`context_tokens` is 1000, the checkpoint knows .* up to 512"),
        ({"dtype": "float64"}, "`dtype` is `float64` in the catalogue; known: float32, float16"),
        ({"dtype": "fp8"}, "`dtype` is `fp8` in the catalogue; known: float32, float16"),
        ({"max_batch_size": 0}, "`max_batch_size` is 0 in the catalogue, must be >= 1"),
        (
            {"task": "embed"},
            "`LlamaForCausalLM` is unsupported for the task `embed`, it is one to generate",
        ),
    ],
)
def test_a_catalogue_that_asks_too_much_is_refused(
    repository: Path, model: Model, changes: dict[str, Any], message: str
) -> None:
    fields = {"task": "generate", "context_tokens": 128, **changes}
    asked = model_of(Path(model.engine.checkpoint), **fields)
    with pytest.raises(BuildError, match=message):
        build(builder_for(repository), asked)
    assert not (repository / "llama").exists()


def test_a_checkpoint_without_an_end_is_refused(repository: Path, tmp_path: Path) -> None:
    checkpoint = write_decoder(tmp_path / "endless", "llama", eos_token_id=None)
    (checkpoint / "generation_config.json").unlink()
    (checkpoint / "tokenizer_config.json").write_text("{}")
    with pytest.raises(BuildError, match="no end token"):
        build(builder_for(repository), model_of(checkpoint, "generate"))


def test_the_end_token_may_be_named_by_the_tokenizer(repository: Path, tmp_path: Path) -> None:
    checkpoint = write_decoder(tmp_path / "named", "llama", eos_token_id=None)
    (checkpoint / "generation_config.json").unlink()
    named = {"eos_token": {"content": "<|end|>"}}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(named))
    build(builder_for(repository), model_of(checkpoint, "generate"))
    assert manifest_of(repository, "named")["tokens"]["end_id"] == END_ID


def test_a_tokenizer_larger_than_the_model_is_refused(repository: Path, tmp_path: Path) -> None:
    checkpoint = write_decoder(tmp_path / "small", "llama", vocab_size=200)
    with pytest.raises(BuildError, match=r"tokenizer\.json reaches token 271"):
        build(builder_for(repository), model_of(checkpoint, "generate"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", None, "file `modules.json` is missing"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling `unknown`"),
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}], "module `Dense`"),
    ],
)
def test_unknown_pooling_is_refused(
    repository: Path, tmp_path: Path, file: str, content: Any, message: str
) -> None:
    checkpoint = write_encoder(tmp_path / "bert", "bert")
    if content is None:
        (checkpoint / file).unlink()
    else:
        (checkpoint / file).write_text(json.dumps(content))
    with pytest.raises(BuildError, match=message):
        build(builder_for(repository), model_of(checkpoint, "embed", 128))


def test_the_newer_spelling_of_pooling_is_read(repository: Path, tmp_path: Path) -> None:
    checkpoint = write_encoder(tmp_path / "bert", "bert")
    (checkpoint / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    build(builder_for(repository), model_of(checkpoint, "embed", 128))
    assert manifest_of(repository, "bert")["embedding"]["pooling"] == "cls"
