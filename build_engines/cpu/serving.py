"""Opens a built model: what the Triton backend needs, without Triton."""

from __future__ import annotations

from build_engines.cpu.embedder import Embedder
from build_engines.cpu.engine import Engine, Progress
from build_engines.cpu.guided import GuideCompiler
from build_engines.cpu.runtime import PRECISIONS, DecoderRuntime, Precision
from build_engines.serving.artefacts import Artefacts

#: The OpenVINO graph; its weights lie beside it.
MODEL_FILE = "model.xml"


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
        artefacts.folder / MODEL_FILE, _precision(artefacts), cache_tokens, threads
    )
    end_ids = [tokens["end_id"], *tokens["extra_end_ids"]]
    guides = GuideCompiler(artefacts.folder / "tokenizer.json", limits.vocab_size, end_ids)
    return Engine(runtime, limits, guides, reuse=reuse, on_progress=on_progress)


def open_embedder(artefacts: Artefacts, threads: int = 0) -> Embedder:
    """An embedder over `artefacts`. 0 threads: one for each core."""
    return Embedder(artefacts.folder / MODEL_FILE, _precision(artefacts), threads)


def _precision(artefacts: Artefacts) -> Precision:
    return PRECISIONS[str(artefacts.manifest["runtime"]["dtype"])]
