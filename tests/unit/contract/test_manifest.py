"""Which version of a built model counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.contract.manifest import served_version


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for version in ("1", "2", "10"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "manifest.json").write_text("{}")
    (tmp_path / "11").mkdir()
    return tmp_path


def test_the_version_is_the_one_that_triton_is_told_to_serve(model: Path) -> None:
    (model / "config.pbtxt").write_text("version_policy { specific { versions: [ 2 ] } }\n")
    assert served_version(model) == model / "2"


def test_without_a_policy_the_newest_finished_version_counts(model: Path) -> None:
    (model / "config.pbtxt").write_text('name: "model"\n')
    assert served_version(model) == model / "10"


def test_a_version_that_is_named_and_missing_is_not_replaced_by_another(model: Path) -> None:
    (model / "config.pbtxt").write_text("version_policy: { specific: { versions: 3 } }\n")
    assert served_version(model) is None


def test_a_model_that_was_never_built_has_no_version(tmp_path: Path) -> None:
    assert served_version(tmp_path / "nothing") is None
    assert served_version(tmp_path) is None
