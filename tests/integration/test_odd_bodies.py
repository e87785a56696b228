"""No body makes an error of ours: odd values in every member of every call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.integration.serving import Serving

DEEP = 1_100
ODD: dict[str, bytes] = {
    "deep array": b"[" * DEEP + b"]" * DEEP,
    "deep object": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "array of some depth": b"[" * 300 + b"]" * 300,
    "object of some depth": b'{"type":"object","a":' + b'{"a":' * 300 + b"1" + b"}" * 301,
    "no UTF-8": b'"\xff\xfe"',
    "half of a pair": b'"\\ud800"',
    "nul": b'"\\u0000"',
    "number without end": b"1" + b"0" * 5_000,
    "number beyond 64 bits": b"100000000000000000000",
    "infinite": b"1e999",
    "true": b"true",
    "null": b"null",
    "text": b'"x"',
    "array": b"[1,null,{}]",
    "object": b'{"type":"x","id":[],"":{}}',
}
RENDERED = ("array of some depth", "object of some depth", "half of a pair", "nul")
"""What may be taken, and is sent to a model; all others name a model that is not there."""
FAULTS = ("no UTF-8", "deep array")
"""What stands beside a member of a wrong type."""


def calls(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], list[str]]]:
    """Method, path, example and members of every call with a body."""
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None or path.startswith("/api/"):
                continue
            schema = content["schema"]
            if "$ref" in schema:
                schema = schemas[schema["$ref"].rpartition("/")[2]]
            yield method.upper(), path, content.get("example") or {}, list(schema["properties"])


def bodies(example: dict[str, Any], members: list[str]) -> Iterator[tuple[str, bytes]]:
    """The example with each odd value in each member, and two odd ones at once."""
    for member in members:
        rest = {name: value for name, value in example.items() if name != member}
        head = json.dumps(rest)[:-1] + (", " if rest else "")
        for name, odd in ODD.items():
            given = head.replace("no/such", "scripted/scripted") if name in RENDERED else head
            yield f"{member}: {name}", f'{given}"{member}": '.encode() + odd + b"}"
        for name in FAULTS:
            wrong = f'{head}"{member}": {{"a": []}}, "zz": '.encode()
            yield f"{member}: wrong beside {name}", wrong + ODD[name] + b"}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_body_makes_an_error_of_ours(scripted_appliance: Serving) -> None:
    headers = {
        "authorization": f"Bearer {scripted_appliance.key}",
        "content-type": "application/json",
    }
    failed = []
    count = 0
    with httpx2.Client(base_url=scripted_appliance.url, headers=headers, timeout=120) as client:
        for method, path, example, members in calls(client.get("/openapi.json").json()):
            asked = example
            if "model" in example:
                asked = {**example, "model": "no/such"}
            address = path.replace("{model}", "no/such")
            address = address.replace("{response_id}", "resp_1").replace("{id}", "none")
            for name, body in bodies(asked, members):
                count += 1
                reply = client.request(method, address, content=body)
                if reply.status_code >= 500 and reply.status_code != 503:
                    failed.append((method, path, name, reply.status_code))
    assert count > 1_000
    assert failed == []
