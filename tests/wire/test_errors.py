"""The error tree in every profile's words, byte for byte, and who gets which profile."""

from __future__ import annotations

from typing import get_args

import pytest

from orchestrator.core import errors
from orchestrator.core.errors import GatewayError
from orchestrator.core.limits import LimitHit
from orchestrator.http.errors import Client, Profile, UnknownRoute, profile_of, render_error
from orchestrator.settings import HostsSettings
from tests.wire.golden import check_json

DENIED = "Key 'quickstart' lacks scope for model 'operayde/large-70b'."
CASES: dict[str, GatewayError] = {
    "unknown route": UnknownRoute("There is nothing at `GET /nope`."),
    "wrong method": errors.MethodNotAllowed("`GET` is not allowed.", allowed=["POST", "OPTIONS"]),
    "body too large": errors.PayloadTooLarge("8 bytes at most; 9 were announced."),
    "head too large": errors.HeadTooLarge("65536 bytes at most."),
    "body too slow": errors.RequestTimeout("60 s at most.", retryable=True),
    "missing key": errors.Unauthenticated("Missing API key.", reason="missing_api_key"),
    "unknown key": errors.Unauthenticated("Invalid API key provided."),
    "expired key": errors.Unauthenticated("This API key has expired.", reason="key_expired"),
    "revoked key": errors.Unauthenticated("This API key is revoked.", reason="key_revoked"),
    "bad field": errors.InvalidRequest("`n` must be between 1 and 8; 9 was given.", param="n"),
    "no such deployment": errors.NotFound("No such deployment.", reason="deployment_not_found"),
    "deployment paused": errors.DeploymentNotReady("It is paused.", retryable=False),
    "deployment loading": errors.DeploymentNotReady("It is loading.", retry_after_s=3),
    "unknown model": errors.ModelNotFound("The model `x` does not exist.", param="model"),
    "unknown response": errors.ResponseNotFound("There is no response `resp_1`."),
    "unknown previous response": errors.PreviousResponseNotFound(
        "There is no response `resp_1`.", param="previous_response_id"
    ),
    "model not allowed": errors.PolicyDenied(DENIED, param="model", reason="model_not_allowed"),
    "policy": errors.PolicyDenied("Closed for today.", rule="time_window"),
    "not loaded": errors.ModelUnavailable("The model `x` is not loaded.", param="model"),
    "rate limited": errors.RateLimited(
        "60 requests a minute.",
        hit=LimitHit("key", "rpm", 60, 0, 1779715440),
        headers={"x-ratelimit-limit-requests": "60"},
        retry_after_s=36.4,
    ),
    "budget used up": errors.RateLimited(
        "No tokens left.",
        hit=LimitHit("tenant", "tpd", 1000, 3, 1779753600),
        retry_after_s=900,
        retryable=False,
    ),
    "limits down": errors.QuotaUnavailable("The limits cannot be counted.", retry_after_s=1),
    "compressed in another way": errors.UnsupportedCoding(
        "`Content-Encoding` may be gzip; `br` was given.",
        accepted="gzip, deflate",
    ),
    "another version of WebSockets": errors.UnknownSocketVersion(
        "`Sec-WebSocket-Version` must be 13."
    ),
    "too long": errors.ContextLengthExceeded("64 tokens at most; 65.", param="messages"),
    "reasoning changed": errors.InvalidEncryptedContent("It was changed.", param="input"),
    "queue full": errors.Overloaded("No room.", retry_after_s=0.25),
    "store down": errors.StoreUnavailable("The key cannot be checked.", retryable=True),
    "policy engine down": errors.PolicyUnavailable("The policy is not there.", retryable=True),
    "policy in use": errors.Conflict("3 keys have this policy."),
    "bug": errors.Internal("An internal error occurred."),
    "engine failed": errors.UpstreamFailed("The engine failed."),
    "engine silent": errors.UpstreamTimeout("The engine did not answer."),
}


@pytest.mark.parametrize("profile", get_args(Profile))
def test_every_error_in_the_words_of(profile: Profile) -> None:
    written = {}
    for name, error in CASES.items():
        reply = render_error(error, profile, "req_1")
        headers = {key.decode(): value.decode() for key, value in reply.headers}
        written[name] = {"status": reply.status, "headers": headers, "body": reply.body.decode()}
    check_json(f"errors/{profile}.json", written)


def test_every_kind_of_error_is_a_case() -> None:
    kinds = {error for error in vars(errors).values() if isinstance(error, type)}
    tree = {kind for kind in kinds if issubclass(kind, GatewayError)} - {GatewayError}
    assert tree <= {type(error) for error in CASES.values()}


HOSTS = HostsSettings(spec=("*.internal", "api.operayde.com"), proxy=("*.workers.dev",))
BUDDY_KEY = "ob_sk_" + "0" * 48


@pytest.mark.parametrize(
    ("path", "host", "secret", "asked", "profile"),
    [
        ("/v1/chat/completions", "appliance.example.com", None, None, "appliance"),
        ("/health", "", None, None, "appliance"),
        ("/api/v1/models", "box.internal", BUDDY_KEY, None, "platform"),
        ("/api/v1", "", None, None, "platform"),
        ("/api/v1beta/models/x:generateContent", "", None, None, "gemini"),
        ("/v1beta/models", "", None, None, "gemini"),
        ("/v1/keys", "", BUDDY_KEY, None, "spec"),
        ("/v1/keys/key_1", "", None, None, "spec"),
        ("/v1/keysmith", "", None, None, "appliance"),
        ("/v1/models", "box.internal", None, None, "spec"),
        ("/v1/models", "BOX.Internal:8443", None, None, "spec"),
        ("/v1/models", "[::1]:8443", None, None, "appliance"),
        ("/v1/models", "a.b.workers.dev", "op_live_x", None, "buddy"),
        ("/v1/models", "appliance.example.com", BUDDY_KEY, None, "buddy"),
        ("/v1/models", "appliance.example.com", None, "flat", "spec"),
        ("/api/v1/models", "", None, "flat", "spec"),
        ("/v1/keys", "", None, "nested", "appliance"),
        ("/api/v1/models", "", None, "nested", "platform"),
        ("/v1/models", "", None, "sideways", "appliance"),
        ("/v1/messages", "box.internal", BUDDY_KEY, None, "anthropic"),
        ("/v1/messages/count_tokens", "", None, None, "anthropic"),
        ("/api/v1/messages", "", None, None, "anthropic"),
        ("/v1/messages", "", None, "flat", "spec"),
        ("/v1/messages_of_mine", "", None, None, "appliance"),
        ("/v1/models/acme/x:generateContent", "box.internal", None, None, "gemini"),
        ("/api/v1/models/gemma4:26b:countTokens", "", None, None, "gemini"),
        ("/v1/models/gemma4:26b", "", None, None, "appliance"),
        ("/v1/other/x:generateContent", "", None, None, "appliance"),
    ],
)
def test_path_host_and_key_tell_whose_words_to_use(
    path: str, host: str, secret: str | None, asked: str | None, profile: Profile
) -> None:
    assert profile_of(path, host, secret, asked, HOSTS) == profile


@pytest.mark.parametrize(
    ("path", "client", "profile"),
    [
        ("/v1/models", "anthropic", "anthropic"),
        ("/api/v1/models/x", "anthropic", "anthropic"),
        ("/v1/files", "anthropic", "anthropic"),
        ("/v1/keys", "anthropic", "spec"),
        ("/v1beta/models", "anthropic", "gemini"),
        ("/v1/models", "google", "gemini"),
        ("/api/v1/models/acme/x", "google", "gemini"),
        ("/v1/chat/completions", "google", "appliance"),
        ("/v1/keys", "google", "spec"),
    ],
)
def test_on_shared_paths_the_client_tells_whose_words_to_use(
    path: str, client: Client, profile: Profile
) -> None:
    assert profile_of(path, "", None, None, HOSTS, client=client) == profile
