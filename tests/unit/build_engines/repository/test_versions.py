from __future__ import annotations

from pathlib import Path

import pytest

from build_engines.repository.versions import Repository, RepositoryError
from tests.unit.build_engines.conftest import TEMPLATES


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path, TEMPLATES)


def add(repository: Repository, fail: bool = False) -> None:
    with repository.adding("model") as (folder, number):
        (folder / "manifest.json").write_text("{}")
        policy = f"version_policy {{ specific {{ versions: [ {number} ] }} }}"
        (folder / "config.pbtxt").write_text(policy)
        if fail:
            raise RuntimeError("the build failed")


def test_versions_stand_side_by_side_and_the_newest_is_served(repository: Repository) -> None:
    add(repository)
    add(repository)
    assert repository.versions("model") == [2, 1]
    assert repository.served_version("model") == 2


def test_a_failed_version_leaves_no_trace(repository: Repository) -> None:
    add(repository)
    with pytest.raises(RuntimeError):
        add(repository, fail=True)
    assert repository.versions("model") == [1]
    assert [entry.name for entry in repository.path.iterdir()] == ["model"]


def test_a_rollback_goes_back_and_forth(repository: Repository) -> None:
    add(repository)
    add(repository)
    assert repository.roll_back("model") == 1
    assert repository.served_version("model") == 1
    assert repository.roll_back("model") == 2
    assert repository.served_version("model") == 2


def test_after_a_rollback_the_version_that_was_served_is_the_one_that_is_kept(
    repository: Repository,
) -> None:
    add(repository)
    add(repository)
    repository.roll_back("model")
    add(repository)
    assert repository.versions("model") == [3, 1]
    assert repository.roll_back("model") == 1


def test_a_model_with_one_version_cannot_be_rolled_back(repository: Repository) -> None:
    with pytest.raises(RepositoryError, match="model `model` is not built"):
        repository.roll_back("model")
    add(repository)
    with pytest.raises(RepositoryError, match="has version 1 only: there is nothing to go back to"):
        repository.roll_back("model")


def test_a_folder_without_its_own_configuration_is_no_version_and_keeps_its_number(
    repository: Repository,
) -> None:
    old = repository.path / "model" / "1"
    old.mkdir(parents=True)
    (old / "manifest.json").write_text("{}")
    (repository.path / "model" / "config.pbtxt").write_text('name: "model"')
    assert repository.served_version("model") is None
    add(repository)
    assert repository.versions("model") == [2]
    assert not old.exists()
