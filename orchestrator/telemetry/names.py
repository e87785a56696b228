"""Every name that telemetry reports, in one table.

Source: OpenTelemetry semantic conventions 1.41.1, the last release of the core conventions that
has those of generative AI. Later releases keep them elsewhere and under names that still change.
"""

from __future__ import annotations

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.1"
SCOPE: Final = "orchestrator"
PROVIDER: Final = "operayde"
"""`gen_ai.provider.name`: this appliance answers, whatever engine it uses."""

# For every request over HTTP.
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"
CLIENT_ADDRESS: Final = "client.address"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

# For a call to a model.
OPERATION: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_TOP_K: Final = "gen_ai.request.top_k"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
REQUEST_CHOICES: Final = "gen_ai.request.choice.count"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105  # a name, not a secret

# Our own, where the conventions have no name.
REQUEST_ID: Final = "orchestrator.request.id"
CALL_ID: Final = "orchestrator.call.id"
KEY_ID: Final = "orchestrator.key.id"
TENANT_ID: Final = "orchestrator.tenant.id"
OUTCOME: Final = "orchestrator.outcome"
POLICY_RULE: Final = "orchestrator.policy.rule"
POLICY_ID: Final = "orchestrator.policy.id"
ROUTE: Final = "orchestrator.route"
RESERVED_TOKENS: Final = "orchestrator.quota.reserved_tokens"
CHOICE: Final = "orchestrator.choice"

# Stages of a request, each a span, in the order in which they come.
AUTHENTICATE: Final = "authenticate"
READ: Final = "read"
POLICY: Final = "policy"
ROUTING: Final = "route"
QUOTA: Final = "quota"
RENDER: Final = "render"
STREAM: Final = "stream"
# What the engine did, by its own clock.
ENGINE_QUEUE: Final = "engine queue"
ENGINE_PREFILL: Final = "engine prefill"
ENGINE_DECODE: Final = "engine decode"

EVENT_FIRST_TOKEN: Final = "first token"  # noqa: S105  # a name, not a secret
EVENT_END: Final = "end"
