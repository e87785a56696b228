"""Keys with limits, and callers that use them, for the tests of quotas over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx2
import requests

from tests.integration.serving import Serving

MODEL = "scripted/scripted"


def new_key(serving: Serving, **limits: object) -> tuple[str, str]:
    """Secret and id of a new key with `limits`."""
    body = {"label": "limited", "policy_id": "pol_default", **limits}
    reply = requests.post(
        f"{serving.base_url}/keys", json=body, headers=bearer(serving.key), timeout=60
    )
    assert reply.status_code == 201, reply.text
    return reply.json()["secret"], reply.json()["id"]


def bearer(key: str) -> dict[str, str]:
    """The header that carries `key`."""
    return {"Authorization": f"Bearer {key}"}


def chat(prompt: str, **more: object) -> dict[str, Any]:
    """The body of a chat call."""
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **more}


def post(serving: Serving, key: str, body: Mapping[str, object]) -> requests.Response:
    """One call, to its end."""
    url = f"{serving.base_url}/chat/completions"
    return requests.post(url, json=body, headers=bearer(key), timeout=60)


def client_of(serving: Serving, key: str) -> httpx2.AsyncClient:
    """A client without a bound of its own on connections."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx2.AsyncClient(
        base_url=serving.base_url, headers=bearer(key), limits=limits, timeout=60
    )


async def statuses(serving: Serving, key: str, clients: int) -> Counter[int]:
    """How many of `clients` that call at the same time got which status."""
    async with client_of(serving, key) as client:

        async def one() -> int:
            return (await client.post("/chat/completions", json=chat("hi"))).status_code

        return Counter(await asyncio.gather(*(one() for _ in range(clients))))


def wait_for_room_in_the_minute(seconds: float) -> None:
    """Returns when the present minute still has `seconds`, so that a test stays within one."""
    left = 60 - time.time() % 60
    if left < seconds:
        time.sleep(left + 0.1)
