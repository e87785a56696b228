"""What is known of a call beside its content."""

from __future__ import annotations

from orchestrator.core.value import value


@value
class CallContext:
    """`dialect` is the endpoint's name (`chat`, `embeddings` …), `client_ip` the client's
    address: the peer's, or what trusted proxies say; None where they say no address.

    `request_id` is the one on the reply, which a caller may choose. Engines are told `engine_id`,
    which begins with it and is like no other, because a stop names its generation by it.
    """

    request_id: str
    dialect: str = "chat"
    client_ip: str | None = None
    call_id: str = ""

    @property
    def engine_id(self) -> str:
        """What engines know this call by."""
        return self.call_id or self.request_id
