"""Every error that a caller may see. Raised where it is known, rendered at the edge.

A message names the thing, the limit and the value given. It holds no internals: the code that
translates engine texts, paths and stack traces logs them and never puts them here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from orchestrator.core.limits import LimitHit


class GatewayError(Exception):
    """The root class. `status` is HTTP's; `docs/wire.md` defines `code` and `reason`.

    `code` is for the appliance dialect; `reason` is the more precise code for other dialects.
    `retry_after_s` becomes `Retry-After`; `retryable` False becomes `x-should-retry: false`.
    `headers` are sent with the reply: those of the limits, once the request was counted.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    reason: ClassVar[str] = "internal_error"

    def __init_subclass__(cls) -> None:
        """Sets `reason` to `code` in a class that defines only `code`."""
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
    """The request itself is wrong. A retry cannot help."""

    status = 400
    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and requested tokens do not fit the model's context.

    Agents match on the code, or on the message of the provider that they were made for, and then
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
        """`prompt_tokens` and the limit `most` are set where the prompt alone is too long.

        `prompt_tokens` is a lower bound where counting stopped early.
        """
        super().__init__(message, param=param, retryable=retryable)
        self.prompt_tokens = prompt_tokens
        self.most = most


class UnsupportedCoding(InvalidRequest):
    """The body has a content coding that is not supported."""

    status = 415
    reason = "unsupported_content_encoding"

    def __init__(self, message: str, *, accepted: str) -> None:
        """`accepted` lists the supported codings. Source: RFC 9110 15.5.16."""
        super().__init__(message, param="Content-Encoding")
        self.headers = {"accept-encoding": accepted}


class UnknownSocketVersion(InvalidRequest):
    """A WebSocket is asked for in a version of the protocol that is not supported."""

    status = 426

    def __init__(self, message: str) -> None:
        """Source: RFC 6455 4.2.2, and RFC 9110 15.5.22 for `Upgrade`."""
        super().__init__(message, param="Sec-WebSocket-Version")
        self.headers = {
            "sec-websocket-version": "13",
            "upgrade": "websocket",
            "connection": "upgrade",
        }


class InvalidEncryptedContent(InvalidRequest):
    """Encrypted content that the caller sent back cannot be decrypted. Agents match on the code."""

    code = "invalid_encrypted_content"


class Unauthenticated(GatewayError):
    """The request has no key, or its key is unknown, expired or revoked."""

    status = 401
    code = "unauthorized"
    reason = "invalid_api_key"

    def __init__(
        self, message: str, *, reason: str | None = None, key_id: str = "", tenant_id: str = ""
    ) -> None:
        """`key_id` and `tenant_id` are set for the audit where the key is known but not valid."""
        # Otherwise Claude Code retries for minutes.
        super().__init__(message, reason=reason, retryable=False)
        self.key_id = key_id
        self.tenant_id = tenant_id


class PolicyDenied(GatewayError):
    """The key is valid, but a rule does not allow the request."""

    status = 403
    code = "policy_denied"

    def __init__(
        self, message: str, *, param: str | None = None, reason: str | None = None, rule: str = ""
    ) -> None:
        """`rule` is the name of the policy rule that refused, if a policy did."""
        super().__init__(message, param=param, reason=reason)
        self.rule = rule


class NotFound(GatewayError):
    """The route or object does not exist, or this caller may not know that it does."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """The catalogue has no model with this id."""

    code = "model_not_found"


class ResponseNotFound(NotFound):
    """No stored response has this id."""

    code = "response_not_found"


class PreviousResponseNotFound(NotFound):
    """The previous response, or one before it, is not stored any more."""

    code = "previous_response_not_found"


class MethodNotAllowed(NotFound):
    """The route exists, the method does not."""

    status = 405
    reason = "unknown_url"

    def __init__(self, message: str, *, allowed: Sequence[str]) -> None:
        """`allowed` are the methods that the route has. Source: RFC 9110 15.5.6."""
        super().__init__(message)
        self.headers = {"allow": ", ".join(allowed)}


class Conflict(GatewayError):
    """The request conflicts with the current state."""

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
    """The head or the body did not arrive in time. A retry may help."""

    status = 408
    code = "request_timeout"


class RateLimited(GatewayError):
    """A limit is used up: `hit` says which one; `headers` are sent with the reply."""

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
    """A fault of the appliance. The log describes it; the message does not."""


class UpstreamFailed(GatewayError):
    """The engine answered with an error of its own."""

    status = 502
    code = "upstream_error"


class ModelUnavailable(GatewayError):
    """The model is known and allowed, but is unreachable or not loaded at the moment."""

    status = 503
    code = "model_unavailable"


class Overloaded(ModelUnavailable):
    """Everything works, but there is no free capacity."""

    code = "overloaded"


class QuotaUnavailable(Overloaded):
    """The quota store does not answer, and no request is admitted uncounted."""

    reason = "quota_unavailable"


class StoreUnavailable(ModelUnavailable):
    """The key store does not answer, and the cached entry of this key is too old."""

    code = "store_unavailable"


class PolicyUnavailable(ModelUnavailable):
    """No policy decision is available at the moment, so nothing is allowed."""

    code = "policy_unavailable"


class UpstreamTimeout(GatewayError):
    """The engine did not answer within the time allowed."""

    status = 504
    code = "upstream_timeout"
