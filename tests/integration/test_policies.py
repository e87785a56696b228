"""Policies over a running appliance: changed in another process, explained with its real tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.serving import Serving, call, run_command, settings_env, wait_until

MODULE = """package gateway.custom

import rego.v1

deny contains {"rule": "closed", "reason": "Closed for today."} if {
	input.model.task == "generate"
}
"""
CHAT = {
    "model": "demo/chat",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 3,
}


def command(appliance: Serving, *arguments: str) -> Any:
    return run_command(appliance, "policies", *arguments)


def test_a_change_made_by_a_command_reaches_the_running_server(
    appliance: Serving, tmp_path: Path
) -> None:
    (tmp_path / "own.rego").write_text(MODULE)
    policy = command(appliance, "create", "--name", "ours")["id"]
    made = call(appliance, "POST", "/keys", {"label": "ci", "policy_id": policy}).json()
    key = made["secret"]
    assert call(appliance, "POST", "/chat/completions", CHAT, key).status_code == 200
    command(appliance, "update", policy, "--module", str(tmp_path / "own.rego"))

    def is_closed() -> bool:
        reply = call(appliance, "POST", "/chat/completions", CHAT, key)
        return reply.status_code == 403 and reply.headers["x-op-policy-rule"] == "closed"

    wait_until(is_closed, 60, "the new version in force")
    embedding = {"model": "demo/embed", "input": "hello"}
    assert call(appliance, "POST", "/embeddings", embedding, key).status_code == 200
    command(appliance, "update", policy, "--activate", "1")
    wait_until(lambda: not is_closed(), 60, "the old version in force again")


def test_explain_counts_as_the_engine_is_charged(appliance: Serving) -> None:
    body = {"label": "counted", "policy_id": "pol_default", "tpd_limit": 100_000}
    made = call(appliance, "POST", "/keys", body).json()
    question = {"request": CHAT}
    told = call(appliance, "POST", f"/keys/{made['id']}/explain", question).json()
    assert (told["allow"], told["route"], told["limit"]["kind"]) == (True, "local", "tpd")
    assert told["tokens"]["completion_tokens"] == 3
    reply = call(appliance, "POST", "/chat/completions", CHAT, made["secret"])
    usage = reply.json()["usage"]
    assert usage["prompt_tokens"] == told["tokens"]["prompt_tokens"]
    assert usage["total_tokens"] <= told["tokens"]["total_tokens"]


def test_the_command_explains_a_call_as_the_server_would_meet_it(
    appliance: Serving, tmp_path: Path
) -> None:
    made = call(
        appliance,
        "POST",
        "/keys",
        {"label": "narrow", "policy_id": "pol_default", "allowed_models": ["demo/embed"]},
    ).json()
    (tmp_path / "admin").write_text(appliance.key + "\n")
    (tmp_path / "call.json").write_text(json.dumps(CHAT))

    def explain(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(sys.executable, "-m", "orchestrator", "keys", "explain", made["id"]),
                *("--request", str(tmp_path / "call.json"), *more),
                *("--admin-key-file", str(tmp_path / "admin")),
            ],
            env=settings_env({"DATA_DIR": appliance.data_dir, "SERVER__PORT": appliance.port}),
            capture_output=True,
            text=True,
            check=False,
        )

    told = explain("--json")
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    refused = call(appliance, "POST", "/chat/completions", CHAT, made["secret"])
    assert (answer["allow"], answer["status"]) == (False, refused.status_code)
    assert answer["error"]["message"] == refused.json()["error"]["message"]
    assert answer["error"]["message"] in explain().stdout
    nobody = explain("--url", "http://127.0.0.1:1")
    assert nobody.returncode == 1
    assert "cannot be asked" in nobody.stderr
    assert appliance.key not in nobody.stderr
