"""Triton's `trtllm_embed` backend: a TensorRT encoder engine, its packing and its pooling.

TensorRT-LLM's own backend loads encoder engines but never returns their output.
"""

from __future__ import annotations

from typing import Any

from build_engines.serving.hosting import Configuration, Embedding
from build_engines.trtllm.embedder import open_embedder


class TritonPythonModel:
    """One loaded encoder."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the engine. Triton reports any error as the reason for not loading."""
        artefacts = Configuration(args).artefacts("trtllm")
        self._served = Embedding(open_embedder(artefacts), artefacts)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Returns the responses in order."""
        return self._served.execute(requests)

    def finalize(self) -> None:
        """Releases the GPU."""
        self._served.close()
