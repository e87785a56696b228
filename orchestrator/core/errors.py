"""Every error that a caller may see, raised where it is known and rendered at the edge.

A message names the thing, the limit and the value given, and holds no internals: engine texts,
paths and stack traces are logged by whoever translates them, never put here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from orchestrator.core.limits import LimitHit


class GatewayError(Exception):
    """The root. `status` is HTTP's, `code` and `reason` are words of `docs/wire.md`.

    `code` is the word of the appliance dialect; `reason` the finer one that other dialects use.
    `retry_after_s` becomes `Retry-After`; `retryable` False becomes `x-should-retry: false`.
    `headers` go out with the reply: those of the limits, once the request was counted.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    reason: ClassVar[str] = "internal_error"

    def __init_subclass__(cls) -> None:
        """A class that names its code and no reason has the code as its reason."""
        super().__init_subclass__()
        if "code" in vars(cls) and "reason" not in vars(cls):
            cls.reason = cls.code

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        reason: str | None = None,
        retry_after_s: float | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.detail_reason = reason or type(self).reason
        self.retry_after_s = retry_after_s
        self.retryable = retryable
        self.headers: Mapping[str, str] = {}


class InvalidRequest(GatewayError):
    """The request itself is wrong; sending it again cannot help."""

    status = 400
    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and requested tokens do not fit the model's context.

    Agents match on the code, or on the words of the provider that they were made for, and then
    shorten the conversation.
    """

    code = "context_length_exceeded"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retryable: bool | None = None,
        prompt_tokens: int | None = None,
        most: int | None = None,
    ) -> None:
        """`prompt_tokens` is given where the prompt alone is too long, with the `most` it may have.

        The count is a lower bound where counting ended early.
        """
        super().__init__(message, param=param, retryable=retryable)
        self.prompt_tokens = prompt_tokens
        self.most = most


class UnsupportedCoding(InvalidRequest):
    """The body is compressed in a way that is not known."""

    status = 415
    reason = "unsupported_content_encoding"

    def __init__(self, message: str, *, accepted: str) -> None:
        """`accepted` are the ways that are known. Source: RFC 9110 15.5.16."""
        super().__init__(message, param="Content-Encoding")
        self.headers = {"accept-encoding": accepted}


class InvalidEncryptedContent(InvalidRequest):
    """What a caller kept encrypted cannot be read. Agents match on the code."""

    code = "invalid_encrypted_content"


class Unauthenticated(GatewayError):
    """No key, or one that is unknown, expired or revoked."""

    status = 401
    code = "unauthorized"
    reason = "invalid_api_key"

    def __init__(
        self, message: str, *, reason: str | None = None, key_id: str = "", tenant_id: str = ""
    ) -> None:
        """`key_id` and its tenant where the key is known and no longer good: for the audit."""
        # Claude Code tries for minutes otherwise.
        super().__init__(message, reason=reason, retryable=False)
        self.key_id = key_id
        self.tenant_id = tenant_id


class PolicyDenied(GatewayError):
    """The key is good and may not do this."""

    status = 403
    code = "policy_denied"

    def __init__(
        self, message: str, *, param: str | None = None, reason: str | None = None, rule: str = ""
    ) -> None:
        """`rule` names what refused, where it was a policy."""
        super().__init__(message, param=param, reason=reason)
        self.rule = rule


class NotFound(GatewayError):
    """No such route or thing, or not one that this caller may know of."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """The catalogue has no model of this id."""

    code = "model_not_found"


class ResponseNotFound(NotFound):
    """No stored response has this id."""

    code = "response_not_found"


class PreviousResponseNotFound(NotFound):
    """The response to go on from, or one before it, is not stored any more."""

    code = "previous_response_not_found"


class MethodNotAllowed(NotFound):
    """The route exists, the method does not."""

    status = 405
    reason = "unknown_url"

    def __init__(self, message: str, *, allowed: Sequence[str]) -> None:
        """`allowed` are the methods that do. Source: RFC 9110 15.5.6."""
        super().__init__(message)
        self.headers = {"allow": ", ".join(allowed)}


class Conflict(GatewayError):
    """What is asked for does not go together with how things are."""

    status = 409
    code = "conflict"


class DeploymentNotReady(GatewayError):
    """The key's own deployment is not ready to serve."""

    status = 409
    code = "deployment_not_ready"


class PayloadTooLarge(GatewayError):
    """The body is over the limit."""

    status = 413
    code = "request_too_large"


class HeadTooLarge(PayloadTooLarge):
    """The request line and headers, or the trailers of the body, are over the limit."""

    status = 431
    reason = "head_too_large"


class RequestTimeout(GatewayError):
    """The head or the body did not come in time. Sending it again may help."""

    status = 408
    code = "request_timeout"


class RateLimited(GatewayError):
    """A budget is used up: `hit` tells which, `headers` are those of the reply."""

    status = 429
    code = "rate_limited"
    reason = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        hit: LimitHit | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s, retryable=retryable)
        self.hit = hit
        self.headers = headers or {}


class Internal(GatewayError):
    """A fault of ours. The message says nothing about it; the log does."""


class UpstreamFailed(GatewayError):
    """The engine answered, and what it answered was an error of its own."""

    status = 502
    code = "upstream_error"


class ModelUnavailable(GatewayError):
    """The model is known and allowed, and cannot be reached or is not loaded at the moment."""

    status = 503
    code = "model_unavailable"


class Overloaded(ModelUnavailable):
    """Everything works and there is no room."""

    code = "overloaded"


class QuotaUnavailable(Overloaded):
    """What counts the limits does not answer, and nobody is let through uncounted."""

    reason = "quota_unavailable"


class StoreUnavailable(ModelUnavailable):
    """The store of keys cannot be asked, and what is remembered of this key is too old."""

    code = "store_unavailable"


class PolicyUnavailable(ModelUnavailable):
    """No decision can be had at the moment, so nothing is allowed."""

    code = "policy_unavailable"


class UpstreamTimeout(GatewayError):
    """The engine did not answer within the time allowed."""

    status = 504
    code = "upstream_timeout"
