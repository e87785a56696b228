"""`orchestrator keys explain`: what a call would meet, asked of the running server.

Only the server knows what is loaded and what of each budget is used up, so this command speaks to
it with an admin-scoped key.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from orchestrator.cli.arguments import add_json
from orchestrator.cli.output import write_json
from orchestrator.cli.stores import fail

if TYPE_CHECKING:
    from orchestrator.settings import Settings

TIMEOUT_S = 30.0
_SHOWN = ("allow", "status", "error", "decision", "route", "route_reason", "limit", "tokens")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("id", metavar="ID", help="as `keys list` shows it")
    parser.add_argument(
        "--request", required=True, metavar="FILE", help="the body of the call; - reads it here"
    )
    parser.add_argument("--client-ip", metavar="ADDRESS", help="as if the call came from there")
    parser.add_argument("--url", help="of the server; default: this machine, the port set")
    parser.add_argument(
        "--admin-key-file", type=Path, metavar="FILE", help="default: first-key in the data folder"
    )
    add_json(parser)


def explain(settings: Settings, parsed: argparse.Namespace) -> int:
    """Prints the explanation. 1 when the server cannot be asked or refuses to tell."""
    key_file = parsed.admin_key_file or settings.data_dir / "first-key"
    url = parsed.url or f"http://{settings.server.host}:{settings.server.port}"
    try:
        secret = key_file.read_text(encoding="utf-8").strip()
        text = (
            sys.stdin.read() if parsed.request == "-" else Path(parsed.request).read_text("utf-8")
        )
        body: dict[str, Any] = {"request": json.loads(text)}
    except OSError as error:
        return fail(f"cannot read {error.filename}: {error.strerror}")
    except ValueError as error:
        return fail(f"{parsed.request} is not JSON: {error}")
    if parsed.client_ip is not None:
        body["client_ip"] = parsed.client_ip
    try:
        status, answer = _post(url, f"/v1/keys/{quote(parsed.id, safe='')}/explain", secret, body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return fail(f"the server at {url} cannot be asked: {error}")
    if status != http.client.OK:
        return fail(f"the server answered {status}: {answer.get('detail', 'no reason given')}")
    if parsed.json:
        write_json(answer)
    else:
        _write_lines(answer)
    return 0


def _post(url: str, path: str, secret: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Raises: OSError, HTTPException, ValueError."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=TIMEOUT_S)
    try:
        headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
        connection.request("POST", parts.path.rstrip("/") + path, json.dumps(body), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
    finally:
        connection.close()
    return response.status, answer if isinstance(answer, dict) else {}


def _write_lines(answer: dict[str, Any]) -> None:
    """One line for each thing that is told."""
    for name in _SHOWN:
        if (value := answer.get(name)) is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            sys.stdout.write(f"{name:<16}{text}\n")
