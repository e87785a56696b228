"""The compose files: their schema, and what is promised of them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.unit.docker.tools import DOCKER, checked_by

COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_both_files_follow_the_compose_specification() -> None:
    done = checked_by(
        "check-jsonschema",
        *("--builtin-schema", "vendor.compose-spec"),
        *("docker/compose.yaml", "docker/compose.gpu.yaml"),
    )
    assert done.returncode == 0, done.stdout


def test_the_appliance_runs_alone_and_all_else_by_profile() -> None:
    always = [name for name, service in SERVICES.items() if "profiles" not in service]
    assert always == ["appliance"]
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
    assert profiles == {"postgresql", "redis", "opa", "observability"}


def test_what_the_appliance_waits_for_may_be_left_out() -> None:
    assert not any(one["required"] for one in SERVICES["appliance"]["depends_on"].values())


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_on_the_loopback_unless_the_operator_says_otherwise(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert port.startswith("${BIND_ADDRESS:-127.0.0.1}:")


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_a_tag_that_is_a_release(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.search(r":v?\d+\.\d+|:-operayde-appliance:cpu", image), image


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_in_the_environment(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search(r"PASSWORD|KEY|PEPPER|TOKEN", variable):
            assert str(value).startswith("/run/secrets/"), variable


@pytest.mark.parametrize("name", SERVICES)
def test_every_file_that_is_mounted_is_there(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (DOCKER / source).exists(), source


def test_secrets_that_are_used_are_declared_as_files() -> None:
    used = set()
    for service in SERVICES.values():
        for secret in service.get("secrets", ()):
            used.add(secret["source"] if isinstance(secret, dict) else secret)
    assert used == set(COMPOSE["secrets"])
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
