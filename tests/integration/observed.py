"""An appliance that is watched: two workers, a receiver of its traces, a port for its metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.integration.serving import Serving, running
from tests.otlp_receiver import Receiver, receiving
from tests.redis_server import RedisServer

WORKERS = 2
MODEL = "demo/chat"


@dataclass(frozen=True)
class Observed:
    """A `serving`, whose spans come to `receiver` and whose metrics are at `metrics_url`."""

    serving: Serving
    receiver: Receiver
    metrics_url: str

    def chat(self, headers: dict[str, str] | None = None, **more: object) -> requests.Response:
        """One call with the admin's key, to its end."""
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Tell me a long story."}],
            **more,
        }
        return requests.post(
            f"{self.serving.base_url}/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {self.serving.key}", **(headers or {})},
            timeout=60,
        )


@contextmanager
def observed(folder: Path, **variables: str) -> Iterator[Observed]:
    """Runs one in `folder`, with the `OTEL_*` variables that are given beside the usual ones."""
    redis = RedisServer(folder)
    redis.start()
    with receiving() as receiver, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        patch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "500")
        for name, value in variables.items():
            patch.setenv(name, value)
        serving = Serving(
            folder / "appliance",
            {
                "SERVER__WORKERS": WORKERS,
                "REDIS__URL": redis.url,
                "METRICS__PORT": 0,
                # Errors of the engine are to be seen, not waited out.
                "TRITON__WAIT_FOR_MODEL_S": 0,
            },
        )
        try:
            for ready in running(serving):
                found = re.search(r"metrics at port (\d+)", ready.log)
                assert found is not None
                yield Observed(ready, receiver, f"http://127.0.0.1:{found[1]}/metrics")
        finally:
            redis.kill()
