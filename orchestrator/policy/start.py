"""The policy stage as the settings want it."""

from __future__ import annotations

import time

from orchestrator.policy.embedded import EmbeddedRego
from orchestrator.policy.engine import Evaluator, RegoPolicies, evaluate_open
from orchestrator.policy.policies import Policies
from orchestrator.policy.recorder import Recorder
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.telemetry.instruments import Tally

_PATIENT_S = 5.0


def start_policies(settings: Settings, database: Database) -> RegoPolicies:
    """The policies of the store, with what evaluates them; `close` it before `database`."""
    tally = Tally()
    evaluator = _evaluator(settings, tally)
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
    """Has one question decided that nobody asked, in its own time. Raises: PolicyUnavailable."""
    patient = settings.policy.model_copy(update={"timeout_s": _PATIENT_S})
    evaluator = _evaluator(settings.model_copy(update={"policy": patient}), Tally())
    try:
        await evaluate_open(evaluator, time.time())
    finally:
        await evaluator.close()


def _evaluator(settings: Settings, tally: Tally) -> Evaluator:
    policy = settings.policy
    match policy.engine:
        case "embedded":
            most = settings.store.key_cache_keys
            return EmbeddedRego(timeout_s=policy.timeout_s, tally=tally, most_remembered=most)
        case "opa":
            # Imported where it is used: an HTTP client costs 5 MB.
            from orchestrator.policy.opa import OpaHttp

            token = policy.opa_token.get_secret_value() if policy.opa_token else None
            return OpaHttp(policy.opa_url, timeout_s=policy.timeout_s, token=token)
