"""What the pipeline knows of a call beside its content."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.core.value import value


def _by_the_client() -> bool:
    return False


@value
class CallContext:
    """`dialect` is the endpoint's name (`chat`, `embeddings` …), `client_ip` the client's
    address: the peer's, or the one that trusted proxies report; None where they report none.

    `request_id` is sent with the reply, and a caller may choose it. Engines get `engine_id`, which
    begins with it and is unique, because a stop names its generation by it.

    `at_fault` is called when the work is cancelled: true means that we caused it, for example
    because the server stops; false means that the client did.
    """

    request_id: str
    dialect: str = "chat"
    client_ip: str | None = None
    call_id: str = ""
    at_fault: Callable[[], bool] = _by_the_client

    @property
    def engine_id(self) -> str:
        """The id by which engines know this call."""
        return self.call_id or self.request_id
