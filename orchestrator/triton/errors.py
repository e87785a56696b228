"""Turns Triton's errors into ours. Their texts go to the log, never to a caller.

If the answer follows a grammar, they do not even go to the log: engines quote the grammar and
the text generated under it.
"""

from __future__ import annotations

import logging
import re

from orchestrator.core.errors import (
    ContextLengthExceeded,
    GatewayError,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    UpstreamFailed,
    UpstreamTimeout,
)
from orchestrator.triton.transport import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    NOT_FOUND,
    PERMISSION_DENIED,
    UNAUTHENTICATED,
    UNAVAILABLE,
    Status,
)

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 2.0
"""About the time in which a restarted Triton loads a small model."""

_MAX_LOGGED = 2000
_UNAVAILABLE = ("is not ready", "not found", "unknown model", "is not healthy", "unavailable")
_OWN_REFUSAL = re.compile(r"`guided_decoding_guide` is no usable \w+: (?P<reason>[^\n]{1,300})")
_GUIDE = ("guided_decoding", "guided decoding", "grammar")
_TOO_LONG = ("exceeds maximum input length", "exceed the key/value cache")
_OUT_OF_REACH = {UNAVAILABLE, CANCELLED, NOT_FOUND, UNAUTHENTICATED, PERMISSION_DENIED}


def from_text(text: str, *, model: str, request_id: str, guided: bool = False) -> GatewayError:
    """Returns the error for the text that Triton or one of its backends sent for a request.

    The text is not logged for a `guided` request.
    """
    said = "a guided request failed" if guided else text[:_MAX_LOGGED]
    logger.warning("triton refused %s for model %s: %s", request_id, model, said)
    lowered = text.lower()
    if any(words in lowered for words in _TOO_LONG):
        return ContextLengthExceeded("The request is longer than the engine accepts.")
    if "exceeds maximum queue size" in lowered:
        return Overloaded("The model's queue is full.", retry_after_s=RETRY_AFTER_S)
    if any(word in lowered for word in _UNAVAILABLE):
        return unavailable()
    return UpstreamFailed("The engine failed on this request.")


def guide_refused(text: str, param: str) -> InvalidRequest | None:
    """Returns the error for an engine that cannot follow the guide; `None` for another failure.

    Our own engine's reason is one of a few fixed texts and is passed on. Other engines may quote
    anything, so their reason is not.
    """
    if (own := _OWN_REFUSAL.search(text)) is not None:
        reason = own["reason"].strip().rstrip(".:")
        return InvalidRequest(f"`{param}` cannot be enforced by the engine: {reason}.", param=param)
    if any(word in text.lower() for word in _GUIDE):
        return InvalidRequest(f"`{param}` cannot be enforced by the engine.", param=param)
    return None


def from_status(
    status: Status, *, model: str, request_id: str, guided: bool = False
) -> GatewayError:
    """Returns the error for a call that ended with a status and no answer; see `from_text`."""
    if status.code == DEADLINE_EXCEEDED:
        logger.warning("triton gave no answer in time to %s for model %s", request_id, model)
        return UpstreamTimeout("The engine did not answer in time.")
    if status.code in _OUT_OF_REACH:
        said = "" if guided else status.details[:_MAX_LOGGED]
        logger.warning("triton is out of reach for %s (%d): %s", request_id, status.code, said)
        return unavailable()
    return from_text(status.details, model=model, request_id=request_id, guided=guided)


def unavailable() -> ModelUnavailable:
    """Returns what a caller gets while the engine is down or restarting."""
    return ModelUnavailable(
        "The model is not available at the moment.", retry_after_s=RETRY_AFTER_S
    )
