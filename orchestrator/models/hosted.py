"""The models that are built and running: each with its manifest, renderer and readiness."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.triton.placement import Placement, Placements, Replica, Server
from orchestrator.backends.triton.served import ServedModel
from orchestrator.contract.catalogue import Catalogue, Model
from orchestrator.contract.manifest import ManifestError, served_version
from orchestrator.core.errors import GatewayError, ModelUnavailable
from orchestrator.core.request import SamplingParams
from orchestrator.models import selftest
from orchestrator.models.built import read_built
from orchestrator.rendering import RenderingError
from orchestrator.triton.endpoint import DEFAULT
from orchestrator.triton.probe import Probe

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5.0
_HURRIED_S = 0.2
"""Pause between two looks at a Triton that calls wait for."""
_SELFTEST_TIMEOUT_S = 30.0
_FIRST_TESTS_S = 10.0
_SELFTEST_AGAIN_S = 30.0
"""Pause after a mismatch; the model may have been rebuilt by then."""


@dataclass(slots=True)
class Deployment:
    """One catalogue model. `served` is None while it is not built."""

    model: Model
    placement: Placement
    served: ServedModel | None = None
    fault: str = ""
    """Why the built model cannot be served."""

    @property
    def ready(self) -> bool:
        """Whether any of its servers has it loaded and answers."""
        return self.placement.ready

    @property
    def tested(self) -> str:
        """What the self-test verified, if the model is served."""
        return next((one.tested for one in self.placement.replicas if one.ready), "")

    @property
    def problem(self) -> str:
        """Why it is not served, or not everywhere, for operators; empty if there is no reason."""
        faults = {one.name: one.fault for one in self.placement.replicas if one.fault}
        found = [
            fault if self.placement.is_alone else f"{name}: {fault}"
            for name, fault in faults.items()
        ]
        return "; ".join([self.fault, *found] if self.fault else found)

    @property
    def away(self) -> tuple[str, ...]:
        """The servers that do not serve it at the moment."""
        return tuple(one.name for one in self.placement.replicas if not one.ready)

    @property
    def defaults(self) -> SamplingParams:
        """Its sampling defaults, for values that a request leaves out; as far as they are known."""
        return SamplingParams() if self.served is None else self.served.defaults

    def require_ready(self) -> ServedModel:
        """Returns the model if it is served, or soon will be again. Raises: ModelUnavailable."""
        if self.served is None or not (self.ready or self.placement.awaited_s):
            raise ModelUnavailable(
                f"The model `{self.model.id}` is not loaded on this appliance.",
                param="model",
                retry_after_s=RETRY_AFTER_S,
            )
        return self.served


class Deployments:
    """All models of the catalogue, and a watch that keeps their readiness up to date."""

    def __init__(
        self,
        catalogue: Catalogue,
        repository: Path,
        placements: Placements,
        *,
        interval_s: float,
        probe_timeout_s: float = 3.0,
        progress_file: Path | None = None,
        faults_file: Path | None = None,
    ) -> None:
        """With a `progress_file`, a supervisor probes the Triton that is its child.

        All others, and that one without a supervisor, are probed from here.

        `faults_file` is where other processes read why models are not served.
        """
        self._placements = placements
        self._repository = repository
        self._interval_s = interval_s
        self._progress_file = progress_file
        self._progress_at = 0.0
        self._faults_file = faults_file
        self._tests: dict[Replica, asyncio.Task[None]] = {}
        self._probes = {
            server.name: _probe(catalogue, server)
            for server in placements.servers
            if progress_file is None or server.name != DEFAULT
        }
        self._probe_timeout_s = probe_timeout_s
        self._all = tuple(
            Deployment(model, placements.of(model.name)) for model in catalogue.models
        )
        self._by_name = {
            name: deployment
            for deployment in self._all
            for name in (deployment.model.id, *deployment.model.aliases)
        }
        self._watches: list[asyncio.Task[None]] = []
        self._doubts = {server.name: asyncio.Event() for server in placements.servers}
        for deployment in self._all:
            for replica in deployment.placement.replicas:
                replica.on_doubt = self._doubts[replica.name].set

    def served(self, model: Model) -> ServedModel:
        """Returns the served form of a catalogue model. Raises: ModelUnavailable."""
        return self._by_name[model.id].require_ready()

    @property
    def all(self) -> tuple[Deployment, ...]:
        """Every catalogue model, built or not, in the order of the catalogue."""
        return self._all

    def find(self, name: str) -> Deployment | None:
        """Finds the model whose id or alias is `name`."""
        return self._by_name.get(name)

    async def start(self) -> None:
        """Reads the built models, asks every Triton once, then keeps asking."""
        for deployment in self._all:
            await asyncio.to_thread(self._read, deployment)
        self._tell_faults()
        await asyncio.gather(*(self._refresh_all(one) for one in self._placements.servers))
        if self._tests:
            # An engine that hangs must not delay the others.
            await asyncio.wait(self._tests.values(), timeout=_FIRST_TESTS_S)
        self._watches = [
            asyncio.create_task(self._keep_watching(server)) for server in self._placements.servers
        ]

    async def close(self) -> None:
        """Stops the watches."""
        tasks = [*self._tests.values(), *self._watches]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _refresh_all(self, server: Server) -> None:
        """Asks one Triton which models are ready."""
        async with asyncio.TaskGroup() as group:
            for deployment in self._all:
                for replica in deployment.placement.replicas:
                    if deployment.served is not None and replica.server is server:
                        group.create_task(self._refresh(deployment, replica))

    async def _refresh(self, deployment: Deployment, replica: Replica) -> None:
        if not replica.is_due:
            return
        try:
            answers = await self._answers(replica)
        except Exception as error:
            # For example an unreadable answer; the other models are checked all the same.
            what = (replica.model, replica.name, type(error).__name__)
            logger.warning("model %s on triton `%s` cannot be asked: %s", *what)
            answers = False
        # It may have been ejected by now, and then this answer is too old.
        if not replica.is_due:
            return
        if not answers:
            replica.eject()
        elif not replica.ready:
            # It was loaded, or reloaded, and has to prove that it is the built one.
            self._test(deployment, replica)

    async def _answers(self, replica: Replica) -> bool:
        """Whether the model is loaded there and, if probed from here, answers."""
        name = replica.model
        if (probe := self._probes.get(replica.name)) is None:
            return await replica.client.model_ready(name)
        answers = await probe.model_answers(name, self._probe_timeout_s)
        if not answers:
            # No supervisor fails the calls that wait for a remote engine that hangs.
            replica.client.fail_in_flight(name)
        return answers

    def _test(self, deployment: Deployment, replica: Replica) -> None:
        if replica not in self._tests and time.monotonic() >= replica.test_again_at:
            task = self._tests[replica] = asyncio.create_task(self._replay(deployment, replica))
            task.add_done_callback(lambda _: self._tests.pop(replica))

    async def _replay(self, deployment: Deployment, replica: Replica) -> None:
        """Serves the model there if it answers as it did when it was built."""
        model, where = deployment.model, replica.name
        served = await asyncio.to_thread(self._as_built_now, deployment)
        try:
            async with asyncio.timeout(_SELFTEST_TIMEOUT_S):
                tested = await selftest.replay(replica.client, model.name, served.manifest)
        except (GatewayError, TimeoutError) as error:
            # A missing answer says nothing about the model; the next look asks again.
            reason = type(error).__name__
            logger.info("model %s on triton `%s` cannot be tried yet: %s", model.id, where, reason)
            return
        except selftest.MismatchError as error:
            replica.test_again_at = time.monotonic() + _SELFTEST_AGAIN_S
            fault = f"self-test: {error}"
            if fault != replica.fault:
                logger.error("model %s is not served by triton `%s`: %s", model.id, where, fault)
            replica.fault = fault
        else:
            logger.info("model %s on triton `%s` is ready, self-test: %s", model.id, where, tested)
            deployment.fault, replica.tested = "", tested
            replica.admit()
        self._tell_faults()

    def _as_built_now(self, deployment: Deployment) -> ServedModel:
        """Returns what Triton has loaded: a new version may have been built since the last load."""
        assert deployment.served is not None
        known = deployment.served.manifest.directory
        if served_version(self._repository / deployment.model.name) != known:
            self._read(deployment)
        return deployment.served

    def _tell_faults(self) -> None:
        """Writes why models are not served, for `orchestrator doctor`."""
        if self._faults_file is None:
            return
        faults = {one.model.id: one.problem for one in self._all if one.problem}
        draft = self._faults_file.with_name(f".{self._faults_file.name}.{os.getpid()}")
        try:
            self._faults_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text(json.dumps(faults) + "\n", encoding="utf-8")
            draft.replace(self._faults_file)
        except OSError as error:
            logger.warning("cannot write the faults of models: %s", error.strerror)

    async def _keep_watching(self, server: Server) -> None:
        """Watches one server, in a task of its own: one that hangs must not delay the others."""
        while True:
            await self._pause(server)
            if server.name == DEFAULT:
                self._tell_progress(server)
            await self._refresh_all(server)

    async def _pause(self, server: Server) -> None:
        """Waits until the next look at `server`, which is soon if calls wait or may have to."""
        doubt = self._doubts[server.name]
        pause_s = self._interval_s
        if any(
            one.placement.is_waited_for or one.placement.awaited_s
            for one in self._all
            if any(replica.server is server for replica in one.placement.replicas)
        ):
            pause_s = min(_HURRIED_S, pause_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await doubt.wait()
                # Calls that fail together cause one look.
                await asyncio.sleep(_HURRIED_S)
        doubt.clear()

    def _tell_progress(self, server: Server) -> None:
        """Lets the supervisor distinguish a busy engine, whose probe is queued, from a hung one."""
        answered_at = server.client.last_answer_at()
        if self._progress_file is not None and answered_at > self._progress_at:
            self._progress_at = answered_at
            try:
                self._progress_file.touch()
            except OSError as error:
                logger.warning("cannot touch the progress file: %s", error.strerror)

    def _read(self, deployment: Deployment) -> None:
        """Loads manifest and renderer. A model without them is left out, and the log says why."""
        model = deployment.model
        try:
            deployment.served = read_built(self._repository, model)
        except (ManifestError, RenderingError) as error:
            deployment.fault = str(error)
            logger.error("model %s is not served: %s", model.id, error)


def _probe(catalogue: Catalogue, server: Server) -> Probe:
    return Probe(
        server.client,
        generate=[model.name for model in catalogue.models if model.task == "generate"],
        embed=[model.name for model in catalogue.models if model.task == "embed"],
    )
