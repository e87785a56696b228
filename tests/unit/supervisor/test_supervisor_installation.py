"""What is missing from an environment is said in one sentence."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import sysconfig
from pathlib import Path

import pytest

from orchestrator.supervisor.installation import (
    ServerRoot,
    StartError,
    find_installation,
    find_server,
)


def test_this_environment_has_all_that_is_needed() -> None:
    installation = find_installation()
    assert f"/{sys.version_info.major}.{sys.version_info.minor}/" in str(installation.stub)
    assert installation.libpython is not None
    assert installation.libpython.exists()


def test_missing_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(StartError, match="install the package nvidia-pytriton"):
        find_installation()


def test_wheel_without_a_stub_for_this_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = importlib.machinery.ModuleSpec("pytriton", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)
    with pytest.raises(StartError, match=r"no Python backend for Python 3\.1"):
        find_installation()


def test_python_without_a_shared_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def static(name: str) -> str | None:
        return {"INSTSONAME": "libpython3.11.a", "LIBDIR": str(tmp_path)}.get(name)

    monkeypatch.setattr(sysconfig, "get_config_var", static)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with pytest.raises(StartError, match=r"needs libpython3\.\d+\.so\.1\.0, and this Python"):
        find_installation()


def test_a_triton_of_an_image_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tritonserver").touch()
    (tmp_path / "backends").mkdir()
    found = find_server(tmp_path)
    assert found == ServerRoot(tmp_path / "bin" / "tritonserver", tmp_path / "backends")


def test_a_folder_without_a_triton_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"`triton\.server_root` is .* holds no Triton"):
        find_server(tmp_path)
