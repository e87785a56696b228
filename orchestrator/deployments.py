"""What is built and running: each catalogue model, its manifest, renderer and readiness."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends import ServedModel
from orchestrator.catalogue import Catalogue, Model
from orchestrator.core.errors import ModelUnavailable
from orchestrator.core.request import SamplingParams
from orchestrator.manifest import ManifestError, read_manifest, served_version
from orchestrator.rendering import Renderer, RenderingError
from orchestrator.triton.client import TritonClient
from orchestrator.triton.probe import Probe

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5.0


@dataclass(slots=True)
class Deployment:
    """One catalogue model. `served` is None while it is not built, `ready` as Triton says."""

    model: Model
    served: ServedModel | None = None
    ready: bool = False
    fault: str = ""
    """Why it is not served, for the log and for operators."""

    def require_ready(self) -> ServedModel:
        """What is served. Raises: ModelUnavailable."""
        if self.served is None or not self.ready:
            raise ModelUnavailable(
                f"The model `{self.model.id}` is not loaded on this appliance.",
                param="model",
                retry_after_s=RETRY_AFTER_S,
            )
        return self.served


class Deployments:
    """All models of the catalogue, and a watch that keeps their readiness true."""

    def __init__(
        self,
        catalogue: Catalogue,
        repository: Path,
        client: TritonClient,
        *,
        interval_s: float,
        probe_timeout_s: float = 3.0,
        progress_file: Path | None = None,
    ) -> None:
        """With a `progress_file`, a supervisor probes Triton; without one, this does it itself."""
        self._client = client
        self._repository = repository
        self._interval_s = interval_s
        self._progress_file = progress_file
        self._progress_at = 0.0
        self._probe = None if progress_file is not None else _probe(catalogue, client)
        self._probe_timeout_s = probe_timeout_s
        self._all = tuple(Deployment(model) for model in catalogue.models)
        self._by_name = {
            name: deployment
            for deployment in self._all
            for name in (deployment.model.id, *deployment.model.aliases)
        }
        self._watch: asyncio.Task[None] | None = None

    @property
    def all(self) -> tuple[Deployment, ...]:
        """Every catalogue model, built or not, in the order of the catalogue."""
        return self._all

    def find(self, name: str) -> Deployment | None:
        """The model whose id or alias is `name`."""
        return self._by_name.get(name)

    async def start(self) -> None:
        """Reads what is built, asks Triton once, then keeps asking."""
        for deployment in self._all:
            await asyncio.to_thread(self._read, deployment)
        await self.refresh()
        self._watch = asyncio.create_task(self._keep_watching())

    async def close(self) -> None:
        """Ends the watch."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    async def refresh(self) -> None:
        """Asks Triton which models are ready."""
        async with asyncio.TaskGroup() as group:
            for deployment in self._all:
                if deployment.served is not None:
                    group.create_task(self._refresh(deployment))

    async def _refresh(self, deployment: Deployment) -> None:
        model = deployment.model
        if self._probe is None:
            ready = await self._client.model_ready(model.name)
        else:
            ready = await self._probe.model_answers(model.name, self._probe_timeout_s)
            if deployment.ready and not ready:
                # Nobody else would tell those who wait for a remote engine that hangs.
                self._client.fail_in_flight(model.name)
        if ready != deployment.ready:
            logger.info("model %s is %s", model.id, "ready" if ready else "down")
        deployment.ready = ready

    async def _keep_watching(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            self._tell_progress()
            await self.refresh()

    def _tell_progress(self) -> None:
        """Lets the supervisor tell a busy engine, whose probe waits in a queue, from a hung one."""
        answered_at = self._client.last_answer_at()
        if self._progress_file is not None and answered_at > self._progress_at:
            self._progress_at = answered_at
            try:
                self._progress_file.touch()
            except OSError as error:
                logger.warning("cannot touch the progress file: %s", error.strerror)

    def _read(self, deployment: Deployment) -> None:
        """Loads manifest and renderer. A model that has none is left out, and the log says why."""
        model = deployment.model
        directory = served_version(self._repository / model.name)
        try:
            if directory is None:
                raise ManifestError(f"{self._repository / model.name}: not built")
            manifest = read_manifest(directory)
            if manifest.task != model.task:
                raise ManifestError(f"{directory}: built for `{manifest.task}`, not `{model.task}`")
            renderer = Renderer(directory, parser=model.parser)
            defaults = _sampling_defaults(directory)
        except (ManifestError, RenderingError) as error:
            deployment.fault = str(error)
            logger.error("model %s is not served: %s", model.id, error)
            return
        deployment.served = ServedModel(model, manifest, renderer, defaults)


def _probe(catalogue: Catalogue, client: TritonClient) -> Probe:
    return Probe(
        client,
        generate=[model.name for model in catalogue.models if model.task == "generate"],
        embed=[model.name for model in catalogue.models if model.task == "embed"],
    )


def _sampling_defaults(directory: Path) -> SamplingParams:
    """What `generation_config.json` says of sampling; greedy where it says not to sample."""
    path = directory / "generation_config.json"
    if not path.is_file():
        return SamplingParams()
    try:
        config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: {error}") from error
    if config.get("do_sample") is False:
        return SamplingParams(temperature=0.0)
    return SamplingParams(
        temperature=config.get("temperature"),
        top_p=config.get("top_p"),
        top_k=config.get("top_k"),
    )
