"""Opens a built model for the Triton backend, without importing Triton."""

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

#: The OpenVINO graph; its weights are in the same folder.
MODEL_FILE = "model.xml"


def open_engine(
    artefacts: Artefacts,
    *,
    max_queue_size: int,
    reuse: bool,
    on_progress: Progress,
    threads: int = 0,
) -> Engine:
    """Starts an engine for `artefacts`; the caller closes it.

    0 threads means one for each core, or for each processor of a container's quota.
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
    """Opens an embedder for `artefacts`. 0 threads: as for `open_engine`."""
    return Embedder(artefacts.folder / MODEL_FILE, _precision(artefacts), threads or _threads())


def _threads() -> int:
    """Returns one thread for each processor of a quota; 0 without one, so that OpenVINO chooses.

    OpenVINO takes a thread for each core that it may run on, even if a container may use only a
    part of their time: on a big machine the threads would wait for each other in every step.
    """
    processors = cgroup.usable_processors()
    return processors if processors < len(os.sched_getaffinity(0)) else 0


def _precision(artefacts: Artefacts) -> Precision:
    """Returns the precision on this CPU, which may differ from the CPU of the build."""
    precision = precision_for(str(artefacts.manifest["runtime"]["dtype"]))
    if precision.note:
        logger.warning("%s: %s", artefacts.manifest["model"], precision.note)
    return precision
