"""Checks what the appliance connects to: store, Redis, policy, collector, Triton, and itself."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.contract.catalogue import CatalogueError, load_catalogue
from orchestrator.core.errors import GatewayError
from orchestrator.core.ids import new_id
from orchestrator.doctor.finding import Finding, failed, ok, warning
from orchestrator.doctor.ports import ready_status
from orchestrator.policy.opa import without_password
from orchestrator.quota.redis_calls import REFUSALS, reason
from orchestrator.settings import Settings, SettingsError, TritonConnection
from orchestrator.store.database import Database, StoreError, checked_url
from orchestrator.supervisor.state import faults_file, read_state
from orchestrator.telemetry.otel_env import Signal, otlp_endpoint
from orchestrator.triton.client import TritonClient
from orchestrator.triton.endpoint import DEFAULT, connections, endpoint_of

_TIMEOUT_S = 5.0
_CLOCKS_APART_S = 5.0
_WITHOUT_REDIS = "callers with limits get 503"
_WRITE_TRIAL = """
redis.call('HSET', KEYS[1], 'used', 1)
redis.call('PEXPIRE', KEYS[1], 1000)
return redis.call('DEL', KEYS[1])
"""
_SIGNALS: tuple[Signal, ...] = ("traces", "metrics")


async def store(settings: Settings) -> list[Finding]:
    """Checks the database: it exists, is ours, and has the schema of this program."""
    try:
        url = checked_url(settings)
        if url.drivername.startswith("sqlite") and not await _is_there(url.database or ""):
            # Opening it would create it.
            return [ok("database", f"{url.database} is not there yet; the first start makes it")]
        database = Database(settings)
    except (SettingsError, StoreError) as error:
        return [failed("database", str(error), "correct ORCHESTRATOR_STORE__URL")]
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await database.check_schema()
            await database.check_writable()
    except StoreError as error:
        advice = "start it, name the server that takes writes, or run `orchestrator migrate`"
        return [failed("database", str(error), advice)]
    except TimeoutError:
        return [failed("database", f"{database.name} gives no answer", "look at its own log")]
    finally:
        await database.close()
    return [ok("database", database.name)]


async def redis(settings: Settings) -> list[Finding]:
    """Checks Redis, if several workers or machines count limits together."""
    if settings.redis.url is None:
        return [ok("redis", "not used: one process counts by itself")]
    url = settings.redis.url.get_secret_value()
    where = urlsplit(url).hostname or urlsplit(url).path
    try:
        client: Redis = Redis.from_url(
            url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        )
    except ValueError as error:
        return [failed("redis", str(error), "correct ORCHESTRATOR_REDIS__URL")]
    try:
        seconds, microseconds = await client.time()
        apart_s = abs(time.time() - seconds - microseconds / 1e6)
        await _write_trial(client, settings.redis.prefix)
    except REFUSALS as error:
        advice = "give the user of ORCHESTRATOR_REDIS__URL its password and the right to write"
        return [failed("redis", f"{where}: {reason(error)}", f"{advice}; {_WITHOUT_REDIS}")]
    except (RedisError, OSError) as error:
        advice = f"start it, or correct ORCHESTRATOR_REDIS__URL; {_WITHOUT_REDIS}"
        return [failed("redis", f"{where} does not answer: {reason(error)}", advice)]
    finally:
        await client.aclose()
    if apart_s > _CLOCKS_APART_S:
        text = f"{where} answers; its clock is {apart_s:.0f} s away from ours"
        return [warning("redis", text, "set both clocks by NTP: minutes and days begin by them")]
    return [ok("redis", f"{where} answers")]


async def _write_trial(client: Redis, prefix: str) -> None:
    """Writes what counting writes, by a script, and removes it. Raises: RedisError, OSError."""
    name = f"{prefix}:doctor:{new_id('trial')}"
    await client.eval(_WRITE_TRIAL, 1, name)  # type: ignore[misc]  # of one type for both clients


async def policy(settings: Settings) -> list[Finding]:
    """Asks the policy evaluator one question."""
    engine = settings.policy.engine
    who = (
        "embedded Rego"
        if engine == "embedded"
        else f"OPA at {without_password(settings.policy.opa_url)}"
    )
    try:
        # Imported here: it loads a system library, whose absence is a finding of its own.
        from orchestrator.policy.start import open_question

        await open_question(settings)
    except SettingsError as error:
        return [failed("policy", str(error), "install that library")]
    except GatewayError:
        advice = "start that server with orchestrator/policy/rego loaded"
        if engine == "embedded":
            advice = "install the packages again: `make run`"
        return [failed("policy", f"{who} gives no decision", advice)]
    return [ok("policy", f"{who} decides")]


async def collector(_: Settings) -> list[Finding]:
    """Checks the receivers of traces and metrics; none unless `OTEL_*` variables name one."""
    findings = []
    for signal in _SIGNALS:
        try:
            endpoint = otlp_endpoint(signal)
        except SettingsError as error:
            findings.append(failed("collector", str(error), "correct that variable"))
            continue
        if endpoint is not None:
            findings.append(await _reachable(signal, endpoint))
    return findings or [ok("collector", "none is named, nothing is sent")]


async def remote_triton(settings: Settings) -> list[Finding]:
    """Checks every Triton that is not our child; the child answers only with its own token."""
    try:
        catalogue = load_catalogue(settings.catalogue)
    except CatalogueError:
        # The finding about the catalogue says it.
        return []
    try:
        known = connections(catalogue, settings)
    except CatalogueError as error:
        return [failed("triton", str(error), "correct the catalogue or triton.endpoints")]
    if settings.triton.mode == "child":
        known.pop(DEFAULT, None)
    return list(await asyncio.gather(*(_triton(name, one) for name, one in known.items())))


async def _triton(name: str, connection: TritonConnection) -> Finding:
    what = "triton" if name == DEFAULT else f"triton {name}"
    setting = "triton" if name == DEFAULT else f"triton.endpoints.{name}"
    client = TritonClient(endpoint_of(connection))
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            version = await client.server_version()
    except (GatewayError, TimeoutError):
        text = f"nothing answers at {connection.url}"
        return failed(what, text, f"start it, or correct {setting}.url, its TLS and its token")
    finally:
        await client.close()
    return ok(what, f"{version} at {connection.url}")


async def appliance(settings: Settings) -> list[Finding]:
    """Checks the running appliance: its supervised Triton, and why models are not served."""
    status = await asyncio.to_thread(ready_status, settings) if settings.server.port else None
    if status is None:
        return [ok("appliance", "not running, or elsewhere: only what is at rest was looked at")]
    findings = [ok("appliance", "requests succeed")]
    if status == "degraded":
        text = "it answers, but something of it is away"
        findings = [warning("appliance", text, "GET /health/ready with an admin's key says what")]
    elif status != "ok":
        text = "requests do not succeed"
        findings = [failed("appliance", text, "GET /health/ready with an admin's key says why")]
    return findings + _supervised(settings) + _faults(settings)


def _supervised(settings: Settings) -> list[Finding]:
    state = read_state(settings.data_dir)
    if state is None or settings.triton.mode == "remote":
        return []
    text = f"{state.phase}, started again {state.restarts} times"
    if state.phase != "ready":
        reason = state.reason or "no reason told"
        return [failed("triton child", f"{text}: {reason}", "the appliance's log says more")]
    if state.restarts:
        return [warning("triton child", text, "the appliance's log says why")]
    return [ok("triton child", text)]


def _faults(settings: Settings) -> list[Finding]:
    try:
        faults = json.loads(faults_file(settings.data_dir).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [
        failed(f"served {model}", str(fault), "build the model again, or roll it back")
        for model, fault in faults.items()
    ]


async def _is_there(path: str) -> bool:
    return await asyncio.to_thread(Path(path).exists)


async def _reachable(signal: str, endpoint: str) -> Finding:
    parts = urlsplit(endpoint)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        advice = (
            "start the collector, or take the OTEL_ variables away; requests do not wait for it"
        )
        return warning("collector", f"{signal}: nothing listens at {host}:{port}", advice)
    writer.close()
    return ok("collector", f"{signal} to {host}:{port}")
