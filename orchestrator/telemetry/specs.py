"""The instruments of the orchestrator: names, units, labels and buckets, in one table.

Labels have fixed sets of values: models of the catalogue, existing routes, reasons of errors.
Names with `gen_ai` and `http` are those of the conventions (`names.py`).
"""

from __future__ import annotations

from typing import Final

from orchestrator.telemetry.instruments import Spec
from orchestrator.telemetry.names import (
    ERROR_TYPE,
    HTTP_METHOD,
    HTTP_ROUTE,
    HTTP_STATUS,
    OPERATION,
    PROVIDER_NAME,
    REQUEST_MODEL,
    TOKEN_TYPE,
)

_GENAI: Final = (OPERATION, PROVIDER_NAME, REQUEST_MODEL)

# Bounds of the first five as the conventions advise, with finer ones for fast engines.
HTTP_DURATION: Final = Spec(
    "http.server.request.duration",
    "histogram",
    "s",
    "Duration of HTTP requests.",
    (HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS),
    (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60),
)
DURATION: Final = Spec(
    "gen_ai.server.request.duration",
    "histogram",
    "s",
    "Duration of calls to a model, for their readers.",
    (*_GENAI, ERROR_TYPE),
    (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
FIRST_TOKEN: Final = Spec(
    "gen_ai.server.time_to_first_token",
    "histogram",
    "s",
    "From the request to the first token.",
    _GENAI,
    (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)
PER_TOKEN: Final = Spec(
    "gen_ai.server.time_per_output_token",
    "histogram",
    "s",
    "Time between two tokens of an answer, the mean of the answer.",
    _GENAI,
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5),
)
TOKEN_USAGE: Final = Spec(
    "gen_ai.client.token.usage",
    "histogram",
    "{token}",
    "Tokens of a call.",
    (*_GENAI, TOKEN_TYPE),
    tuple(float(4**power) for power in range(14)),
)
HTTP_ACTIVE: Final = Spec(
    "http.server.active_requests", "gauge", "{request}", "HTTP requests at work."
)

CONNECTIONS: Final = Spec(
    "orchestrator.connections",
    "gauge",
    "{connection}",
    "Open connections of clients.",
)
CONNECTIONS_REFUSED: Final = Spec(
    "orchestrator.connections.refused",
    "counter",
    "{connection}",
    "New connections that found no place, by the bound that was reached.",
    ("bound",),
)
CONNECTIONS_CLOSED: Final = Spec(
    "orchestrator.connections.closed",
    "counter",
    "{connection}",
    "Connections closed by the server before their client did, by reason.",
    ("reason",),
)

GENERATIONS: Final = Spec(
    "orchestrator.generations",
    "counter",
    "{request}",
    "Calls to a model that were let in, by how they ended.",
    ("model", "dialect", "outcome"),
)
TOKENS: Final = Spec(
    "orchestrator.tokens",
    "counter",
    "{token}",
    "Tokens used, by how their call ended.",
    ("model", "type", "outcome"),
)
ACTIVE: Final = Spec(
    "orchestrator.generations.active",
    "gauge",
    "{request}",
    "Calls at work in the engine.",
    ("model",),
)
WAITING: Final = Spec(
    "orchestrator.generations.waiting",
    "gauge",
    "{request}",
    "Calls that wait for their first token.",
    ("model",),
)
REFUSALS: Final = Spec(
    "orchestrator.refusals",
    "counter",
    "{request}",
    "Requests that were answered with an error, by its status and word.",
    ("status", "reason"),
)
UPSTREAM_ERRORS: Final = Spec(
    "orchestrator.upstream.errors",
    "counter",
    "{error}",
    "Errors on the engine's side.",
    ("model", "code"),
)
CANCEL_TO_ENGINE: Final = Spec(
    "orchestrator.cancel_to_engine",
    "histogram",
    "s",
    "From a reader's leaving to the end of the engine's work for it.",
    ("model",),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
ENGINE_PHASE: Final = Spec(
    "orchestrator.engine.phase.duration",
    "histogram",
    "s",
    "Queue, prefill and decode of a call, by the engine's own clock.",
    ("model", "phase"),
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
PROMPT_TOKENS: Final = Spec(
    "orchestrator.prompt.tokens",
    "counter",
    "{token}",
    "Tokens of prompts, by whether the engine had them cached.",
    ("model", "cache"),
)
RESERVED: Final = Spec(
    "orchestrator.quota.reserved",
    "counter",
    "{token}",
    "Tokens that were reserved: the most that each call could cost.",
    ("model",),
)
SETTLED: Final = Spec(
    "orchestrator.quota.settled",
    "counter",
    "{token}",
    "Tokens that calls cost in the end.",
    ("model",),
)
WASTED: Final = Spec(
    "orchestrator.tokens.wasted",
    "counter",
    "{token}",
    "Tokens that engines worked on and that are charged to no caller, by how their call ended.",
    ("model", "outcome"),
)
LOOP_LAG: Final = Spec(
    "orchestrator.event_loop.lag",
    "histogram",
    "s",
    "How late the event loop comes to what is due.",
    (),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
CACHE_LOOKUPS: Final = Spec(
    "orchestrator.cache.lookups",
    "counter",
    "{lookup}",
    "Questions that a cache of ours could answer, and those that it could not.",
    ("cache", "result"),
)
MODEL_INFO: Final = Spec(
    "orchestrator.model.info",
    "gauge",
    "",
    "What each model of the catalogue is.",
    ("model", "task", "engine"),
)
MODEL_READY: Final = Spec(
    "orchestrator.model.ready", "gauge", "", "Whether a model can be called.", ("model",)
)
ENGINE_SILENCE: Final = Spec(
    "orchestrator.engine.silence",
    "gauge",
    "s",
    "Since the engine of a model last answered this worker.",
    ("model",),
)
TRITON_UP: Final = Spec(
    "orchestrator.triton.up", "gauge", "", "Whether the supervised Triton answers."
)
TRITON_RESTARTS: Final = Spec(
    "orchestrator.triton.restarts",
    "counter",
    "{restart}",
    "How often the supervised Triton was started again.",
)
STORE_UP: Final = Spec(
    "orchestrator.store.up", "gauge", "", "Whether the store takes what is to be written."
)
SPANS_DROPPED: Final = Spec(
    "orchestrator.traces.dropped",
    "counter",
    "{trace}",
    "Traces that were not kept because their receiver is too slow.",
)
CPU_TIME: Final = Spec("process.cpu.time", "counter", "s", "CPU time of the process.")
MEMORY: Final = Spec("process.memory.usage", "gauge", "By", "Memory of the process.")
OPEN_FILES: Final = Spec("process.open_files", "gauge", "{file}", "Open files of the process.")
START_TIME: Final = Spec(
    "process.start_time", "gauge", "s", "When the process started, in Unix seconds."
)
BUILD_INFO: Final = Spec(
    "orchestrator.build.info", "gauge", "", "The version at work.", ("version",)
)
