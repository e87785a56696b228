"""Triton's `cpu` backend: passes requests to the CPU engine and returns its tokens.

Model folders hold only artefacts. The engine is `build_engines.cpu`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from build_engines.cpu.engine import Engine
from build_engines.cpu.serving import open_embedder, open_engine
from build_engines.serving.hosting import Configuration, Embedding, Generating, Progress

#: The engine and the delivery thread switch many times in a step, and the
#: default of 5 ms is longer than a step.
_SWITCH_INTERVAL_S = 0.0005


class TritonPythonModel:
    """One loaded model of either task."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the artefacts. Triton reports any error as the reason for not loading."""
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        configuration = Configuration(args)
        artefacts = configuration.artefacts("cpu")
        threads = _threads()

        def opened(on_progress: Progress) -> Engine:
            return open_engine(
                artefacts,
                max_queue_size=configuration.max_queue_size,
                reuse=configuration.flag("enable_kv_cache_reuse", True),
                on_progress=on_progress,
                threads=threads,
            )

        self._served: Embedding | Generating
        if artefacts.task == "embed":
            self._served = Embedding(open_embedder(artefacts, threads), artefacts)
        else:
            self._served = Generating(opened, configuration)

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Returns responses in order for embeddings; None for generations (channels answer)."""
        return self._served.execute(requests)

    def finalize(self) -> None:
        """Ends all running work and joins the threads."""
        self._served.close()


def _threads() -> int:
    """Returns the number of threads that the supervisor sets per engine; 0 is one for each core."""
    return int(os.environ.get("CPU_ENGINE_THREADS", "0"))
