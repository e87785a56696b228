"""What the doctor makes of built models and of Triton."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.doctor import engines
from orchestrator.settings import Settings, TritonSettings
from tests.integration.scripted.repository import write_repository


def scripted(folder: Path) -> Settings:
    """Settings over a repository with one model that is as it was built."""
    repository = write_repository(folder / "repository")
    version = repository.path / "scripted" / "1"
    document = json.loads((version / "manifest.json").read_text(encoding="utf-8"))
    files = [path for path in version.iterdir() if path.name != "manifest.json"]
    document["files"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    document["artefacts"] = {path.name: [path.stat().st_size, 0] for path in files}
    (version / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    return Settings(
        data_dir=folder / "data",
        catalogue=repository.catalogue,
        triton=TritonSettings(repository=repository.path),
    )


@pytest.mark.parametrize("deep", [False, True])
def test_a_model_as_it_was_built_is_well(tmp_path: Path, deep: bool) -> None:
    catalogue, model = engines.models(scripted(tmp_path), deep=deep)
    assert catalogue.level == "ok"
    assert (model.level, model.subject) == ("ok", "model scripted/scripted")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    settings = scripted(tmp_path)
    (settings.triton.repository / "scripted" / "1" / "chat_template.jinja").unlink()
    _, model = engines.models(settings, deep=False)
    assert model.level == "failed"
    assert "`chat_template.jinja` is missing" in model.text


def test_a_changed_size_is_seen_at_once_and_a_changed_byte_by_its_hash(tmp_path: Path) -> None:
    settings = scripted(tmp_path)
    template = settings.triton.repository / "scripted" / "1" / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    template.write_text(text.replace("content", "context"), encoding="utf-8")
    assert engines.models(settings, deep=False)[1].level == "ok"
    assert "its hash differs" in engines.models(settings, deep=True)[1].text
    template.write_text(text + " ", encoding="utf-8")
    assert "bytes" in engines.models(settings, deep=False)[1].text


def test_a_broken_tokenizer_is_a_failure_of_its_model(tmp_path: Path) -> None:
    settings = scripted(tmp_path)
    (settings.triton.repository / "scripted" / "1" / "tokenizer.json").write_text("{")
    _, model = engines.models(settings, deep=False)
    assert model.level == "failed"
    assert "tokenizer" in model.text


def test_a_model_that_is_not_built_is_a_warning(tmp_path: Path) -> None:
    settings = scripted(tmp_path)
    (settings.triton.repository / "scripted").rename(tmp_path / "elsewhere")
    _, model = engines.models(settings, deep=False)
    assert (model.level, model.advice) == ("warning", "run `make engines`")


def test_a_catalogue_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    settings = scripted(tmp_path)
    settings.catalogue.write_text("[[model]]\n", encoding="utf-8")
    (finding,) = engines.models(settings, deep=False)
    assert (finding.level, finding.subject) == ("failed", "catalogue")


def test_the_wheel_s_triton_is_told_with_its_version(tmp_path: Path) -> None:
    (finding,) = engines.server(scripted(tmp_path))
    assert (finding.level, finding.text) == ("ok", "2.51.0, of nvidia-pytriton 0.7.0")


def test_the_triton_of_an_image_tells_its_version_in_a_file(tmp_path: Path) -> None:
    root = tmp_path / "tritonserver"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "tritonserver").touch()
    (root / "backends").mkdir()
    (root / "TRITON_VERSION").write_text("2.71.0\n", encoding="utf-8")
    settings = Settings(triton=TritonSettings(server_root=root))
    assert engines.server(settings)[0].text == f"2.71.0, {root}/bin/tritonserver"
    (root / "bin" / "tritonserver").unlink()
    assert engines.server(settings)[0].level == "failed"


def gpu_engine(folder: Path, engine: Path) -> Path:
    """The version folder of an engine for Hopper whose configuration looks for it in `engine`."""
    document = {"runtime": {"compute_capability": "9.0"}}
    (folder / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    value = f"value {{ string_value: {json.dumps(str(engine))} }}"
    config = f'parameters {{\n  key: "gpt_model_path"\n  {value}\n}}\n'
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    return folder


def test_an_engine_for_this_gpu_in_its_place_is_well(tmp_path: Path) -> None:
    assert engines.misfit(gpu_engine(tmp_path, tmp_path), {"9.0", "8.9"}) == ""


def test_an_engine_for_another_kind_of_gpu_is_named_with_both(tmp_path: Path) -> None:
    folder = gpu_engine(tmp_path, tmp_path)
    text = "built for GPUs of compute capability 9.0, here is "
    assert engines.misfit(folder, {"8.9"}) == text + "8.9"
    assert engines.misfit(folder, frozenset()) == text + "no GPU"


def test_an_engine_that_is_not_where_its_configuration_looks_is_named(tmp_path: Path) -> None:
    folder = gpu_engine(tmp_path, tmp_path / "models" / "engine")
    assert f"looks for the engine in {tmp_path}/models/engine" in engines.misfit(folder, {"9.0"})


def test_the_gpu_of_a_remote_triton_is_not_looked_for_here(tmp_path: Path) -> None:
    settings = scripted(tmp_path)
    manifest = settings.triton.repository / "scripted" / "1" / "manifest.json"
    document = json.loads(manifest.read_text(encoding="utf-8"))
    document["runtime"] = {"compute_capability": "99.0"}
    manifest.write_text(json.dumps(document), encoding="utf-8")
    assert "compute capability 99.0" in engines.models(settings, deep=False)[1].text
    remote = TritonSettings(repository=settings.triton.repository, mode="remote", url="gpu:8001")
    elsewhere = settings.model_copy(update={"triton": remote})
    assert engines.models(elsewhere, deep=False)[1].level == "ok"


@pytest.mark.parametrize(("dtype", "lacks"), [("bfloat16", True), ("float16", False)])
def test_a_type_that_the_cpu_lacks_is_told_with_its_model(
    tmp_path: Path, dtype: str, lacks: bool
) -> None:
    settings = scripted(tmp_path)
    version = settings.triton.repository / "scripted" / "1"
    document = json.loads((version / "manifest.json").read_text(encoding="utf-8"))
    document |= {"target": "cpu", "runtime": {"dtype": dtype}}
    (version / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    script = (
        "import sys; from pathlib import Path; from orchestrator.doctor.engines import *;"
        "print(replaced_type(Path(sys.argv[1])))"
    )
    # In a process of its own: the CPU is looked at once, and masked before.
    masked = {"OV_CPU_MAX_ISA": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(version)],
        env={**os.environ, **masked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("it computes in float32" in done.stdout) == lacks
    if lacks and done.stdout.strip() == engines.replaced_type(version):
        # This CPU has none either, so the examination says it.
        assert done.stdout.strip() in engines.models(settings, deep=False)[1].text


def test_an_engine_that_may_mix_tenants_is_a_warning(tmp_path: Path) -> None:
    settings = scripted(tmp_path)
    path = settings.triton.repository / "scripted" / "1" / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["features"]["prefix_cache"]
    path.write_text(json.dumps(document), encoding="utf-8")
    _, model = engines.models(settings, deep=False)
    assert model.level == "warning"
    assert "may show tenants what others have sent" in model.text
    assert "make engines" in model.advice
