"""Triton's `llmapi` backend: TensorRT-LLM's PyTorch engine with the tensors of its C++ one."""

from __future__ import annotations

import json
import os
from typing import Any

from build_engines.llmapi.engine import ARGUMENTS_FILE, LlmEngine, open_llm
from build_engines.serving.hosting import Configuration, Generating, Progress

#: Inherited from a launcher, they would make the engine's processes believe they are its ranks.
_INHERITED = ("OMPI_", "PMIX_", "PMI_")


class TritonPythonModel:
    """One loaded model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the checkpoint. Triton reports any error as the reason for not loading."""
        for name in [name for name in os.environ if name.startswith(_INHERITED)]:
            del os.environ[name]
        configuration = Configuration(args)
        artefacts = configuration.artefacts("llmapi")
        arguments = json.loads((artefacts.folder / ARGUMENTS_FILE).read_bytes())

        def opened(on_progress: Progress) -> LlmEngine:
            limits = artefacts.limits(configuration.max_queue_size)
            return LlmEngine(open_llm(artefacts.folder, arguments), limits, on_progress)

        self._served = Generating(opened, configuration)

    def execute(self, requests: list[Any]) -> None:
        """Starts the requests; their channels answer."""
        self._served.execute(requests)

    def finalize(self) -> None:
        """Ends all running generations and releases the GPU."""
        self._served.close()
