"""Policies by an OPA server over HTTP, which has the same .rego files loaded.

`gateway.rego` lies in `orchestrator/policy/rego`; an operator's `package gateway.custom` is loaded
into that server beside it, and is then there for every policy. `input.tenant.id` and
`input.policy.id` tell them apart.
Source: Open Policy Agent documentation, REST API, data API.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from orchestrator.policy import Decision, PolicyInput
from orchestrator.policy.inputs import PolicyVersion, question
from orchestrator.policy.verdict import BadVerdictError, read_verdict, unavailable

logger = logging.getLogger(__name__)

_MOST_ANSWER_BYTES = 65_536


class OpaHttp:
    """Asks the server for every decision: it may have been given other rules meanwhile."""

    def __init__(self, url: str, *, timeout_s: float, token: str | None = None) -> None:
        self._url = url.rstrip("/") + "/v1/data/gateway/authz"
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def decide(self, version: PolicyVersion, asked: PolicyInput) -> Decision:
        """The decision of `version`. Raises: PolicyUnavailable."""
        try:
            if version.module is not None:
                raise BadVerdictError("it has a module of its own, which belongs on the OPA server")
            document = question(version, asked, clock=True).document()
            return read_verdict(await self._answer(document), version)
        except (BadVerdictError, aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            logger.error(
                "policy %s version %d cannot be evaluated by %s: %s",
                *(version.policy_id, version.version, without_password(self._url)),
                str(error) or type(error).__name__,
            )
            raise unavailable() from error

    def is_constant(self, version: PolicyVersion) -> bool:
        """Never: rules and data of the server may change."""
        del version
        return False

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()
            # Connections are gone one turn of the loop later. Source: aiohttp, graceful shutdown.
            await asyncio.sleep(0)

    async def _answer(self, document: dict[str, Any]) -> Any:
        """Rego's `decision`. Raises: BadVerdictError, ClientError, TimeoutError, ValueError."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, headers=self._headers)
        body = json.dumps({"input": document}).encode()
        headers = {"content-type": "application/json"}
        async with self._session.post(
            self._url, data=body, headers=headers, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise BadVerdictError(f"status {response.status}")
            answer = await response.content.read(_MOST_ANSWER_BYTES + 1)
            while len(answer) <= _MOST_ANSWER_BYTES and not response.content.at_eof():
                answer += await response.content.read(_MOST_ANSWER_BYTES)
            if len(answer) > _MOST_ANSWER_BYTES:
                raise BadVerdictError("the answer is too long")
        result = json.loads(answer)
        if not isinstance(result, dict) or not isinstance(result.get("result"), dict):
            raise BadVerdictError("the answer has no result")
        return result["result"].get("decision")


def without_password(url: str) -> str:
    """`url` as it may be told: without the user and the password that it may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
