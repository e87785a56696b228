"""What a worker serves: the application behind a server that limits its connections.

Importing this module takes most of a worker's start.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from functools import partial
from typing import cast

import uvicorn

from orchestrator.app import create_app
from orchestrator.serve.board import Board, Seat
from orchestrator.serve.descriptors import raise_limit
from orchestrator.serve.http1 import BoundedHttp
from orchestrator.serve.peers import TrustedProxies
from orchestrator.serve.server import GuardedServer
from orchestrator.serve.websockets import DrainingWebSocket
from orchestrator.settings import Settings
from orchestrator.supervisor.state import read_state
from orchestrator.telemetry import configure_logging
from orchestrator.wire.surfaces import Application

_TRITON_POLL_S = 0.02


def serve_application(settings: Settings, number: int, fd: int, board_fd: int | None) -> int:
    """Serves on the inherited listening socket `fd` until SIGTERM. Returns the exit code.

    `number` is the worker's own. `board_fd` is the memory of the `Board`, if there are several.
    """
    configure_logging(settings.logging)
    raise_limit()
    # uvicorn logs every start and stop, which the parent does already.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    app = create_app(settings, number)
    _wait_for_first_triton(settings)
    proxies = TrustedProxies(settings.server.trusted_proxies)
    seat = None
    if board_fd is not None:
        seat = Seat(Board(board_fd, settings.server.workers), number)
    server = GuardedServer(
        _config(settings, app, proxies),
        settings.server,
        app.registry,
        is_proxy=proxies.trusts,
        seat=seat,
    )
    server.run(sockets=[socket.socket(fileno=fd)])
    return 0 if server.started else 1


def _config(settings: Settings, app: Application, proxies: TrustedProxies) -> uvicorn.Config:
    http = partial(
        BoundedHttp,
        settings=settings.server,
        proxies=proxies,
        socket_paths=app.socket_paths,
        hosts=settings.hosts,
    )
    return uvicorn.Config(
        app,
        loop="uvloop",
        # uvicorn only calls it, to make one protocol for each connection.
        http=cast("type[asyncio.Protocol]", http),
        ws=DrainingWebSocket,
        ws_max_size=settings.realtime.most_message_bytes,
        ws_ping_interval=settings.realtime.ping_s,
        ws_ping_timeout=settings.realtime.ping_s,
        # Deltas are small: compression would cost memory and time and save little.
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        # `http` reads proxies' headers, because it knows which proxies are trusted.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.server.drain_s),
    )


def _wait_for_first_triton(settings: Settings) -> None:
    """Lets clients wait in the socket's queue while the first Triton starts, instead of failing.

    The imports, which take most of a start, are done by then.
    """
    give_up_at = time.monotonic() + settings.triton.start_timeout_s
    while time.monotonic() < give_up_at:
        state = read_state(settings.data_dir)
        if state is None or state.phase != "starting" or state.restarts:
            return
        time.sleep(_TRITON_POLL_S)
