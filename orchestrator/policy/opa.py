"""Evaluates policies on an OPA server over HTTP, which has the same .rego files loaded.

`gateway.rego` is in `orchestrator/policy/rego`. An operator's `package gateway.custom` is loaded
into that server next to it, and then applies to every policy. `input.tenant.id` and
`input.policy.id` distinguish them.
Source: Open Policy Agent documentation, REST API, data API.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from orchestrator.core.turns import NoTurnError, Turns
from orchestrator.policy import Decision, PolicyInput
from orchestrator.policy.question import PolicyVersion, question
from orchestrator.policy.verdict import read_verdict, unavailable
from orchestrator.rego import NoAnswerError

logger = logging.getLogger(__name__)

_MAX_ANSWER_BYTES = 65_536
_MAX_ASKED = 64
_MAX_OF_A_TENANT = 16
_MAX_WAITING = 1024
"""Max questions: in flight, of one tenant in flight, and of one tenant waiting."""


class OpaHttp:
    """Asks the server for every decision, because its rules may have changed."""

    def __init__(self, url: str, *, timeout_s: float, token: str | None = None) -> None:
        self._url = url.rstrip("/") + "/v1/data/gateway/authz"
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._timeout_s = timeout_s
        # Slow rules of one tenant leave room for the questions of others.
        self._turns = Turns(_MAX_ASKED, per_owner=_MAX_OF_A_TENANT, most_waiting=_MAX_WAITING)
        self._session: aiohttp.ClientSession | None = None

    async def decide(self, version: PolicyVersion, asked: PolicyInput) -> Decision:
        """Returns the decision of `version`. Raises: PolicyUnavailable."""
        try:
            if version.module is not None:
                raise NoAnswerError("it has a module of its own, which belongs on the OPA server")
            document = question(version, asked, clock=True).document()
            async with (
                asyncio.timeout(self._timeout_s),
                self._turns.turn(asked.tenant_id, self._timeout_s),
            ):
                answer = await self._answer(document)
            return read_verdict(answer, version)
        except (
            NoAnswerError,
            NoTurnError,
            aiohttp.ClientError,
            TimeoutError,
            ValueError,
            OSError,
        ) as error:
            logger.error(
                "policy %s version %d cannot be evaluated by %s: %s",
                *(version.policy_id, version.version, without_password(self._url)),
                str(error) or type(error).__name__,
            )
            raise unavailable() from error

    def is_constant(self, version: PolicyVersion) -> bool:
        """Returns false: rules and data of the server may change."""
        del version
        return False

    def problems(self) -> Sequence[str]:
        """Returns nothing: the server's rules are the same for all policies."""
        return ()

    def forget(self, tenant_id: str, policy_id: str) -> None:
        """Does nothing: there is no cache."""

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()
            # Connections close one loop iteration later. Source: aiohttp, graceful shutdown.
            await asyncio.sleep(0)

    async def _answer(self, document: dict[str, Any]) -> Any:
        """Gets Rego's `decision`. Raises: NoAnswerError, ClientError, TimeoutError, ValueError."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_MAX_ASKED), headers=self._headers
            )
        body = json.dumps({"input": document}).encode()
        headers = {"content-type": "application/json"}
        async with self._session.post(
            self._url, data=body, headers=headers, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise NoAnswerError(f"status {response.status}")
            answer = await response.content.read(_MAX_ANSWER_BYTES + 1)
            while len(answer) <= _MAX_ANSWER_BYTES and not response.content.at_eof():
                answer += await response.content.read(_MAX_ANSWER_BYTES)
            if len(answer) > _MAX_ANSWER_BYTES:
                raise NoAnswerError("the answer is too long")
        result = json.loads(answer)
        if not isinstance(result, dict) or not isinstance(result.get("result"), dict):
            raise NoAnswerError("the answer has no result")
        return result["result"].get("decision")


def without_password(url: str) -> str:
    """Returns `url` for messages: without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
