"""What is reported of requests: a log line, spans, and metrics.

`Telemetry` is what one process reports; `calls` records what happens to one request on its way.
None of it contains a prompt, a completion or a key, unless a key is configured for that.
"""

from orchestrator.telemetry import names
from orchestrator.telemetry.calls import Call, Stage, current_call, engine_metadata
from orchestrator.telemetry.logs import RequestRecord, configure_logging, log_request

__all__ = [
    "Call",
    "RequestRecord",
    "Stage",
    "configure_logging",
    "current_call",
    "engine_metadata",
    "log_request",
    "names",
]
