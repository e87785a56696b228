"""`python http2_libraries.py MESSAGES`, in the benchmark's environment: CPU µs of a DATA frame."""

from __future__ import annotations

import importlib
import struct
import sys
import time
from typing import Any

_REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/x"),
    (":authority", "localhost"),
]
_SETTINGS = struct.pack(">HBBBL", 0, 0, 4, 0, 0)


def measure(name: str, messages: int) -> float:
    """Frames of 120 bytes, one at a time, each acknowledged, as a client of h2 has to."""
    connections: Any = importlib.import_module(f"{name}.connection")
    configs: Any = importlib.import_module(f"{name}.config")
    connection = connections.H2Connection(configs.H2Configuration(client_side=True))
    connection.initiate_connection()
    connection.receive_data(_SETTINGS)
    connection.send_headers(1, _REQUEST, end_stream=True)
    # `:status: 200` is the static table's eighth entry.
    connection.receive_data(struct.pack(">HBBBL", 0, 1, 1, 4, 1) + b"\x88")
    frame = struct.pack(">HBBBL", 0, 120, 0, 0, 1) + bytes(120)
    connection.data_to_send()
    before = time.process_time()
    for _ in range(messages):
        for event in connection.receive_data(frame):
            connection.acknowledge_received_data(event.flow_controlled_length, 1)
        connection.data_to_send()
    return 1e6 * (time.process_time() - before) / messages


if __name__ == "__main__":
    for library in ("h2", "jh2"):
        sys.stdout.write(f"{library} {measure(library, int(sys.argv[1])):.2f}\n")
