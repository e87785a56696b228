"""What a process does not use it does not import: libraries are most of its memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    *("aiohttp", "alembic", "grpc", "mako", "redis", "tritonclient.grpc"),
    "sqlalchemy.dialects.postgresql",
)
PARENTS_OWN = {"alembic", "mako", "sqlalchemy.dialects.postgresql"}
ONLY_WORKER = ("fastapi", "jinja2", "numpy", "regopy", "tokenizers")


def _imported(*modules: str) -> set[str]:
    """What a new interpreter has after importing `modules`."""
    program = f"import json, sys, {', '.join(modules)}; print(json.dumps(list(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return set(json.loads(ended.stdout))


def test_a_worker_has_no_client_of_redis_opa_grpc_or_postgresql_and_no_migrations() -> None:
    imported = _imported("orchestrator.serve.worker", "orchestrator.app")
    assert not imported.intersection(HEAVY)


def test_the_parent_has_nothing_of_the_application() -> None:
    imported = _imported("orchestrator.serve.appliance")
    assert not imported.intersection({*HEAVY, *ONLY_WORKER} - PARENTS_OWN)


@pytest.mark.parametrize(
    "first", ["orchestrator.triton.messages", "tritonclient.grpc"], ids=["ours", "theirs"]
)
def test_the_messages_are_those_of_the_client_library(first: str) -> None:
    program = (
        f"import {first}, tritonclient.grpc;"
        "from orchestrator.triton.messages import service_pb2;"
        "assert tritonclient.grpc.service_pb2 is service_pb2;"
        "assert tritonclient.grpc.InferenceServerClient"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
