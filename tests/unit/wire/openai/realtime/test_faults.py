"""Errors inside a session, in the words of its events."""

from __future__ import annotations

import pytest

from orchestrator.core.errors import (
    GatewayError,
    InvalidRequest,
    ModelUnavailable,
    PolicyDenied,
    RateLimited,
    Unauthenticated,
)
from orchestrator.wire.openai.realtime.faults import error_object, invalid


def test_an_error_of_an_event_names_the_event_and_the_member() -> None:
    assert error_object(invalid("No.", "item.id", "special"), "evt_1") == {
        "type": "invalid_request_error",
        "code": "special",
        "message": "No.",
        "param": "item.id",
        "event_id": "evt_1",
    }


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (InvalidRequest("No."), "invalid_request_error", "invalid_value"),
        (Unauthenticated("No.", reason="key_revoked"), "authentication_error", "invalid_api_key"),
        (PolicyDenied("No.", reason="model_not_allowed"), "permission_error", "model_not_allowed"),
        (RateLimited("No."), "rate_limit_error", "rate_limit_exceeded"),
        (ModelUnavailable("No."), "server_error", "model_unavailable"),
        (GatewayError("No."), "server_error", "internal_error"),
    ],
)
def test_errors_of_the_pipeline_have_words_of_openai(
    error: GatewayError, kind: str, code: str
) -> None:
    told = error_object(error)
    assert (told["type"], told["code"], told["event_id"]) == (kind, code, None)
