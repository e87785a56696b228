"""A Prometheus of the tests' own, and the queries of our dashboards and rules."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from orchestrator.settings import PROJECT_ROOT
from tests.integration.serving import free_port
from tests.programs import program

DASHBOARDS = PROJECT_ROOT / "docker" / "grafana" / "dashboards"
RULES = PROJECT_ROOT / "docker" / "prometheus" / "rules" / "appliance.yaml"
_START_TIMEOUT_S = 100.0
_SERIES = re.compile(r"\b(?:orchestrator|gen_ai|http_server|process|nv)_\w+")
_VARIABLES = {"$model": ".*", "$tenant": ".*", "$__rate_interval": "15s", "$__range": "1m"}


@dataclass(frozen=True)
class Query:
    """What a panel or a rule asks for."""

    where: str
    expression: str

    @property
    def plain(self) -> str:
        """As Prometheus takes it, Grafana's variables filled in."""
        text = self.expression
        for name, value in _VARIABLES.items():
            text = text.replace(name, value)
        return text

    @property
    def metrics(self) -> set[str]:
        """The names of series in it."""
        return set(_SERIES.findall(self.plain)) - {"gen_ai_request_model"}


def dashboards() -> dict[str, dict[str, Any]]:
    """Every dashboard by its file's name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(DASHBOARDS.glob("*.json"))
    }


def panel_queries() -> list[Query]:
    """What every panel and every variable asks for."""
    return [
        Query(f"{name}: {panel['title']}", target["expr"])
        for name, board in dashboards().items()
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]


def alert_queries() -> list[Query]:
    """What every alert asks for."""
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    return [Query(rule["alert"], rule["expr"]) for rule in rules]


def check_rules(path: Path) -> None:
    """Has promtool read the rules in `path`."""
    command = [program("promtool"), "check", "rules", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A running one."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, expression: str) -> list[Any]:
        """The series that `expression` gives now."""
        reply = requests.get(
            f"{self.url}/api/v1/query", params={"query": expression}, timeout=60
        ).json()
        assert reply["status"] == "success", reply
        result: list[Any] = reply["data"]["result"]
        return result

    def exemplars(self, expression: str) -> list[Any]:
        """The traces that the series of `expression` point at."""
        now = time.time()
        reply = requests.get(
            f"{self.url}/api/v1/query_exemplars",
            params={"query": expression, "start": str(now - 600), "end": str(now)},
            timeout=60,
        ).json()
        found: list[Any] = reply["data"]
        return found


@contextmanager
def scraping(folder: Path, jobs: Mapping[str, Sequence[str]]) -> Iterator[Prometheus]:
    """A Prometheus that reads every `job`, given as target and path, once a second."""
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": name,
                "metrics_path": path,
                "static_configs": [{"targets": [target]}],
            }
            for name, (target, path) in jobs.items()
        ],
    }
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'series'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        _wait_ready(server.url)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_ready(url: str) -> None:
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            if requests.get(f"{url}/-/ready", timeout=2).status_code == 200:
                return
        except requests.ConnectionError:
            assert time.monotonic() < give_up_at, "Prometheus did not start"
        time.sleep(0.05)
