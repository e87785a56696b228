"""`python -m tests.bench.engine GRPC_PORT HTTP_PORT`: runs until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

import uvloop

from tests.bench.engine.grpc_side import GrpcSide
from tests.bench.engine.http_side import HttpSide


async def serve(grpc_port: int, http_port: int) -> None:
    """Both sides on the loopback, until SIGTERM."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await loop.create_server(GrpcSide, "127.0.0.1", grpc_port)
    await loop.create_server(HttpSide, "127.0.0.1", http_port)
    gc.freeze()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await stopped.wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
