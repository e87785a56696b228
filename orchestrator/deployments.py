"""What is built and running: each catalogue model, its manifest, renderer and readiness."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import selftest
from orchestrator.backends import ServedModel
from orchestrator.catalogue import Catalogue, Model
from orchestrator.core.errors import GatewayError, ModelUnavailable
from orchestrator.core.request import SamplingParams
from orchestrator.manifest import ManifestError, read_manifest, served_version
from orchestrator.rendering import Renderer, RenderingError
from orchestrator.triton.client import TritonClient
from orchestrator.triton.probe import Probe

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5.0
_SELFTEST_TIMEOUT_S = 30.0
_FIRST_TESTS_S = 10.0
_SELFTEST_AGAIN_S = 30.0
"""After a mismatch; the model may have been built anew meanwhile."""


@dataclass(slots=True)
class Deployment:
    """One catalogue model. `served` is None while it is not built, `ready` as Triton says."""

    model: Model
    served: ServedModel | None = None
    ready: bool = False
    fault: str = ""
    """Why it is not served, for the log and for operators."""
    tested: str = ""
    """What the self-test found right when it was last loaded."""
    test_again_at: float = 0.0
    """By `time.monotonic()`; in between a model that failed its self-test stays out."""

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
        faults_file: Path | None = None,
    ) -> None:
        """With a `progress_file`, a supervisor probes Triton; without one, this does it itself.

        `faults_file` is where other processes read why models are not served.
        """
        self._client = client
        self._repository = repository
        self._interval_s = interval_s
        self._progress_file = progress_file
        self._progress_at = 0.0
        self._faults_file = faults_file
        self._tests: dict[str, asyncio.Task[None]] = {}
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
        self._tell_faults()
        await self.refresh()
        if self._tests:
            # An engine that hangs must not keep the others waiting.
            await asyncio.wait(self._tests.values(), timeout=_FIRST_TESTS_S)
        self._watch = asyncio.create_task(self._keep_watching())

    async def close(self) -> None:
        """Ends the watch."""
        tasks = list(self._tests.values())
        if self._watch is not None:
            tasks.append(self._watch)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

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
        if not ready:
            if deployment.ready:
                logger.info("model %s is down", model.id)
            # What comes back is another load, which may be right where this one was wrong.
            deployment.ready, deployment.test_again_at = False, 0.0
        elif not deployment.ready:
            # It was loaded, or loaded again, and has to show that it is what was built.
            self._test(deployment)

    def _test(self, deployment: Deployment) -> None:
        name = deployment.model.name
        if name not in self._tests and time.monotonic() >= deployment.test_again_at:
            task = self._tests[name] = asyncio.create_task(self._replay(deployment))
            task.add_done_callback(lambda _: self._tests.pop(name))

    async def _replay(self, deployment: Deployment) -> None:
        """Serves the model if it does what it did when it was built."""
        model = deployment.model
        served = await asyncio.to_thread(self._as_built_now, deployment)
        try:
            async with asyncio.timeout(_SELFTEST_TIMEOUT_S):
                deployment.tested = await selftest.replay(self._client, model.name, served.manifest)
        except (GatewayError, TimeoutError) as error:
            # No answer says nothing about the model; the next look asks again.
            logger.info("model %s cannot be tried yet: %s", model.id, type(error).__name__)
            return
        except selftest.MismatchError as error:
            deployment.test_again_at = time.monotonic() + _SELFTEST_AGAIN_S
            fault = f"self-test: {error}"
            if fault != deployment.fault:
                logger.error("model %s is not served: %s", model.id, fault)
            deployment.fault = fault
        else:
            logger.info("model %s is ready, self-test: %s", model.id, deployment.tested)
            deployment.fault, deployment.ready = "", True
        self._tell_faults()

    def _as_built_now(self, deployment: Deployment) -> ServedModel:
        """What Triton has loaded: another version may have been built since the last load."""
        assert deployment.served is not None
        known = deployment.served.manifest.directory
        if served_version(self._repository / deployment.model.name) != known:
            self._read(deployment)
        return deployment.served

    def _tell_faults(self) -> None:
        """Lets `orchestrator doctor` know why models are not served."""
        if self._faults_file is None:
            return
        faults = {one.model.id: one.fault for one in self._all if one.fault}
        draft = self._faults_file.with_name(f".{self._faults_file.name}.{os.getpid()}")
        try:
            self._faults_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text(json.dumps(faults) + "\n", encoding="utf-8")
            draft.replace(self._faults_file)
        except OSError as error:
            logger.warning("cannot write the faults of models: %s", error.strerror)

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
        try:
            deployment.served = read_built(self._repository, model)
        except (ManifestError, RenderingError) as error:
            deployment.fault = str(error)
            logger.error("model %s is not served: %s", model.id, error)


def read_built(repository: Path, model: Model) -> ServedModel:
    """What was built for `model`. Raises: ManifestError, RenderingError."""
    directory = served_version(repository / model.name)
    if directory is None:
        raise ManifestError(f"{repository / model.name}: not built")
    manifest = read_manifest(directory)
    if manifest.task != model.task:
        raise ManifestError(f"{directory}: built for `{manifest.task}`, not `{model.task}`")
    renderer = Renderer(directory, parser=model.parser, reasoning=model.reasoning)
    return ServedModel(model, manifest, renderer, _sampling_defaults(directory))


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
