"""Guided requests that fail inside the real engine: neither log nor errors hold what they sent."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.integration.serving import Serving

#: Compiles, and is given up on the way: each letter may be the last but 400.
TOO_COMPLEX = "[a-z]*[b-z].{400}"
#: Refused when it is compiled.
LOOK_AHEAD = "(?=Kaufvertrag)x"


def ask(appliance: Serving, pattern: str) -> httpx2.Response:
    """A chat whose answer must follow `pattern`, in a member with a name of the caller's own."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"Kaufvertrag": {"type": "string", "pattern": pattern}},
        "required": ["Kaufvertrag"],
        "additionalProperties": False,
    }
    body = {
        "model": "demo/chat",
        "messages": [{"role": "user", "content": "Vertraulich: Frau Muellerin zahlt nicht."}],
        "max_tokens": 400,
        # Any letters do, as long as they are many.
        "temperature": 2,
        "seed": 1,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "Mietvertrag", "schema": schema, "strict": True},
        },
    }
    headers = {"authorization": f"Bearer {appliance.key}"}
    url = f"{appliance.url}/v1/chat/completions"
    return httpx2.post(url, json=body, headers=headers, timeout=120)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("pattern", "statuses", "logged"),
    [
        # A refusal where nothing was sent yet, a failure behind the first token.
        (TOO_COMPLEX, [400, *range(500, 600)], "a request failed while sampling"),
        (LOOK_AHEAD, [400], ""),
    ],
    ids=["on the way", "at once"],
)
def test_a_guide_that_fails_is_quoted_nowhere(
    appliance: Serving, pattern: str, statuses: Any, logged: str
) -> None:
    before = len(appliance.log)
    reply = ask(appliance, pattern)
    assert reply.status_code in statuses, reply.text
    told = appliance.log[before:]
    assert logged in told
    for secret in ("Kaufvertrag", "Mietvertrag", "Muellerin", "a-z", "?="):
        assert secret not in told
        # What is refused before the engine sees it is named to its caller by its path.
        assert secret not in reply.text or reply.status_code == 400
