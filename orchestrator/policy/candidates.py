"""Candidate policies: checks one before it is stored, and tries it on questions, within limits."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.errors import InvalidRequest
from orchestrator.policy import Decision, PolicyInput
from orchestrator.policy.embedded import COMPILE_S
from orchestrator.policy.question import PolicyVersion, question
from orchestrator.policy.verdict import read_verdict, unavailable
from orchestrator.rego import BoundExceededError, Bounds, EvaluatorsError, NoAnswerError
from orchestrator.rego.pool import Evaluators

MAX_NAMES = 5000
"""Max names of models and plans in one document."""
_PATIENCE_S = 30.0
_MAX_CPU_S = 10.0


class Candidates:
    """Evaluates candidates, each in its tenant's turn."""

    def __init__(self, evaluators: Evaluators, *, timeout_s: float) -> None:
        """`timeout_s` is the processor time of one evaluation, the same as for requests."""
        self._evaluators = evaluators
        # Less compile time than requests have, so that a stored version works on a busy machine.
        self._of_check = Bounds(COMPILE_S / 2, timeout_s)
        self._of_trial = Bounds(COMPILE_S, timeout_s)

    async def check(self, version: PolicyVersion, tenant_id: str, param: str = "module") -> None:
        """Checks that `version` can be evaluated.

        Raises: InvalidRequest, with line and column, when it cannot; PolicyUnavailable when that
        cannot be found out.
        """
        if version.names > MAX_NAMES:
            raise InvalidRequest(
                f"`document` may hold {MAX_NAMES} names at most in `allowed_models` and "
                f"`plan_models`; it holds {version.names}.",
                param="document",
            )
        if version.module is None:
            return
        asked = PolicyInput("key_1", "ten_1", "a/b", "generate", "cloud-ok", "127.0.0.1", at=0.0)
        document = question(version, asked, clock=True).document()
        try:
            async with self._evaluators.place(tenant_id, _PATIENCE_S) as place:
                reply = await place.reply(version.module, document, self._of_check, param)
        except EvaluatorsError as error:
            raise unavailable(f"The module cannot be checked at the moment: {error}.") from error
        except BoundExceededError as error:
            raise InvalidRequest(f"`{param}`, line 1, column 1: {error}.", param=param) from error
        if "invalid" in reply:
            raise InvalidRequest(reply["invalid"], param=param)

    async def judge(
        self, version: PolicyVersion, asked: Sequence[PolicyInput], tenant_id: str
    ) -> list[Decision]:
        """Returns one decision for each question; where the evaluation fails, one that says why.

        Raises: InvalidRequest when all together take too long; PolicyUnavailable when nothing can
        be evaluated.
        """
        decisions, cpu_s = [], 0.0
        for one in asked:
            decision, took_s = await self._judged(version, one, tenant_id)
            decisions.append(decision)
            cpu_s += took_s
            if cpu_s > _MAX_CPU_S:
                raise InvalidRequest(
                    f"The candidate took more than {_MAX_CPU_S:g} s for the first "
                    f"{len(decisions)} of {len(asked)} questions; try it on fewer."
                )
        return decisions

    async def _judged(
        self, version: PolicyVersion, asked: PolicyInput, tenant_id: str
    ) -> tuple[Decision, float]:
        """Returns the decision and the processor time in seconds."""
        document = question(version, asked, clock=version.module is not None).document()
        try:
            async with self._evaluators.place(tenant_id, _PATIENCE_S) as place:
                reply = await place.reply(version.module, document, self._of_trial)
            return read_verdict(reply["answer"], version), reply["cpu_s"]
        except EvaluatorsError as error:
            raise unavailable(f"Nothing can be evaluated at the moment: {error}.") from error
        except NoAnswerError as error:
            reason = f"It cannot be evaluated: {error}."
            exceeded = isinstance(error, BoundExceededError)
            took_s = self._of_trial.ask_s if exceeded else 0.0
            return Decision(allow=False, rule="unavailable", reason=reason, routes=()), took_s
