"""The standard variables: when something is sent, and where."""

from __future__ import annotations

import pytest

from orchestrator.settings import SettingsError
from orchestrator.telemetry.otel_env import otlp_endpoint

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, None),
        ({BASE: "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({BASE: "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({BASE: "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x", BASE: "http://c"}, "http://t/x"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m/x"}, None),
        (
            {
                BASE: "http://c",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            "http://c/v1/traces",
        ),
    ],
)
def test_nothing_is_sent_unless_somebody_says_where(
    environ: dict[str, str], endpoint: str | None
) -> None:
    assert otlp_endpoint("traces", environ) == endpoint


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {BASE: "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {BASE: "http://c", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
    ],
)
def test_what_cannot_be_done_is_refused_and_named(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="OTEL_"):
        otlp_endpoint("traces", environ)
    assert otlp_endpoint("metrics", {}) is None
