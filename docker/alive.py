"""The health check of the container: whether the server answers, with its own exit code."""

from __future__ import annotations

import http.client
import os
import sys

_TIMEOUT_S = 2.5


def main() -> int:
    """0 when `/health/live` is answered with 200, else 1."""
    port = int(os.environ.get("ORCHESTRATOR_SERVER__PORT", "8000"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/health/live")
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, http.client.HTTPException):
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
