"""What the standard `OTEL_*` variables ask for, read without OpenTelemetry's SDK.

Nothing is sent unless one of them names a receiver, so by default an appliance makes no connection
and does not load the SDK.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

from orchestrator.settings import SettingsError

Signal = Literal["traces", "metrics"]
_DEFAULT_ENDPOINT = "http://localhost:4318"


def otlp_endpoint(signal: Signal, environ: Mapping[str, str] | None = None) -> str | None:
    """Returns where to send `signal` by OTLP over HTTP; `None` if it is not sent.

    Source: OpenTelemetry, environment variable specification and OTLP exporter configuration.
    Raises: SettingsError where an exporter or protocol is asked for that is not there.
    """
    given = os.environ if environ is None else environ
    if given.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    name = f"OTEL_{signal.upper()}_EXPORTER"
    exporter = given.get(name, "").strip().lower()
    if exporter == "none":
        return None
    if exporter not in ("", "otlp"):
        raise SettingsError(f"`{name}` is `{exporter}`; it can be `otlp` or `none`")
    endpoint = _endpoint(signal, given)
    if endpoint is None and exporter == "otlp":
        endpoint = f"{_DEFAULT_ENDPOINT}/v1/{signal}"
    if endpoint is not None:
        _check_protocol(signal, given)
    return endpoint


def _endpoint(signal: Signal, given: Mapping[str, str]) -> str | None:
    if own := given.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"):
        return own
    if base := given.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return f"{base.rstrip('/')}/v1/{signal}"
    return None


def _check_protocol(signal: Signal, given: Mapping[str, str]) -> None:
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = given.get(name)
        if protocol == "http/protobuf":
            return
        if protocol:
            raise SettingsError(f"`{name}` is `{protocol}`; it can be `http/protobuf` only")
