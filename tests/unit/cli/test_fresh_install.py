"""Commands where no store is yet, or whose first key came from outside."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "line",
    [
        ("keys", "list"),
        ("keys", "show", "key_1"),
        ("keys", "create", "--label", "x"),
        ("tenants", "list"),
        ("policies", "list"),
        ("usage",),
        ("audit", "verify"),
        ("audit", "export"),
    ],
)
def test_commands_make_no_store_where_there_is_none(
    line: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    code, out, err = run(*line)
    assert (code, out) == (1, "")
    assert "there is no store at" in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("given", ["ADMIN_KEY", "ADMIN_KEY_FILE"])
def test_explain_takes_the_key_that_the_install_was_given(
    given: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "call.json").write_text("{}")
    line = ("keys", "explain", "key_1", "--request", str(tmp_path / "call.json"))
    code, _, err = run(*line)
    assert code == 1
    assert "--admin-key-file" in err
    key = tmp_path / "key"
    key.write_text("op_live_0a1b_00112233445566778899aabbccddeeff\n")
    monkeypatch.setenv(
        f"ORCHESTRATOR_BOOTSTRAP__{given}",
        str(key) if given == "ADMIN_KEY_FILE" else key.read_text().strip(),
    )
    with HTTPServer(("127.0.0.1", 0), _EchoesTheKey) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("ORCHESTRATOR_SERVER__PORT", str(server.server_port))
        monkeypatch.setenv("ORCHESTRATOR_SERVER__HOST", "0.0.0.0")  # not bound
        code, out, err = run(*line, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"given": f"Bearer {key.read_text().strip()}"}


class _EchoesTheKey(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.dumps({"given": self.headers["authorization"]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
