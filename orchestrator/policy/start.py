"""Builds the policy stage from the settings."""

from __future__ import annotations

import time

from orchestrator.policy.candidates import Candidates
from orchestrator.policy.embedded import EmbeddedRego, gateway_rules
from orchestrator.policy.engine import RegoPolicies, evaluate_open
from orchestrator.policy.evaluator import Evaluator
from orchestrator.policy.in_force import Policies
from orchestrator.policy.recorder import Recorder
from orchestrator.rego.pool import Evaluators
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.telemetry.instruments import Tally

_PATIENT_S = 5.0


def new_evaluators(settings: Settings) -> Evaluators:
    """Returns the processes that evaluate modules, not started yet. The caller closes them."""
    policy = settings.policy
    return Evaluators(
        gateway_rules(), places=policy.evaluators, memory_bytes=policy.evaluator_memory_bytes
    )


def new_candidates(settings: Settings, evaluators: Evaluators) -> Candidates:
    """Returns the checker of candidates, with the same limits as requests."""
    return Candidates(evaluators, timeout_s=settings.policy.timeout_s)


def start_policies(settings: Settings, database: Database, evaluators: Evaluators) -> RegoPolicies:
    """Returns the store's policies with their evaluator.

    Call `close` on it before `database` and `evaluators`.
    """
    tally = Tally()
    evaluator = _evaluator(settings, evaluators, tally)
    policy = settings.policy
    policies = Policies(
        database, fresh_s=policy.fresh_s, timeout_s=settings.store.key_lookup_timeout_s
    )
    recorder = Recorder(
        database,
        evaluator,
        share=policy.record_share,
        keep_s=policy.record_keep_s,
        most_waiting=policy.record_queue,
    )
    recorder.start()
    most = settings.store.key_cache_keys
    return RegoPolicies(policies, evaluator, recorder, tally=tally, most_remembered=most)


async def open_question(settings: Settings) -> None:
    """Evaluates a built-in policy once, to test the evaluator. Raises: PolicyUnavailable."""
    patient = settings.policy.model_copy(update={"timeout_s": _PATIENT_S})
    evaluators = new_evaluators(settings)
    evaluator = _evaluator(settings.model_copy(update={"policy": patient}), evaluators, Tally())
    try:
        await evaluate_open(evaluator, time.time())
    finally:
        await evaluator.close()
        await evaluators.close()


def _evaluator(settings: Settings, evaluators: Evaluators, tally: Tally) -> Evaluator:
    policy = settings.policy
    match policy.engine:
        case "embedded":
            return EmbeddedRego(
                evaluators,
                timeout_s=policy.timeout_s,
                tally=tally,
                most_remembered=settings.store.key_cache_keys,
            )
        case "opa":
            # Imported only where it is used: an HTTP client takes 5 MB.
            from orchestrator.policy.opa import OpaHttp

            token = policy.opa_token.get_secret_value() if policy.opa_token else None
            return OpaHttp(policy.opa_url, timeout_s=policy.timeout_s, token=token)
