from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import __version__
from orchestrator.keys.secret import is_key_secret
from orchestrator.settings import PROJECT_ROOT
from tests.unit.cli.conftest import Run

pytestmark = pytest.mark.slow

_SECRET = re.compile(r"op_live_[0-9a-f]{4}_[0-9a-f]{32}")

_NO_LIMITS = dict.fromkeys(("rpm_limit", "images_rpm_limit", "tpd_limit", "concurrency_limit"))


def _created(migrated: Run, *more: str) -> dict[str, object]:
    code, out, err = migrated("keys", "create", "--label", "quickstart", "--json", *more)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert isinstance(document, dict)
    return document


def test_version_is_told(run: Run) -> None:
    assert run("--version") == (0, f"{__version__}\n", "")


def test_version_and_help_load_no_library() -> None:
    script = (
        "import sys, orchestrator.__main__ as m\n"
        "try: m.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "slow = {'pydantic', 'sqlalchemy', 'sqlmodel', 'alembic', 'fastapi', 'grpc', 'numpy'}\n"
        "sys.exit(f'loaded {slow & set(sys.modules)}' if slow & set(sys.modules) else 0)\n"
    )
    for line in (["--version"], ["--help"], ["keys", "create", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *line], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_help_lists_the_commands_and_hides_the_worker(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in ("serve", "migrate", "keys", "tenants", "models"):
        assert command in out
    assert "worker" not in out


@pytest.mark.parametrize(
    "line",
    [
        (),
        ("nonsense",),
        ("keys",),
        ("keys", "create"),
        ("keys", "create", "--label", "  "),
        ("keys", "create", "--label", "x" * 201),
        ("keys", "create", "--label", "two\nlines"),
        ("keys", "create", "--label", "x", "--models", "a,,b"),
        ("keys", "create", "--label", "x", "--expires-at", "tomorrow"),
        ("keys", "create", "--label", "x", "--expires-at", "2031-01-01T00:00:00"),
        ("keys", "create", "--label", "x", "--expires-at", "2001-01-01T00:00:00Z"),
        ("keys", "create", "--label", "x", "--rpm-limit", "0"),
        ("keys", "create", "--label", "x", "--plan", "gold"),
        ("keys", "create", "--label", "x", "--metadata", "nothing"),
        ("keys", "rotate", "key_1", "--overlap-s", "-1"),
        ("keys", "revoke"),
        ("keys", "patch"),
        ("tenants",),
        ("tenants", "limits", "acme", "--tpd-limit", "many"),
        ("tenants", "limits", "acme", "--enable-api", "--disable-api"),
        ("worker",),
    ],
)
def test_wrong_usage_is_exit_code_two(run: Run, line: tuple[str, ...]) -> None:
    code, out, err = run(*line)
    assert (code, out) == (2, "")
    assert "usage: orchestrator" in err
    assert "Traceback" not in err


def test_migrate_twice_has_nothing_to_do(migrated: Run) -> None:
    assert migrated("migrate") == (0, "Nothing to do.\n", "")


@pytest.mark.parametrize(
    "line", [("keys", "list"), ("keys", "create", "--label", "x"), ("keys", "revoke", "key_1")]
)
def test_store_that_is_not_set_up_is_one_sentence(
    run: Run, line: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "orchestrator.db").touch()
    code, out, err = run(*line)
    assert (code, out) == (1, "")
    assert re.fullmatch(
        r"orchestrator: the store `.*orchestrator\.db` has not been set up: "
        r"run `orchestrator migrate`\n",
        err,
    )


def test_created_key_is_shown_once(migrated: Run) -> None:
    code, out, err = migrated("keys", "create", "--label", "quick start")
    assert (code, err) == (0, "")
    (secret,) = _SECRET.findall(out)
    assert "quick start" in out
    code, out, _ = migrated("keys", "list")
    assert code == 0
    assert secret not in out
    assert f"{secret[:12]}_...{secret[-4:]}" in out


def test_created_key_as_json_has_the_members_of_the_wire(migrated: Run) -> None:
    made = _created(
        migrated,
        "--admin",
        "--models",
        "acme/chat, acme/embed",
        "--expires-at",
        "2099-01-01T01:00+01:00",
    )
    secret = str(made.pop("secret"))
    assert is_key_secret(secret)
    assert str(made.pop("id")).startswith("key_")
    assert str(made.pop("tenant_id")).startswith("ten_")
    assert isinstance(made.pop("created_at"), int)
    assert made == {
        "object": "virtual_key",
        "label": "quickstart",
        "policy_id": "pol_default",
        "prefix": secret[:12],
        "last4": secret[-4:],
        "scope": "admin",
        "allowed_models": ["acme/chat", "acme/embed"],
        "plan": None,
        **_NO_LIMITS,
        "deployment_id": None,
        "route_policy": None,
        "metadata": {},
        "status": "active",
        "expires_at": 4070908800,
        "revoked_at": None,
        "last_used_at": None,
        "previous_expires_at": None,
        "previous_last_used_at": None,
        "effective_limits": _NO_LIMITS,
    }


def test_all_models_swallow_the_others(migrated: Run) -> None:
    assert _created(migrated, "--models", "acme/chat,*")["allowed_models"] == ["*"]


def test_alias_is_kept_and_unknown_model_is_noted(migrated: Run) -> None:
    code, out, err = migrated(
        "keys", "create", "--label", "x", "--models", "quick:chat,acme/chta", "--json"
    )
    assert code == 0
    assert json.loads(out)["allowed_models"] == ["quick:chat", "acme/chta"]
    assert err == "orchestrator: note: `acme/chta` is not in the catalogue at present\n"


def test_new_tenant_name_makes_a_tenant_and_says_so(migrated: Run) -> None:
    code, out, _ = migrated("keys", "create", "--label", "x", "--tenant", "acme")
    assert code == 0
    assert "Tenant `acme` is new" in out
    code, out, _ = migrated("keys", "create", "--label", "y", "--tenant", "acme")
    assert code == 0
    assert "is new" not in out
    tenants = {
        row["tenant_id"] for row in json.loads(migrated("keys", "list", "--json")[1])["data"]
    }
    assert len(tenants) == 1


def test_unknown_tenant_id_is_refused(migrated: Run) -> None:
    assert migrated("keys", "create", "--label", "x", "--tenant", "ten_nobody") == (
        1,
        "",
        "orchestrator: there is no tenant `ten_nobody`\n",
    )
    assert json.loads(migrated("keys", "list", "--json")[1])["data"] == []


def test_list_is_a_table_with_a_line_for_each_key(migrated: Run) -> None:
    _created(migrated)
    _created(migrated, "--expires-at", "2099-01-01T00:00:00Z")
    code, out, _ = migrated("keys", "list")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 3
    header = "ID LABEL TENANT KEY SCOPE MODELS STATUS CREATED EXPIRES LAST USED"
    assert " ".join(lines[0].split()) == header
    # The newest first.
    assert "2099-01-01 00:00" in lines[1]


def test_keys_are_found_by_label_status_and_use(migrated: Run) -> None:
    made = _created(migrated)
    other = _created(migrated)
    migrated("keys", "revoke", str(other["id"]))

    def found(*options: str) -> set[str]:
        code, out, _ = migrated("keys", "list", "--json", *options)
        assert code == 0
        return {row["id"] for row in json.loads(out)["data"]}

    assert found("--status", "active") == {made["id"]}
    assert found("--status", "revoked", "--label", "QUICK") == {other["id"]}
    assert found("--label", "nothing like it") == set()
    never = "2027-01-01T00:00:00Z"
    assert found("--last-used-before", never) == {made["id"], other["id"]}
    assert found("--last-used-after", never) == set()
    assert found("--policy-id", "pol_other") == set()


def test_revoked_key_is_listed_as_such(migrated: Run) -> None:
    made = _created(migrated)
    code, out, _ = migrated("keys", "revoke", str(made["id"]))
    assert (code, out) == (0, f"Key {made['id']} (quickstart) is revoked.\n")
    code, out, _ = migrated("keys", "revoke", str(made["id"]))
    assert (code, out) == (0, f"Key {made['id']} (quickstart) had been revoked before.\n")
    code, out, _ = migrated("keys", "revoke", str(made["id"]), "--json")
    assert json.loads(out)["status"] == "revoked"
    (row,) = json.loads(migrated("keys", "list", "--json")[1])["data"]
    assert row["status"] == "revoked"
    assert isinstance(row["revoked_at"], int)
    assert "secret" not in row


def test_unknown_key_cannot_be_revoked(migrated: Run) -> None:
    assert migrated("keys", "revoke", "key_nobody") == (
        1,
        "",
        "orchestrator: there is no key `key_nobody`\n",
    )


def test_models_are_listed_with_what_is_built(run: Run, tmp_path: Path) -> None:
    built = tmp_path / "repository" / "acme-chat" / "1"
    built.mkdir(parents=True)
    (built / "manifest.json").write_text("{}")
    (tmp_path / "repository" / "acme-embed" / "1").mkdir(parents=True)
    code, out, err = run("models")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["ID", "TASK", "CONTEXT", "BUILT", "ALIASES"],
        ["acme/chat", "generate", "512", "yes", "quick:chat"],
        ["acme/embed", "embed", "256", "no", "-"],
    ]
    code, out, _ = run("models", "--json")
    assert [entry["built_versions"] for entry in json.loads(out)["data"]] == [[1], []]


def test_missing_catalogue_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CATALOGUE", "/nowhere/catalogue.toml")
    assert run("models") == (
        1,
        "",
        "orchestrator: /nowhere/catalogue.toml: No such file or directory\n",
    )


def test_wrong_setting_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_SERVER__PORT", "70000")
    code, out, err = run("models")
    assert (code, out) == (1, "")
    assert err.startswith("orchestrator: server.port: ")
    assert err.count("\n") == 1


def test_folder_that_cannot_be_made_is_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_DATA_DIR", "/dev/null/data")
    code, out, err = run("migrate")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"orchestrator: `data_dir`: `/dev/null/data` cannot be written: .*\n", err)


def test_damaged_store_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "orchestrator.db").write_bytes(b"no database " * 1000)
    for line in (("migrate",), ("keys", "list")):
        code, out, err = run(*line)
        assert (code, out) == (1, "")
        assert err.endswith("is damaged: it is not an SQLite file\n")
        assert err.count("\n") == 1


def test_fault_of_ours_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.cli import models

    def broken(*_: object, **__: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(models, "show_all", broken)
    with pytest.raises(ZeroDivisionError):
        run("models")


def _one(migrated: Run, *line: str) -> dict[str, object]:
    code, out, err = migrated(*line, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert isinstance(document, dict)
    return document


def test_key_is_made_with_every_member(migrated: Run) -> None:
    limits = ("--rpm-limit", "7", "--tpd-limit", "1000", "--concurrency-limit", "2")
    more = ("--plan", "standard", "--route-policy", "local-only", "--policy-id", "pol_default")
    made = _created(migrated, *limits, *more, "--metadata", "team=search", "--metadata", "a=b=c")
    assert made["plan"] == "standard"
    assert (made["rpm_limit"], made["images_rpm_limit"], made["tpd_limit"]) == (7, 20, 1000)
    assert made["concurrency_limit"] == 2
    assert made["metadata"] == {"team": "search", "a": "b=c"}
    assert made["route_policy"] == "local-only"


def test_unknown_policy_is_one_sentence(migrated: Run) -> None:
    line = ("keys", "create", "--label", "x", "--policy-id", "pol_nobody")
    assert migrated(*line) == (1, "", "orchestrator: `policy_id` names no policy.\n")


def test_key_is_shown_and_changed(migrated: Run) -> None:
    made = _created(migrated, "--plan", "free", "--metadata", "a=b")
    key = str(made["id"])
    changed = _one(migrated, "keys", "patch", key, "--label", "new", "--models", "acme/chat")
    assert (changed["label"], changed["allowed_models"]) == ("new", ["acme/chat"])
    assert (changed["plan"], changed["metadata"]) == ("free", {"a": "b"})
    _one(migrated, "keys", "patch", key, "--clear", "plan,metadata")
    shown = _one(migrated, "keys", "show", key)
    assert (shown["plan"], shown["metadata"], shown["rpm_limit"]) == (None, {}, None)
    assert "secret" not in shown
    code, out, _ = migrated("keys", "show", key)
    assert code == 0
    assert "acme/chat" in out
    assert str(made["secret"]) not in out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ((), "there is nothing to change; see `orchestrator keys patch --help`"),
        (("--clear", "label"), "`label` cannot be cleared; these can: rpm_limit, "),
        (("--clear", "plan", "--plan", "pro"), "`plan` is given and cleared; do one of them"),
    ],
)
def test_change_that_makes_no_sense_is_one_sentence(
    migrated: Run, more: tuple[str, ...], sentence: str
) -> None:
    code, out, err = migrated("keys", "patch", str(_created(migrated)["id"]), *more)
    assert (code, out) == (1, "")
    assert err.startswith(f"orchestrator: {sentence}")


def test_rotated_key_has_a_new_secret(migrated: Run) -> None:
    made = _created(migrated)
    rotated = _one(migrated, "keys", "rotate", str(made["id"]), "--overlap-s", "60")
    assert rotated["id"] == made["id"]
    assert is_key_secret(str(rotated["secret"]))
    assert rotated["secret"] != made["secret"]
    assert isinstance(rotated["previous_expires_at"], int)
    code, out, _ = migrated("keys", "rotate", str(made["id"]))
    assert code == 0
    assert len(_SECRET.findall(out)) == 1


@pytest.mark.parametrize("command", ["show", "patch", "rotate", "revoke"])
def test_unknown_key_is_one_sentence(migrated: Run, command: str) -> None:
    more = ("--label", "x") if command == "patch" else ()
    code, out, err = migrated("keys", command, "key_nobody", *more)
    assert (code, out, err) == (1, "", "orchestrator: there is no key `key_nobody`\n")


def test_tenant_is_limited_and_its_keys_with_it(migrated: Run) -> None:
    tenant = _one(migrated, "tenants", "create", "acme")
    limited = _one(
        migrated, "tenants", "limits", "acme", "--rpm-limit", "50", "--plan", "pro", "--disable-api"
    )
    assert limited == tenant | {"rpm_limit": 50, "plan": "pro", "api_disabled": True}
    code, _, err = migrated(
        "keys", "create", "--label", "x", "--tenant", "acme", "--rpm-limit", "51"
    )
    assert code == 1
    assert "`rpm_limit` may be 50 at most, the limit of the tenant; 51 was given." in err
    made = _created(migrated, "--tenant", str(tenant["id"]))
    assert made["effective_limits"] == _NO_LIMITS | {"rpm_limit": 50, "images_rpm_limit": 60}
    again = _one(migrated, "tenants", "limits", "acme", "--clear", "rpm_limit,plan", "--enable-api")
    assert again == tenant
    code, out, _ = migrated("tenants", "list")
    assert code == 0
    assert "acme" in out
    assert _one(migrated, "keys", "list", "--tenant", "acme")["data"] != []
    _one(migrated, "tenants", "create", "bolt")
    assert _one(migrated, "keys", "list", "--tenant", "bolt")["data"] == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (("tenants", "create", "ten_x"), "a tenant's name must not look like an id"),
        (("tenants", "limits", "nobody"), "there is no tenant `nobody`"),
        (("tenants", "limits", "nobody", "--clear", "name"), "`name` cannot be cleared"),
        (("keys", "list", "--tenant", "nobody"), "there is no tenant `nobody`"),
    ],
)
def test_wrong_tenant_is_one_sentence(migrated: Run, line: tuple[str, ...], sentence: str) -> None:
    code, out, err = migrated(*line)
    assert (code, out) == (1, "")
    assert err.startswith(f"orchestrator: {sentence}")


def test_tenant_is_made_once(migrated: Run) -> None:
    _one(migrated, "tenants", "create", "acme")
    code, _, err = migrated("tenants", "create", "acme")
    assert code == 1
    assert err.startswith("orchestrator: there is a tenant `acme` already (ten_")


def test_every_act_is_in_the_audit(migrated: Run) -> None:
    key = str(_created(migrated, "--tenant", "acme")["id"])
    migrated("keys", "patch", key, "--label", "new")
    migrated("keys", "rotate", key)
    migrated("keys", "revoke", key)
    migrated("keys", "revoke", key)
    migrated("tenants", "limits", "acme", "--rpm-limit", "5")
    migrated("tenants", "limits", "acme", "--rpm-limit", "5")
    code, out, err = migrated("audit", "export")
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["action"] for line in lines] == [
        "tenant.create",
        "key.create",
        "key.patch",
        "key.rotate",
        "key.revoke",
        "tenant.patch",
    ]
    assert all(line["actor"].startswith("cli:") for line in lines)
    assert not _SECRET.search(out)


def test_keys_are_chosen_by_a_last_use_in_the_past(migrated: Run) -> None:
    _created(migrated)
    before = ("--last-used-before", "2026-11-01T00:00:00Z")
    assert len(json.loads(migrated("keys", "list", "--json", *before)[1])["data"]) == 1
    after = ("--last-used-after", "1700000000")
    assert json.loads(migrated("keys", "list", "--json", *after)[1])["data"] == []
    code, _, err = migrated("keys", "list", "--last-used-after", "yesterday")
    assert (code, "`yesterday` is neither seconds since the epoch nor a time" in err) == (2, True)


def test_an_empty_tenant_is_wrong_usage(migrated: Run) -> None:
    for line in (("list",), ("create", "--label", "x")):
        code, _, err = migrated("keys", *line, "--tenant", "")
        assert (code, "argument --tenant: must be 1 to 200" in err) == (2, True)


def test_a_reader_that_has_enough_is_no_error(migrated: Run) -> None:
    _created(migrated)
    line = f"{sys.executable} -m orchestrator keys list --json | true; exit ${{PIPESTATUS[0]}}"
    environ = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    done = subprocess.run(
        ["bash", "-c", line], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (141, "")
