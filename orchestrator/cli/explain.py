"""`orchestrator keys explain`: asks the running server what would happen to a call.

Only the server knows which models are loaded and how much of each budget is used, so this command
calls it with an admin-scoped key.
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
from orchestrator.core.hosts import loopback_of

if TYPE_CHECKING:
    from orchestrator.settings import Settings

TIMEOUT_S = 30.0
_SHOWN = ("allow", "status", "error", "decision", "route", "route_reason", "limit", "tokens")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("id", metavar="ID", help="as `keys list` shows it")
    parser.add_argument(
        "--request", required=True, metavar="FILE", help="the body of the call; - reads it here"
    )
    parser.add_argument("--client-ip", metavar="ADDRESS", help="as if the call came from there")
    parser.add_argument("--url", help="of the server; default: this machine, the port set")
    parser.add_argument(
        "--admin-key-file",
        type=Path,
        metavar="FILE",
        help="default: first-key in the data folder, or the key of `bootstrap`",
    )
    add_json(parser)


def explain(settings: Settings, parsed: argparse.Namespace) -> int:
    """Prints the explanation. Returns 1 when the server is unreachable or refuses."""
    url = parsed.url or _own_url(settings)
    try:
        secret = _admin_key(settings, parsed.admin_key_file)
        text = (
            sys.stdin.read() if parsed.request == "-" else Path(parsed.request).read_text("utf-8")
        )
        body: dict[str, Any] = {"request": json.loads(text)}
    except _NoKeyError:
        return fail(
            f"there is no {settings.data_dir / 'first-key'} and no key of `bootstrap`: name a file"
            " with an admin-scoped key by --admin-key-file"
        )
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


class _NoKeyError(Exception):
    """No admin-scoped key was found."""


def _admin_key(settings: Settings, file: Path | None) -> str:
    """Returns the key in `file`, or the first key of the install. Raises: OSError, _NoKeyError.

    An install whose first key was given in the settings has no file `first-key`.
    """
    bootstrap = settings.bootstrap
    first = settings.data_dir / "first-key"
    if file is None and not first.exists():
        if bootstrap.admin_key is not None:
            return bootstrap.admin_key.get_secret_value().strip()
        if bootstrap.admin_key_file is None:
            raise _NoKeyError
        first = bootstrap.admin_key_file
    return (file or first).read_text(encoding="utf-8").strip()


def _own_url(settings: Settings) -> str:
    """Returns the URL of this machine's server, from the settings."""
    host = loopback_of(settings.server.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.server.port}"


def _post(url: str, path: str, secret: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Sends a JSON request. Raises: OSError, HTTPException, ValueError."""
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
    """Writes one line for each member of the answer."""
    for name in _SHOWN:
        if (value := answer.get(name)) is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            sys.stdout.write(f"{name:<16}{text}\n")
