"""Opens a built model: what the Triton backend needs, without Triton."""

from __future__ import annotations

import logging
import os

from build_engines.cpu.embedder import Embedder
from build_engines.cpu.engine import Engine, Progress
from build_engines.cpu.guided import GuideCompiler
from build_engines.cpu.precision import Precision, precision_for
from build_engines.cpu.runtime import DecoderRuntime
from build_engines.serving.artefacts import Artefacts
from orchestrator import cgroup

logger = logging.getLogger(__name__)

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
    """A running engine over `artefacts`; the caller closes it.

    0 threads: one for each core, or for each processor of a container's quota.
    """
    tokens, limits = artefacts.manifest["tokens"], artefacts.limits(max_queue_size)
    cache_tokens = int(artefacts.manifest["limits"]["kv_cache_tokens"])
    runtime = DecoderRuntime(
        artefacts.folder / MODEL_FILE, _precision(artefacts), cache_tokens, threads or _threads()
    )
    end_ids = [tokens["end_id"], *tokens["extra_end_ids"]]
    guides = GuideCompiler(artefacts.folder / "tokenizer.json", limits.vocab_size, end_ids)
    return Engine(runtime, limits, guides, reuse=reuse, on_progress=on_progress)


def open_embedder(artefacts: Artefacts, threads: int = 0) -> Embedder:
    """An embedder over `artefacts`. 0 threads: as for `open_engine`."""
    return Embedder(artefacts.folder / MODEL_FILE, _precision(artefacts), threads or _threads())


def _threads() -> int:
    """One for each processor of a quota; 0, which lets OpenVINO choose, where there is none.

    OpenVINO takes a thread for each core that it may run on, whatever part of their time a
    container has: those of a big machine would wait for each other in every step.
    """
    processors = cgroup.usable_processors()
    return processors if processors < len(os.sched_getaffinity(0)) else 0


def _precision(artefacts: Artefacts) -> Precision:
    """What this CPU computes in, which need not be the one that the model was built on."""
    precision = precision_for(str(artefacts.manifest["runtime"]["dtype"]))
    if precision.note:
        logger.warning("%s: %s", artefacts.manifest["model"], precision.note)
    return precision
