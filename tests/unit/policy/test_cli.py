"""`orchestrator policies …` over a real store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.__main__ import main
from tests.unit.policy.facts import HEAD

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in a data folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_DATA_DIR", str(tmp_path / "data"))

    def one(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return code, *capsys.readouterr()

    assert one("migrate")[0] == 0
    assert one("tenants", "create", "default")[0] == 0
    return one


def made(run: Run, *arguments: str) -> Any:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_a_policy_is_made_changed_tried_and_deleted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "document.json").write_text('{"limits": {"rpm": 5}}')
    (tmp_path / "own.rego").write_text(HEAD + 'deny contains "no" if input.model.id == "a"\n')
    (tmp_path / "inputs.json").write_text('[{"model": "a"}, {"model": "b"}]')
    policy = made(run, "policies", "create", "--name", "ours", "--document", "document.json")["id"]
    change = ("policies", "update", policy, "--module", "own.rego")
    shadowed = made(run, *change, "--shadow")
    assert (shadowed["active_version"], shadowed["candidate_version"]) == (1, 2)
    active = made(run, "policies", "update", policy, "--activate", "2")
    assert (active["active_version"], active["candidate_version"]) == (2, None)
    assert active["document"] == {"limits": {"rpm": 5}}
    code, out, _ = run("policies", "list")
    assert (code, "pol_default" in out, policy in out) == (0, True, True)
    code, out, _ = run("policies", "show", policy)
    assert (code, "deny contains" in out) == (0, True)
    assert made(run, "policies", "show", policy, "--version", "1")["module"] is None
    tried = made(run, "policies", "test", "--module", "own.rego", "--inputs", "inputs.json")
    assert [one["allow"] for one in tried["data"]] == [False, True]
    replayed = made(run, "policies", "replay", policy, "--version", "1")
    assert (replayed["checked"], replayed["changed"]) == (0, [])
    removed = made(run, "policies", "update", policy, "--no-module", "--name", "theirs")
    assert (removed["module"], removed["name"], removed["version"]) == (None, "theirs", 3)
    assert run("policies", "delete", policy)[0] == 0
    assert run("policies", "show", policy)[::2] == (
        1,
        f"orchestrator: There is no policy `{policy}`.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "pol_nobody"), "There is no policy"),
        (("show", "pol_default", "--version", "9"), "no version 9"),
        (("create", "--name", "x", "--document", "missing.json"), "cannot be read"),
        (("create", "--name", "x", "--document", "wrong.json"), "is not JSON"),
        (("create", "--name", "x", "--document", "list.json"), "JSON object"),
        (("create", "--name", "x", "--module", "wrong.json"), "line 1, column 1"),
        (("test", "--inputs", "object.json"), "JSON list"),
        (("delete", "pol_default"), "cannot be deleted"),
        (("list", "--tenant", "nobody"), "no tenant `nobody`"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "wrong.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "object.json").write_text("{}")
    code, out, err = run("policies", *arguments)
    assert (code, out) == (1, "")
    assert said in err
    assert err.startswith("orchestrator: ")
    assert err.count("\n") == 1
