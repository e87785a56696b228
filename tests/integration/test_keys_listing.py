"""The list of keys over HTTP, on both kinds of store: whole, in pages, and what is looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.keys import queries as key_queries
from orchestrator.keys.queries import NewKey
from orchestrator.keys.secret import load_pepper, new_key_secret
from orchestrator.store.database import Database
from tests.integration.managing import Box, box_settings, running_box


async def test_pages_hold_every_key_once(box: Box) -> None:
    acme = await box.manager("acme")
    made = [acme.key_id] + [(await acme.create(label=str(n)))["id"] for n in range(5)]
    seen: list[str] = []
    after = ""
    while True:
        page = (await acme.call("GET", f"/keys?limit=2{after}")).json()
        assert page["object"] == "list"
        seen += [key["id"] for key in page["data"]]
        if not page["has_more"]:
            break
        assert len(page["data"]) == 2
        after = f"&after={page['data'][-1]['id']}"
    # The newest first, and without a limit all of them.
    assert seen == sorted(made, reverse=True)
    whole = (await acme.call("GET", "/keys")).json()
    assert [key["id"] for key in whole["data"]] == seen
    assert whole["has_more"] is False


async def test_a_list_without_a_limit_is_whole(tmp_path: Path) -> None:
    async with running_box(box_settings(tmp_path)) as box:
        acme = await box.manager("acme")
        database, pepper = Database(box.settings), load_pepper(box.settings)
        async with database.unit_of_work() as session:
            for number in range(450):
                new = NewKey(label=f"key {number}", tenant_id=acme.tenant_id)
                await key_queries.create(session, new, new_key_secret(), pepper, 1)
        await database.close()
        whole = (await acme.call("GET", "/keys")).json()
    ids = [key["id"] for key in whole["data"]]
    assert len(set(ids)) == 451
    assert ids == sorted(ids, reverse=True)
    assert whole["has_more"] is False


async def test_keys_are_found_by_label_status_policy_and_last_use(box: Box) -> None:
    acme = await box.manager("acme")
    past, future = 1_000_000_000, 4_000_000_000
    plain = await acme.create(label="CI 100%_done")
    revoked = await acme.create(label="old ci")
    assert (await acme.call("DELETE", f"/keys/{revoked['id']}")).status_code == 204
    await acme.create(label="other")
    document = {"name": "own", "document": {}}
    policy = (await acme.call("POST", "/policies", document)).json()["id"]
    ruled = await acme.create(label="ruled", policy_id=policy)
    assert (await box.status(ruled["secret"]))[0] == 200

    async def found(query: str) -> set[str]:
        reply = await acme.call("GET", f"/keys?{query}")
        assert reply.status_code == 200, reply.text
        return {key["id"] for key in reply.json()["data"]}

    assert await found("label=ci") == {plain["id"], revoked["id"]}
    assert await found("label=100%25_D") == {plain["id"]}
    assert await found("label=100__") == set()
    assert await found("status=revoked") == {revoked["id"]}
    assert await found("status=active&label=ci") == {plain["id"]}
    assert await found("status=expired") == set()
    assert await found(f"policy_id={policy}") == {ruled["id"]}
    # The admin key itself is in use as well.
    used = {ruled["id"], acme.key_id}
    assert await found(f"last_used_after={past}") == used
    assert await found(f"last_used_before={past}") & used == set()
    assert plain["id"] in await found(f"last_used_before={past}")
    assert await found(f"last_used_before={future}") >= used
    # A rotation does not make a key unused.
    await acme.call("POST", f"/keys/{ruled['id']}/rotate", {"overlap_s": 60})
    assert ruled["id"] in await found(f"last_used_after={past}")


async def test_a_parameter_that_means_nothing_is_400(tmp_path: Path) -> None:
    async with running_box(box_settings(tmp_path)) as box:
        acme = await box.manager("acme")
        for method, path in (
            ("GET", "/keys?lable=ci"),
            ("GET", "/keys?status=gone"),
            ("GET", "/keys?last_used_after=soon"),
            ("POST", "/keys?label=ci"),
            ("GET", "/keys/key_1?limit=1"),
            ("PATCH", "/keys/key_1?limit=1"),
            ("DELETE", "/keys/key_1?force=true"),
            ("POST", "/keys/key_1/rotate?overlap_s=5"),
            ("POST", "/keys/key_1/explain?at=5"),
            ("GET", "/policies?limit=1"),
            ("GET", "/policies/pol_default?versoin=1"),
            ("GET", "/policies/pol_default/decisions?since=1"),
            ("DELETE", "/policies/pol_default?force=true"),
            ("GET", "/usage?by=day"),
            ("GET", "/audit?after=1"),
            ("GET", "/metrics?worker=1"),
            ("GET", "/metrics/triton?worker=1"),
        ):
            prefix = "" if path.startswith("/metrics") else "/v1"
            body: Any = {} if method in {"POST", "PATCH"} else None
            reply = await acme.call(method, path, body, prefix=prefix)
            assert reply.status_code == 400, f"{method} {path}: {reply.text}"
            given = path.partition("?")[2].partition("=")[0]
            assert f"`{given}`" in reply.text


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=-1", "after=key_no"])
async def test_wrong_page_is_400(box: Box, query: str) -> None:
    reply = await (await box.manager("acme")).call("GET", f"/keys?{query}")
    assert reply.status_code == 400
    assert reply.json()["param"] == query.partition("=")[0]
