"""The Dockerfile, as hadolint sees it, and what hadolint does not look for."""

from __future__ import annotations

import re
import tomllib

from orchestrator.settings import PROJECT_ROOT
from tests.unit.docker.tools import DOCKER, checked_by

TEXT = (DOCKER / "Dockerfile").read_text(encoding="utf-8")


def stage(name: str) -> str:
    """The lines of one stage."""
    found = re.search(rf"^FROM \S+ AS {name}$(.*?)(?=^FROM |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


def test_hadolint_finds_nothing() -> None:
    done = checked_by("hadolint", "docker/Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_base_images_are_pinned_to_a_release() -> None:
    bases = re.findall(r"^ARG \w+_BASE=\S+:(\S+)$", TEXT, re.MULTILINE)
    assert len(bases) == 2
    assert all(re.match(r"\d+\.\d+", tag) for tag in bases)


def test_both_images_run_serve_as_a_plain_user_and_tell_how_they_are() -> None:
    for name in ("cpu", "gpu"):
        lines = stage(name)
        assert "USER 10001:10001" in lines
        assert 'ENTRYPOINT ["/opt/venv/bin/python", "-m", "orchestrator"]\nCMD ["serve"]' in lines
        assert "HEALTHCHECK" in lines
        assert 'VOLUME ["/var/lib/appliance", "/models"]' in lines


def test_packages_are_installed_with_hashes_only() -> None:
    installs = re.findall(r"pip install((?:[^\n]*\\\n)*[^\n]*)", TEXT)
    assert len(installs) == 2
    assert all("--require-hashes" in line for line in installs)


def test_no_build_argument_stays_in_an_image() -> None:
    for name in ("cpu", "gpu"):
        assert re.findall(r"^ARG (\w+)", stage(name), re.MULTILINE) == ["VERSION", "REVISION"]


def test_the_version_is_the_project_s() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(re.findall(r"^ARG VERSION=(.*)$", TEXT, re.MULTILINE)) == {
        project["project"]["version"]
    }


def test_everything_that_is_copied_reaches_the_builder() -> None:
    """`.dockerignore` leaves out all but what it names."""
    ignored = (PROJECT_ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.*)$", TEXT, re.MULTILINE):
        *sources, _ = line.split()
        copied |= set(sources)
    assert copied == allowed
    assert all((PROJECT_ROOT / source).exists() for source in copied)
