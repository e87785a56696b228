"""Checks the ports that the appliance listens on: free, its own, or another program's."""

from __future__ import annotations

import errno
import http.client
import json
import socket

from orchestrator.core.hosts import loopback_of
from orchestrator.doctor.finding import Finding, failed, ok
from orchestrator.settings import ENV_PREFIX, Settings

_TIMEOUT_S = 3.0


def ports(settings: Settings) -> list[Finding]:
    """Returns one finding for each port in the settings."""
    server, metrics = settings.server, settings.metrics
    findings = []
    if server.port:
        if (status := ready_status(settings)) is not None:
            findings.append(ok("port", f"{server.port}: the appliance answers ({status})"))
        else:
            findings.append(_free("port", server.host, server.port, "SERVER__PORT"))
    if metrics.port and not _listens(metrics.host, metrics.port):
        findings.append(_free("metrics port", metrics.host, metrics.port, "METRICS__PORT"))
    return findings


def ready_status(settings: Settings) -> str | None:
    """Returns the status that the running appliance reports; `None` if none answers."""
    host = loopback_of(settings.server.host)
    connection = http.client.HTTPConnection(host, settings.server.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/health/ready")
        reply = connection.getresponse()
        document = json.loads(reply.read(65536))
        return str(document["status"]) if reply.getheader("x-request-id") else None
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((loopback_of(host), port), _TIMEOUT_S):
            return True
    except OSError:
        return False


def _free(subject: str, host: str, port: int, setting: str) -> Finding:
    """Checks whether `port` can be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                text = f"{port} of {host} is taken by another program"
                advice = f"stop that one, or set {ENV_PREFIX}{setting}"
            elif error.errno in (errno.EACCES, errno.EPERM):
                text, advice = f"{port}: this user may not listen there", "take one above 1023"
            else:
                text = f"{port}: cannot listen on {host}: {error.strerror or error}"
                advice = f"set {ENV_PREFIX}{setting.replace('PORT', 'HOST')} to an address of ours"
            return failed(subject, text, advice)
    return ok(subject, f"{port} is free; the appliance is not running")
