"""The Helm chart, rendered by Helm itself and held against the schemas of Kubernetes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no stubs
import pytest
import yaml

from tests import programs
from tests.unit.docker.tools import DOCKER

pytestmark = pytest.mark.slow

OLDEST = "1.27"
ONE_TRITON: dict[str, Any] = {
    "triton": {"servers": [{"name": "chat", "models": ["instruct"], "gpus": 2}]}
}
EVERYTHING: dict[str, Any] = {
    "triton": {
        "servers": [
            {"name": "chat", "models": ["instruct"], "gpus": 2, "sharedMemory": "16Gi"},
            {
                "name": "small",
                "models": ["one", "two"],
                "mode": "orchestrator",
                "replicas": 2,
                "resources": {"requests": {"cpu": "4"}, "limits": {"memory": "64Gi"}},
                "nodeSelector": {"gpu": "yes"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
            },
        ]
    },
    "orchestrator": {
        "dataStorageClass": "fast",
        "env": {"ORCHESTRATOR_QUOTA__ON_OUTAGE": "local_share"},
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "x", "operator": "Exists"}],
    },
    "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"team": "web"}}}]},
    "otlpEndpoint": "http://collector:4318",
}
CUSTOM_KINDS = {"ServiceMonitor"}

Render = Callable[[dict[str, Any]], list[dict[str, Any]]]


class RenderError(Exception):
    """Helm refused."""


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """By the `helm` program, or by Helm's own library in the package helm-python-sdk."""
    if (helm := programs.find("helm")) is not None:
        values = tmp_path_factory.mktemp("helm") / "values.json"
        return lambda given: _by_program(helm, values, given)
    if importlib.util.find_spec("helm_python") is None:
        programs.lacking("there is no Helm on this machine")
    return _by_library


def _by_program(helm: str, values: Path, given: dict[str, Any]) -> list[dict[str, Any]]:
    values.write_text(json.dumps(given), encoding="utf-8")
    line = [helm, "template", "box", str(DOCKER / "helm"), "--namespace=prod", f"--values={values}"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RenderError(done.stderr)
    return _objects(done.stdout)


_BY_LIBRARY = """
import json, sys
import helm_python
try:
    with helm_python.Chart.load(sys.argv[1]) as chart:
        given = json.load(sys.stdin)
        chart.validate_schema(given)
        json.dump(chart.render(given, name="box", namespace="prod"), sys.stdout)
except helm_python.HelmError as error:
    sys.exit(str(error))
"""


def _by_library(given: dict[str, Any]) -> list[dict[str, Any]]:
    # In a process of its own: the runtime of Go, in which the library is written, has ended the
    # process of the tests.
    done = subprocess.run(
        [sys.executable, "-c", _BY_LIBRARY, str(DOCKER / "helm")],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RenderError(done.stderr)
    rendered = json.loads(done.stdout)
    return [
        one for name, text in rendered.items() if name.endswith(".yaml") for one in _objects(text)
    ]


def _objects(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one is not None]


def _named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    for one in objects:
        if one["kind"] == kind and one["metadata"]["name"] == name:
            return one
    raise AssertionError(f"no {kind} {name}")


@pytest.mark.parametrize("values", [ONE_TRITON, EVERYTHING], ids=["least", "everything"])
@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_every_object_follows_the_schema_of_kubernetes(
    render: Render, values: dict[str, Any], version: str
) -> None:
    objects = render(values)
    for one in objects:
        if one["kind"] not in CUSTOM_KINDS:
            kubernetes_validate.validate(one, version, strict=True)
    kinds = {one["kind"] for one in objects}
    assert kinds >= {"Deployment", "StatefulSet", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    assert kinds >= {"Job", "Service", "NetworkPolicy"}
    assert ("ServiceMonitor" in kinds) == (values is EVERYTHING)


def test_each_triton_has_its_set_its_gpus_and_its_mode(render: Render) -> None:
    objects = render(EVERYTHING)
    chat = _named(objects, "StatefulSet", "box-chat")["spec"]["template"]["spec"]["containers"][0]
    small = _named(objects, "StatefulSet", "box-small")["spec"]["template"]["spec"]["containers"][0]
    assert chat["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert {"name": "WORLD_SIZE", "value": "2"} in chat["env"]
    assert {"name": "TRTLLM_ORCHESTRATOR", "value": "1"} in small["env"]
    assert "WORLD_SIZE" not in {one["name"] for one in small["env"]}
    assert small["args"] == ["one", "two"]
    assert small["resources"]["limits"] == {"nvidia.com/gpu": 1, "memory": "64Gi"}


def test_the_orchestrator_knows_every_triton_by_name_and_number(render: Render) -> None:
    assert _settings(render(ONE_TRITON))["ORCHESTRATOR_TRITON__URL"] == "box-chat-0.box-chat:8001"
    several = _settings(render(EVERYTHING))
    assert "ORCHESTRATOR_TRITON__URL" not in several
    assert json.loads(several["ORCHESTRATOR_TRITON__ENDPOINTS"]) == {
        "chat-0": {"url": "box-chat-0.box-chat:8001"},
        "small-0": {"url": "box-small-0.box-small:8001"},
        "small-1": {"url": "box-small-1.box-small:8001"},
    }


def _settings(objects: list[dict[str, Any]]) -> dict[str, str]:
    pod = _named(objects, "Deployment", "box")["spec"]["template"]["spec"]
    return {one["name"]: one.get("value", "") for one in pod["containers"][0]["env"]}


def test_probes_ask_what_they_are_for_and_a_pod_has_time_to_end(render: Render) -> None:
    pod = _named(render(ONE_TRITON), "Deployment", "box")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain_s = next(
        int(one["value"])
        for one in container["env"]
        if one["name"] == "ORCHESTRATOR_SERVER__DRAIN_S"
    )
    assert pod["terminationGracePeriodSeconds"] > pause_s + drain_s


def test_proxies_are_trusted_where_they_are_named(render: Render) -> None:
    name = "ORCHESTRATOR_SERVER__TRUSTED_PROXIES"
    assert name not in _settings(render(ONE_TRITON))
    networks = ["10.1.0.0/16", "2001:db8::/32"]
    values = {**ONE_TRITON, "orchestrator": {"trustedProxies": networks}}
    assert json.loads(_settings(render(values))[name]) == networks


def test_no_container_may_write_its_image_or_be_root(render: Render) -> None:
    for one in render(EVERYTHING):
        if one["kind"] in {"Deployment", "StatefulSet", "Job"}:
            pod = one["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["automountServiceAccountToken"] is False
            for container in pod["containers"]:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_without_any_triton_the_chart_says_what_is_missing(render: Render) -> None:
    with pytest.raises(RenderError, match="name a server under `servers`, or the `externalUrl`"):
        render({})


@pytest.mark.parametrize(
    "values",
    [
        {**ONE_TRITON, "replicas": 3},
        {"triton": {"servers": [{"name": "Chat", "models": ["instruct"]}]}},
        {"triton": {"servers": [{"name": "chat", "models": ["a; rm -rf /"]}]}},
        {**ONE_TRITON, "orchestrator": {"env": {"PATH": "/tmp"}}},
        {**ONE_TRITON, "orchestrator": {"trustedProxies": ["ingress.example"]}},
    ],
)
def test_values_that_are_not_known_are_refused(render: Render, values: dict[str, Any]) -> None:
    with pytest.raises(RenderError):
        render(values)
