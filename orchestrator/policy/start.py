"""The policy stage as the settings want it."""

from __future__ import annotations

from orchestrator.policy.embedded import EmbeddedRego
from orchestrator.policy.engine import Evaluator, RegoPolicies
from orchestrator.policy.opa import OpaHttp
from orchestrator.policy.policies import Policies
from orchestrator.policy.recorder import Recorder
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.telemetry.instruments import Tally


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
    return RegoPolicies(policies, evaluator, recorder, tally=tally)


def _evaluator(settings: Settings, tally: Tally) -> Evaluator:
    policy = settings.policy
    match policy.engine:
        case "embedded":
            return EmbeddedRego(timeout_s=policy.timeout_s, tally=tally)
        case "opa":
            token = policy.opa_token.get_secret_value() if policy.opa_token else None
            return OpaHttp(policy.opa_url, timeout_s=policy.timeout_s, token=token)
