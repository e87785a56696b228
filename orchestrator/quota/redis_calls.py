"""Runs scripts in Redis; concurrent calls share one round trip.

Otherwise a burst of requests would open one connection each, and wait for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from limits.aio.storage import RedisStorage
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

_log = logging.getLogger(__name__)

_MAX_AT_ONCE = 200
_MAX_CONNECTIONS = 4
_MAX_SHOWN = 200
"""Max characters of the server's message."""

REFUSALS = (ResponseError, AuthenticationError, BusyLoadingError)
"""Errors that the server itself returns."""


class RedisDownError(Exception):
    """Redis did not answer in time, or with an error."""


@dataclass(frozen=True, slots=True)
class _Call:
    script: AsyncScript
    keys: Sequence[str]
    arguments: Sequence[str | int]
    answer: asyncio.Future[Any]


class RedisCalls:
    """The connection, from the `limits` library. A call waits for at most `timeout_s`."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """Opens no connection yet."""
        self._timeout_s = timeout_s
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=timeout_s,
            # Our timeout ends first; this one is for connections that no caller waits for.
            socket_timeout=2 * timeout_s,
            socket_connect_timeout=timeout_s,
            # A retry would double the wait; the caller decides whether to try again.
            retry=Retry(NoBackoff(), 0),
        )
        storage = RedisStorage(
            f"async+{url.replace('unix://', 'redis+unix://', 1)}",
            implementation="redispy",
            connection_pool=cast("Any", self._pool),
        )
        self._connection: Any = cast("Any", storage.bridge).get_connection()
        self._waiting: list[_Call] = []
        self._sender: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._sender is not None:
            await self._sender
        await self._connection.aclose()
        await self._pool.aclose()

    def script(self, text: str) -> AsyncScript:
        """Registers a script to run here."""
        script: AsyncScript = self._connection.register_script(text)
        return script

    async def run(
        self, script: AsyncScript, keys: Sequence[str], arguments: Sequence[str | int]
    ) -> Any:
        """Runs a script and returns its answer. Raises: RedisDownError."""
        call = _Call(script, keys, arguments, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_waiting())
        return await call.answer

    async def _send_waiting(self) -> None:
        while self._waiting:
            calls = self._waiting[:_MAX_AT_ONCE]
            del self._waiting[:_MAX_AT_ONCE]
            try:
                answers = await self._in_time(calls)
            except Exception as error:
                if not isinstance(error, (RedisError, OSError, TimeoutError)):
                    _log.exception("a step in Redis failed")
                # The waiting calls would fail too, each after its own timeout.
                for call in [*calls, *self._waiting]:
                    _give(call, RedisDownError(reason(error)))
                self._waiting.clear()
                continue
            for call, answer in zip(calls, answers, strict=True):
                _give(call, answer)

    async def _in_time(self, calls: Sequence[_Call]) -> Sequence[Any]:
        sending = asyncio.create_task(self._send(calls))
        done, _ = await asyncio.wait({sending}, timeout=self._timeout_s)
        if not done:
            # If this process was too busy to read it, the answer is there already.
            for _ in range(3):
                await asyncio.sleep(0)
        if not sending.done():
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, RedisError, OSError):
                await sending
            raise TimeoutError
        return sending.result()

    async def _send(self, calls: Sequence[_Call]) -> Sequence[Any]:
        async with self._connection.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.evalsha(call.script.sha, len(call.keys), *call.keys, *call.arguments)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            # Redis was restarted and lost the script: nothing of it has run.
            for index, call in enumerate(calls):
                if isinstance(answers[index], NoScriptError):
                    answers[index] = await call.script(keys=call.keys, args=call.arguments)
        return answers


def _give(call: _Call, answer: Any) -> None:
    if call.answer.done():
        return
    if isinstance(answer, RedisError):
        answer = RedisDownError(reason(answer))
    if isinstance(answer, Exception):
        call.answer.set_exception(answer)
    else:
        call.answer.set_result(answer)


def reason(error: Exception) -> str:
    """Returns why Redis failed, in one line for the operator.

    It includes the server's own message. For a connection error it includes only the kind: the
    text may hold a part of the URL, and with it a password.
    """
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        return "no answer in time"
    if isinstance(error, REFUSALS):
        # A server without AUTH repeats the arguments, including the password.
        said = " ".join(str(error).partition(", with args")[0].split())
        return f"it refuses: {said[:_MAX_SHOWN].rstrip('.')}"
    return type(error).__name__
