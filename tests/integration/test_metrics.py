"""Metrics of a running appliance: who may read them, whether they are right, who shows them."""

from __future__ import annotations

import time
from pathlib import Path

import requests
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.integration.limited import bearer, new_key
from tests.integration.observed import MODEL, WORKERS, Observed
from tests.integration.serving import Serving, wait_until
from tests.prometheus_server import Query, alert_queries, panel_queries, scraping

NEEDS_GPU = ("nv_trt_llm_", "nv_gpu_")


def scraped(url: str) -> list[Sample]:
    text = requests.get(url, timeout=30).text
    return [sample for one in text_string_to_metric_families(text) for sample in one.samples]


def total(samples: list[Sample], name: str, **labels: str) -> float:
    return sum(
        sample.value
        for sample in samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def workers(watched: Observed) -> set[str]:
    return {
        sample.labels["worker"]
        for sample in scraped(watched.metrics_url)
        if sample.name == "orchestrator_build_info"
    }


def test_one_scrape_counts_the_requests_of_all_workers(watched: Observed) -> None:
    asked = 24
    wait_until(lambda: len(workers(watched)) == WORKERS, 60, "all workers answer")

    def are_ready() -> bool:
        ready = total(scraped(watched.metrics_url), "orchestrator_model_ready", model=MODEL)
        return ready == WORKERS

    wait_until(are_ready, 60, "the model is ready in all workers")
    before = scraped(watched.metrics_url)
    ended = "orchestrator_generations_total"
    was = total(before, ended, model=MODEL)
    for _ in range(asked):
        assert watched.chat(max_tokens=3).status_code == 200

    def counted() -> bool:
        return total(scraped(watched.metrics_url), ended, model=MODEL, outcome="ok") == was + asked

    wait_until(counted, 30, "all requests are counted")
    samples = scraped(watched.metrics_url)
    assert workers(watched) == {str(number) for number in range(WORKERS)}
    tokens = "orchestrator_tokens_total"
    made = total(samples, tokens, type="output", model=MODEL)
    assert 0 < made - total(before, tokens, type="output", model=MODEL) <= 3 * asked
    assert total(samples, "orchestrator_generations_active", model=MODEL) == 0
    assert total(samples, "orchestrator_model_ready", model=MODEL) == WORKERS
    assert total(samples, "orchestrator_store_up") == WORKERS


def test_a_scrape_of_open_metrics_points_at_traces(watched: Observed) -> None:
    trace_id = "5" * 32
    watched.chat({"traceparent": f"00-{trace_id}-{'7' * 16}-01"}, max_tokens=3)
    reply = requests.get(
        watched.metrics_url, headers={"accept": "application/openmetrics-text"}, timeout=30
    )
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    read = openmetrics.text_string_to_metric_families
    families = {one.name: one for one in read(reply.text)}  # type: ignore[no-untyped-call]  # theirs
    first = families["gen_ai_server_time_to_first_token_seconds"]
    found = {one.exemplar.labels["trace_id"] for one in first.samples if one.exemplar}
    assert trace_id in found


def test_tritons_own_metrics_are_beside_ours(watched: Observed) -> None:
    watched.chat(max_tokens=3)

    def counted() -> bool:
        samples = scraped(f"{watched.metrics_url}/triton")
        return total(samples, "nv_inference_request_success_total", model="demo-chat") > 0

    wait_until(counted, 30, "Triton counts the request")
    assert requests.get(f"{watched.metrics_url}/nothing", timeout=30).status_code == 404
    assert requests.post(watched.metrics_url, timeout=30).status_code == 404


def test_with_a_port_of_their_own_metrics_are_not_on_the_public_one(watched: Observed) -> None:
    reply = requests.get(
        f"{watched.serving.url}/metrics", headers=bearer(watched.serving.key), timeout=30
    )
    assert reply.status_code == 404


def test_on_the_public_port_metrics_are_for_admins(appliance: Serving) -> None:
    url = f"{appliance.url}/metrics"
    assert requests.get(url, timeout=30).status_code == 401
    secret, _ = new_key(appliance)
    assert requests.get(url, headers=bearer(secret), timeout=30).status_code == 403
    reply = requests.get(url, headers=bearer(appliance.key), timeout=30)
    assert reply.status_code == 200
    assert "orchestrator_build_info" in reply.text
    triton = requests.get(f"{url}/triton", headers=bearer(appliance.key), timeout=30)
    assert "nv_inference_request_success" in triton.text


def test_the_same_numbers_go_out_by_otlp(watched: Observed) -> None:
    watched.chat(max_tokens=3)
    names = watched.receiver.metrics
    watched.receiver.wait_for(lambda: "gen_ai.server.time_to_first_token" in names)
    metric = names["gen_ai.server.time_to_first_token"][-1]
    assert metric.unit == "s"
    assert metric.histogram.data_points[0].count >= 1


def test_every_panel_has_data_while_the_appliance_is_at_work(
    watched: Observed, tmp_path: Path
) -> None:
    """Under load, with refusals, readers who leave, and an engine that is killed on the way."""
    target, _, _ = watched.metrics_url.removeprefix("http://").partition("/")
    jobs = {"orchestrator": (target, "/metrics"), "triton": (target, "/metrics/triton")}
    queries = [
        query
        for query in panel_queries()
        if not any(metric.startswith(NEEDS_GPU) for metric in query.metrics)
    ]
    with scraping(tmp_path, jobs) as prometheus:
        missing: list[Query] = queries
        load = Load(watched)
        give_up_at = time.monotonic() + 90
        while missing and time.monotonic() < give_up_at:
            load.once()
            missing = [query for query in missing if not has_data(prometheus.ask(query.plain))]
        assert [query.where for query in missing] == []
        for query in alert_queries():
            prometheus.ask(query.plain)
        first = "gen_ai_server_time_to_first_token_seconds_bucket"
        assert prometheus.exemplars(first)


def has_data(result: list[object]) -> bool:
    """Whether one of the series has a number."""
    return any(one["value"][1] != "NaN" for one in result)  # type: ignore[index]  # JSON


class Load:
    """Calls of every kind that the dashboards tell of."""

    def __init__(self, watched: Observed) -> None:
        self._watched = watched
        self._limited, _ = new_key(watched.serving, tpd_limit=100_000, rpm_limit=3)
        self._killed = False

    def once(self) -> None:
        """Some of each."""
        watched = self._watched
        for _ in range(4):
            watched.chat(max_tokens=20)
            watched.chat(bearer(self._limited), max_tokens=5)
        requests.post(
            f"{watched.serving.base_url}/embeddings",
            json={"model": "demo/embed", "input": "a"},
            headers=bearer(watched.serving.key),
            timeout=30,
        )
        self._leave()
        if not self._killed:
            self._killed = True
            self._kill_the_engine()

    def _leave(self) -> None:
        """A reader that goes away after the first bytes."""
        with self._begun() as reply:
            next(reply.iter_content(64))

    def _kill_the_engine(self) -> None:
        """In the middle of an answer."""
        with self._begun() as reply:
            next(reply.iter_content(64))
            self._watched.serving.server().kill()
            list(reply.iter_content(4096))
        wait_until(lambda: self._watched.chat(max_tokens=1).status_code == 200, 60, "it is back")

    def _begun(self) -> requests.Response:
        return requests.post(
            f"{self._watched.serving.base_url}/chat/completions",
            json={
                "model": MODEL,
                "messages": [{"role": "user", "content": "Tell me a long story."}],
                "stream": True,
                "max_tokens": 400,
            },
            headers=bearer(self._watched.serving.key),
            timeout=60,
            stream=True,
        )
