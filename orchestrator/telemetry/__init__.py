"""What is told of requests: a line in the log, spans, and numbers that are counted.

`Telemetry` is what one process tells; `calls` notes what happens to one request on its way.
Nothing of it holds a prompt, a completion or a key, unless a key is named for that.
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
