from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

import build_engines.cpu  # noqa: F401  # keeps OpenVINO from reporting its use
from orchestrator.settings import ENV_PREFIX
from tests.postgresql import PostgresServer

# Times of single examples say nothing on a machine that others use too.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


# Tests start hundreds of interpreters, and each would compile what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session", autouse=True)
def _settings_of_this_machine_stay_out() -> None:
    """Settings in the environment are for the appliance that runs here, not for the tests."""
    for name in [name for name in os.environ if name.upper().startswith(ENV_PREFIX)]:
        del os.environ[name]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A running server; `new_database` gives a test a store of its own."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()
