"""What is known of a call beside its content."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.core.value import value


def _by_the_client() -> bool:
    return False


@value
class CallContext:
    """`dialect` is the endpoint's name (`chat`, `embeddings` …), `client_ip` the client's
    address: the peer's, or what trusted proxies say; None where they say no address.

    `request_id` is the one on the reply, which a caller may choose. Engines are told `engine_id`,
    which begins with it and is like no other, because a stop names its generation by it.

    `at_fault` is asked when the work is cancelled: whether that is our doing, as when the server
    stops, and not the client's wish.
    """

    request_id: str
    dialect: str = "chat"
    client_ip: str | None = None
    call_id: str = ""
    at_fault: Callable[[], bool] = _by_the_client

    @property
    def engine_id(self) -> str:
        """What engines know this call by."""
        return self.call_id or self.request_id
