"""The bill of materials names all that the lock installs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from orchestrator.settings import PROJECT_ROOT

LOCK = PROJECT_ROOT / "requirements" / "base.txt"


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(PROJECT_ROOT / "docker" / "sbom.py"), str(LOCK)],
        capture_output=True,
        text=True,
        check=True,
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_every_locked_package_is_in_it_once(bill: dict[str, Any]) -> None:
    pins = re.findall(r"^([\w.-]+)(?:\[.*?\])?==([^\s;\\]+)", LOCK.read_text("utf-8"), re.MULTILINE)
    listed = [(one["name"], one["version"]) for one in bill["components"]]
    assert sorted(listed) == sorted((name.lower(), version) for name, version in pins)
    assert len({one["bom-ref"] for one in bill["components"]}) == len(pins)


def test_every_hash_of_the_lock_is_in_it(bill: dict[str, Any]) -> None:
    hashes = re.findall(r"sha256:([0-9a-f]{64})", LOCK.read_text("utf-8"))
    told = [one["content"] for component in bill["components"] for one in component["hashes"]]
    assert told == hashes
    assert all(component["hashes"] for component in bill["components"])


def test_packages_are_named_by_their_package_url(bill: dict[str, Any]) -> None:
    for one in bill["components"]:
        assert one["purl"] == f"pkg:pypi/{one['name']}@{one['version']}"
