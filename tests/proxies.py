"""The proxies of `docker/proxy`, by the files that are shipped, in front of an appliance."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.settings import PROJECT_ROOT
from tests.programs import program

NAMES = ("nginx", "caddy", "haproxy")
_SHIPPED = PROJECT_ROOT / "docker" / "proxy"
_START_TIMEOUT_S = 100.0
_NGINX = """
daemon off;
pid {folder}/pid;
error_log {folder}/log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {server}
}}
"""


@contextmanager
def running_proxy(name: str, folder: Path, upstream: int) -> Iterator[int]:
    """The port of a proxy before the port `upstream` of the loopback. It speaks no TLS.

    Skips the test where there is no such proxy.
    """
    binary = program(name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    arguments = _ARGUMENTS[name](folder, port, upstream)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [binary, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
        )
    try:
        _wait(port, process, folder)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while True:
        assert process.poll() is None, (folder / "output").read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < give_up_at, (folder / "output").read_text()
            time.sleep(0.05)
        else:
            return


def _nginx(folder: Path, port: int, upstream: int) -> list[str]:
    server = _shipped("nginx.conf", upstream, r"listen 443 ssl;", f"listen 127.0.0.1:{port};")
    server = re.sub(r" *ssl_certificate.*\n", "", server)
    (folder / "conf").write_text(_NGINX.format(folder=folder, server=server))
    return ["-p", str(folder), "-c", str(folder / "conf"), "-e", str(folder / "log")]


def _caddy(folder: Path, port: int, upstream: int) -> list[str]:
    own = "{\n\tadmin off\n\tauto_https off\n}\n"
    site = f"http://:{port} {{\n\tbind 127.0.0.1\n"
    text = _shipped("Caddyfile", upstream, r"api\.example\.com \{\n", site)
    (folder / "conf").write_text(own + text)
    return ["run", "--adapter", "caddyfile", "--config", str(folder / "conf")]


def _haproxy(folder: Path, port: int, upstream: int) -> list[str]:
    text = _shipped("haproxy.cfg", upstream, r"bind :443 ssl .*\n", f"bind 127.0.0.1:{port}\n")
    (folder / "conf").write_text(text)
    return ["-db", "-f", str(folder / "conf")]


def _shipped(name: str, upstream: int, listens: str, here: str) -> str:
    """The shipped file, but for where it listens and where the appliance is."""
    text = (_SHIPPED / name).read_text()
    text, changed = re.subn(r"127\.0\.0\.1:8000", f"127.0.0.1:{upstream}", text)
    assert changed == 1
    text, changed = re.subn(listens, here, text)
    assert changed == 1
    return text


_ARGUMENTS = {"nginx": _nginx, "caddy": _caddy, "haproxy": _haproxy}
