"""Triton's command line: spans only where somebody receives them."""

from __future__ import annotations

from pathlib import Path

from orchestrator.supervisor.command import arguments
from orchestrator.supervisor.installation import Installation
from orchestrator.supervisor.run_directory import RunDirectory
from orchestrator.supervisor.state import Endpoint


def words(traces_url: str | None) -> list[str]:
    wheel = Path("/wheel")
    line = arguments(
        installation=Installation(wheel, wheel, wheel, wheel, wheel, None),
        run=RunDirectory("1", Path("/run/1"), Path("/run/1")),
        endpoint=Endpoint("unix:/x", "secret", "appliance-1"),
        models=["chat"],
        metrics_port=1234,
        exit_timeout_s=5,
        traces_url=traces_url,
    )
    return [word.removeprefix("--trace-config=") for word in line if "--trace-config" in word]


def test_without_a_receiver_triton_traces_nothing() -> None:
    assert words(None) == []


def test_with_a_receiver_triton_traces_what_names_a_parent_only() -> None:
    told = words("http://collector:4318/v1/traces")
    assert told[:2] == ["mode=opentelemetry", "opentelemetry,url=http://collector:4318/v1/traces"]
    assert "rate=0" in told
    assert "count=-1" in told
