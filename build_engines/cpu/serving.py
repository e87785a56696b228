"""Opens a built model: what the Triton backend needs, without Triton."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engines.cpu.embedder import Embedder
from build_engines.cpu.engine import Engine, Progress
from build_engines.cpu.guided import GuideCompiler
from build_engines.cpu.request import Limits
from build_engines.cpu.runtime import PRECISIONS, DecoderRuntime


@dataclass(frozen=True, slots=True)
class Artefacts:
    """A built model's folder with its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def task(self) -> str:
        """`generate` or `embed`."""
        return str(self.manifest["task"])

    @property
    def model_xml(self) -> Path:
        """The OpenVINO graph; its weights lie beside it."""
        return self.folder / "model.xml"

    @property
    def dtype(self) -> str:
        """A key of PRECISIONS."""
        return str(self.manifest["runtime"]["dtype"])

    def limits(self, max_queue_size: int) -> Limits:
        """What was built, with the queue as the server is configured."""
        limits = self.manifest["limits"]
        return Limits(
            max_batch_size=limits["max_batch_size"],
            max_queue_size=max_queue_size,
            max_input_len=limits["max_input_len"],
            max_seq_len=limits["max_seq_len"],
            vocab_size=limits["vocab_size"],
        )


def open_artefacts(folder: Path) -> Artefacts:
    """The model in `folder`. Raises: ValueError when it was built for another engine."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    if manifest.get("target") != "cpu":
        raise ValueError(f"{folder}: built for target `{manifest.get('target')}`, not for `cpu`")
    return Artefacts(folder, manifest)


def open_engine(
    artefacts: Artefacts,
    *,
    max_queue_size: int,
    reuse: bool,
    on_progress: Progress,
    threads: int = 0,
) -> Engine:
    """A running engine over `artefacts`; the caller closes it. 0 threads: one for each core."""
    tokens, limits = artefacts.manifest["tokens"], artefacts.limits(max_queue_size)
    cache_tokens = int(artefacts.manifest["limits"]["kv_cache_tokens"])
    runtime = DecoderRuntime(
        artefacts.model_xml, PRECISIONS[artefacts.dtype], cache_tokens, threads
    )
    end_ids = [tokens["end_id"], *tokens["extra_end_ids"]]
    guides = GuideCompiler(artefacts.folder / "tokenizer.json", limits.vocab_size, end_ids)
    return Engine(runtime, limits, guides, reuse=reuse, on_progress=on_progress)


def open_embedder(artefacts: Artefacts, threads: int = 0) -> Embedder:
    """An embedder over `artefacts`. 0 threads: one for each core."""
    return Embedder(artefacts.model_xml, PRECISIONS[artefacts.dtype], threads)
