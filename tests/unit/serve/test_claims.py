"""The public listening socket."""

from __future__ import annotations

import socket

from orchestrator.serve.claims import listen
from orchestrator.settings import ServerSettings


def test_what_the_system_holds_for_a_client_has_the_same_limit() -> None:
    with (
        listen(ServerSettings(port=0, send_timeout_s=7.5)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as connection,
    ):
        option = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert option == 7500
