"""Evaluates Rego with rego-cpp: the product's rules in this process, operators' modules in others.

Without an answer the request is refused. A version that gave no answer or exceeded its limits is
not evaluated again for every request: `faults.py` says when.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.caches import BoundedCache
from orchestrator.core.errors import PolicyUnavailable
from orchestrator.policy import Decision, PolicyInput
from orchestrator.policy.faults import Fault, Faults, Name
from orchestrator.policy.question import Key, PolicyVersion, Question, question
from orchestrator.policy.verdict import RETRY_AFTER_S, read_verdict, unavailable
from orchestrator.rego import Bounds, EvaluatorsError, NoAnswerError
from orchestrator.rego.pool import Evaluators
from orchestrator.rego.rules import Rules, compile_rules
from orchestrator.telemetry.instruments import Tally

logger = logging.getLogger(__name__)

REGO_FOLDER = Path(__file__).parent / "rego"
COMPILE_S = 2.0
"""Processor time to compile a stored module; `candidates.py` allows less."""
_MAX_REMEMBERED = 20_000
_MAX_MODELS_HERE = 100
"""With more model names the product's rules take milliseconds; they then run in an evaluator."""
_PATIENCE = 4
"""Callers wait this many times the time of one evaluation, because others may come first."""
_START_S = 2.0
"""Additional wait, because a process may have to be started."""
_LOG_EVERY_S = 10.0


def gateway_rules() -> str:
    """Returns the source of the product's rules."""
    return (REGO_FOLDER / "gateway.rego").read_text(encoding="utf-8")


class EmbeddedRego:
    """Evaluates versions of policies: the product's rules together with an operator's module.

    The product's rules for a short document are fast and run on the event loop. Everything else
    gets `timeout_s` of processor time in one of the `evaluators`.
    """

    def __init__(
        self,
        evaluators: Evaluators,
        *,
        timeout_s: float,
        tally: Tally | None = None,
        faults: Faults | None = None,
        most_remembered: int = _MAX_REMEMBERED,
    ) -> None:
        """`tally` counts cache hits and misses of decisions."""
        self._evaluators = evaluators
        self._tally = tally or Tally()
        self._bounds = Bounds(COMPILE_S, timeout_s)
        self._patience_s = _START_S + _PATIENCE * timeout_s
        self._faults = faults or Faults()
        self._here: Rules | None = None
        self._asking: dict[tuple[int, Key], asyncio.Task[Decision | _Refusal]] = {}
        self._remembered: BoundedCache[tuple[int, Key], tuple[PolicyVersion, Decision]]
        self._remembered = BoundedCache(most_remembered)
        self._logged_at = float("-inf")

    async def decide(self, version: PolicyVersion, asked: PolicyInput) -> Decision:
        """Returns the decision of `version`. Raises: PolicyUnavailable."""
        asking = question(version, asked, clock=version.module is not None)
        # The cache also holds the version, so that no other object can get its id.
        key = (id(version), asking.key)
        if (known := self._remembered.get(key)) is not None:
            self._tally.hits += 1
            return known[1]
        self._tally.misses += 1
        if not _is_short(asking):
            return await self._decided_elsewhere(key, asking)
        decision = self.evaluate(asking)
        self._remembered.put(key, (version, decision))
        return decision

    def is_constant(self, version: PolicyVersion) -> bool:
        """Whether decisions do not depend on the time, which only a window or a module reads."""
        return version.module is None and version.document.window is None

    def problems(self) -> Sequence[str]:
        """Returns the versions that cannot be evaluated, and a line if no module can be."""
        problem = self._evaluators.problem()
        return [*([f"modules: {problem}"] if problem else []), *self._faults.problems()]

    def forget(self, tenant_id: str, policy_id: str) -> None:
        """Drops the faults of that policy, so that its versions are evaluated again."""
        self._faults.forget(tenant_id, policy_id)

    async def close(self) -> None:
        """Cancels the running evaluations."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    def evaluate(self, asking: Question) -> Decision:
        """Evaluates the product's rules in this process at once. Raises: PolicyUnavailable."""
        try:
            if self._here is None:
                self._here = compile_rules(gateway_rules(), None)
            return read_verdict(self._here.ask(asking.document()), asking.version)
        except Exception as error:
            self._log("%s cannot be evaluated: %s", _name(asking), error)
            raise unavailable() from error

    async def _decided_elsewhere(self, key: tuple[int, Key], asking: Question) -> Decision:
        """Evaluates elsewhere; equal questions share one run. Raises: PolicyUnavailable."""
        if (fault := self._faults.in_the_way(_name(asking), asking.asked.key_id)) is not None:
            raise _refusal(_name(asking), *fault).error()
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._evaluated(key, asking))
            task.add_done_callback(lambda _: self._asking.pop(key))
        # An answer that comes too late for this caller is cached for the next.
        await asyncio.wait({task}, timeout=self._patience_s)
        if not task.done():
            reason = f"no answer within {self._patience_s:g} s"
            self._log("%s cannot be evaluated: %s", _name(asking), reason)
            raise unavailable()
        answer = task.result()
        if isinstance(answer, Decision):
            return answer
        raise answer.error()

    async def _evaluated(self, key: tuple[int, Key], asking: Question) -> Decision | _Refusal:
        """Returns the decision of another process, or the refusal that callers get instead."""
        name, key_id = _name(asking), asking.asked.key_id
        try:
            async with self._evaluators.place(name.tenant_id, self._patience_s) as place:
                if (fault := self._faults.in_the_way(name, key_id)) is not None:
                    return _refusal(name, *fault)
                module = asking.version.module
                answer = await place.answer(module, asking.document(), self._bounds)
            decision = read_verdict(answer, asking.version)
        except EvaluatorsError as error:
            self._log("%s cannot be evaluated: %s", name, error)
            return _Refusal()
        except NoAnswerError as error:
            return self._at_fault(name, key_id, str(error))
        if self._faults.answered(name, key_id):
            logger.warning("policy %s version %d is evaluated again", *name[1:])
        self._remembered.put(key, (asking.version, decision))
        return decision

    def _at_fault(self, name: Name, key_id: str, reason: str) -> _Refusal:
        fault, is_first = self._faults.note(name, key_id, reason)
        if is_first:
            logger.error(
                "policy %s version %d cannot be evaluated, and is tried again after a while: %s",
                *(name.policy_id, name.version, reason),
            )
        return _refusal(name, fault, fault.wait_s)

    def _log(self, message: str, name: Name, error: object) -> None:
        """Logs at most one line per `_LOG_EVERY_S`: a fault of this process would fill the log."""
        now = time.monotonic()
        if now - self._logged_at > _LOG_EVERY_S:
            self._logged_at = now
            logger.error(message, f"policy {name.policy_id} version {name.version}", error)


def _name(asking: Question) -> Name:
    version = asking.version
    return Name(asking.asked.tenant_id, version.policy_id, version.version)


def _is_short(asking: Question) -> bool:
    """Whether only the product's rules decide, with few names."""
    version, allowed = asking.version, asking.asked.allowed_models
    return version.module is None and version.names + len(allowed) <= _MAX_MODELS_HERE


def _refusal(name: Name, fault: Fault, left_s: float) -> _Refusal:
    said = f"Policy `{name.policy_id}` version {name.version} cannot be evaluated: {fault.reason}."
    return _Refusal(said, left_s)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why there is no decision. Each caller gets its own error object: replies write into it."""

    message: str = ""
    retry_after_s: float = RETRY_AFTER_S

    def error(self) -> PolicyUnavailable:
        """Returns a new error for one caller."""
        if not self.message:
            return unavailable()
        return unavailable(self.message, retry_after_s=self.retry_after_s)
