"""Claims what only one running orchestrator may hold: its public port and its data folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

from orchestrator.settings import ServerSettings
from orchestrator.store.private_files import prepare_folder

_BACKLOG = 2048


class ClaimError(Exception):
    """Another process holds it; the message is one sentence for the operator."""


def listen(settings: ServerSettings) -> socket.socket:
    """Opens the public listening socket. Raises: ClaimError."""
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. The sweep over connections does not see bytes that the kernel has
        # taken already, so a client that vanished would hold its connection for 15 minutes.
        timeout_ms = int(settings.send_timeout_s * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, UnicodeError) as error:
        listener.close()
        raise ClaimError(_why_not(error, host, port)) from error
    return listener


def lock_data_folder(data_dir: Path) -> int:
    """Locks `data_dir` for this process, with a descriptor that is not inherited.

    Raises: ClaimError when another process has it, SettingsError when it cannot be written.
    """
    prepare_folder(data_dir, "data_dir")
    path = data_dir / "serve.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ClaimError(f"`{path}` cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        who = f"process {holder}" if holder else "another process"
        raise ClaimError(
            f"{who} already serves from the data folder `{data_dir}`: stop it, or set"
            " ORCHESTRATOR_DATA_DIR to another folder"
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _why_not(error: OSError | UnicodeError, host: str, port: int) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is taken by another program: stop that one, or set"
            " ORCHESTRATOR_SERVER__PORT to another port"
        )
    if code in (errno.EACCES, errno.EPERM):
        return f"this user may not listen on port {port}: take one above 1023"
    if code == errno.EADDRNOTAVAIL or isinstance(error, (socket.gaierror, UnicodeError)):
        return f"`server.host` is `{host}`, which is no address of this machine"
    return f"cannot listen on {host}, port {port}: {error}"
