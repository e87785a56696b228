"""Dashboards and rules: every series that they ask for is one that is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from orchestrator.telemetry import specs
from orchestrator.telemetry.exposition import prometheus_name
from orchestrator.telemetry.instruments import Registry, Spec
from orchestrator.telemetry.key_use import KeyUse
from tests.prometheus_server import (
    Query,
    alert_queries,
    check_rules,
    dashboards,
    panel_queries,
)

TRITON = {
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_pending_request_count",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_cpu_utilization",
    "nv_cpu_memory_used_bytes",
    "nv_cpu_memory_total_bytes",
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
    "nv_trt_llm_request_metrics",
    "nv_trt_llm_kv_cache_block_metrics",
    "nv_trt_llm_inflight_batcher_metrics",
    "nv_trt_llm_runtime_memory_metrics",
}
"""Source: Triton's metrics documentation; the metrics reporter of TensorRT-LLM's backend."""


def told() -> set[str]:
    """The names of all series of the orchestrator."""
    registry = Registry()
    KeyUse(registry, 1)
    found = [value for value in vars(specs).values() if isinstance(value, Spec)]
    found += [family.spec for family in registry.collect()]
    names = set()
    for spec in found:
        name = prometheus_name(spec)
        match spec.kind:
            case "counter":
                names.add(f"{name}_total")
            case "gauge":
                names.add(name)
            case "histogram":
                names |= {f"{name}_{part}" for part in ("bucket", "count", "sum")}
    return names


@pytest.mark.parametrize("query", panel_queries() + alert_queries(), ids=lambda query: query.where)
def test_every_series_that_is_asked_for_is_told(query: Query) -> None:
    asked = query.metrics
    assert asked or query.expression.startswith("up{")
    assert asked <= told() | TRITON


def test_there_are_three_dashboards_and_every_panel_says_what_it_shows() -> None:
    boards = dashboards()
    assert set(boards) == {"overview", "keys", "engine"}
    assert len({board["uid"] for board in boards.values()}) == 3
    for board in boards.values():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in board["panels"]:
            assert panel["title"]
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            if panel["type"] != "row":
                assert panel["fieldConfig"]["defaults"]["unit"]
                assert panel["datasource"]["uid"] == "prometheus"


def test_latency_leads_to_traces() -> None:
    with_exemplars = {
        query["expr"].split("(rate(")[1].split("_bucket")[0]
        for board in dashboards().values()
        for panel in board["panels"]
        for query in panel.get("targets", ())
        if query.get("exemplar")
    }
    assert "gen_ai_server_time_to_first_token_seconds" in with_exemplars


def test_the_alerts_that_operators_need_are_there() -> None:
    assert {query.where for query in alert_queries()} >= {
        "HighErrorRate",
        "SlowFirstToken",
        "QueueGrows",
        "BudgetNearlyGone",
        "EngineNotProgressing",
        "DatabaseDown",
    }


def test_promtool_takes_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": query.plain}
        for number, query in enumerate(panel_queries() + alert_queries())
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    check_rules(path)
