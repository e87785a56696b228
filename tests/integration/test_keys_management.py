"""The management of keys over HTTP, on both kinds of store."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from orchestrator.audit import log as audit_log
from orchestrator.core.limits import Limits
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from tests.integration.managing import CACHE_S, Box, running_box


async def _acts(settings: Settings, target: str) -> list[str]:
    database = Database(settings)
    async with database.reading() as session:
        lines = await audit_log.listed(session)
    await database.close()
    return [line.action for line in reversed(lines) if line.target == target]


async def test_created_key_is_told_in_full_and_its_secret_once(box: Box) -> None:
    acme = await box.manager("acme")
    expires_at = int(time.time()) + 3600
    body = {
        "label": "quickstart",
        "policy_id": "pol_default",
        "allowed_models": ["demo/chat"],
        "rpm_limit": 7,
        "tpd_limit": 1000,
        "plan": "standard",
        "route_policy": "local-only",
        "expires_at": expires_at,
        "metadata": {"team": "search"},
    }
    reply = await acme.call("POST", "/keys", body)
    assert reply.status_code == 201
    key = reply.json()
    secret = key.pop("secret")
    now = time.time()
    assert abs(key.pop("created_at") - now) < 60
    assert key.pop("id").startswith("key_")
    assert key == {
        "object": "virtual_key",
        "label": "quickstart",
        "policy_id": "pol_default",
        "tenant_id": acme.tenant_id,
        "prefix": secret[:12],
        "last4": secret[-4:],
        "scope": "inference",
        "allowed_models": ["demo/chat"],
        "plan": "standard",
        "rpm_limit": 7,
        "images_rpm_limit": 20,
        "tpd_limit": 1000,
        "concurrency_limit": None,
        "deployment_id": None,
        "route_policy": "local-only",
        "metadata": {"team": "search"},
        "status": "active",
        "expires_at": expires_at,
        "revoked_at": None,
        "last_used_at": None,
        "previous_expires_at": None,
        "previous_last_used_at": None,
        "effective_limits": {
            "rpm_limit": 7,
            "images_rpm_limit": 20,
            "tpd_limit": 1000,
            "concurrency_limit": None,
        },
    }
    assert (await box.status(secret))[0] == 200
    for path in (f"/keys/{reply.json()['id']}", "/keys"):
        assert secret[13:] not in (await acme.call("GET", path)).text


async def test_key_without_numbers_and_plan_has_no_limit(box: Box) -> None:
    key = await (await box.manager("acme")).create()
    assert key["plan"] is None
    assert set(key["effective_limits"].values()) == {None}


@pytest.mark.parametrize(
    ("plan", "rpm", "images"),
    [("free", 10, 5), ("standard", 60, 20), ("pro", 300, 60), ("enterprise", None, None)],
)
async def test_plan_is_a_template(box: Box, plan: str, rpm: int | None, images: int | None) -> None:
    key = await (await box.manager("acme")).create(plan=plan)
    assert (key["rpm_limit"], key["images_rpm_limit"], key["tpd_limit"]) == (rpm, images, None)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"label": None}, "label"),
        ({"label": ""}, "label"),
        ({"label": "x" * 201}, "label"),
        ({"label": "a\nb"}, "label"),
        ({"label": "a\0b"}, "label"),
        ({"policy_id": None}, "policy_id"),
        ({"policy_id": "pol_nobody"}, "policy_id"),
        ({"policy_id": "\0"}, "policy_id"),
        ({"allowed_models": []}, "allowed_models"),
        ({"allowed_models": [""]}, "allowed_models"),
        ({"allowed_models": "demo/chat"}, "allowed_models"),
        ({"rpm_limit": 0}, "rpm_limit"),
        ({"rpm_limit": True}, "rpm_limit"),
        ({"rpm_limit": 10**30}, "rpm_limit"),
        ({"images_rpm_limit": -1}, "images_rpm_limit"),
        ({"tpd_limit": "many"}, "tpd_limit"),
        ({"concurrency_limit": 1.5}, "concurrency_limit"),
        ({"plan": "gold"}, "plan"),
        ({"deployment_id": "dep_1"}, "deployment_id"),
        ({"route_policy": "anywhere"}, "route_policy"),
        ({"expires_at": 1}, "expires_at"),
        ({"expires_at": 10**30}, "expires_at"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": "\0"}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"scope": "admin"}, "scope"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_wrong_member_is_400_and_named_whether_it_is_made_or_changed(
    box: Box, change: dict[str, Any], param: str
) -> None:
    acme = await box.manager("acme")
    body = {"label": "quickstart", "policy_id": "pol_default", **change}
    key_id = (await acme.create())["id"]
    for method, path, sent in (("POST", "/keys", body), ("PATCH", f"/keys/{key_id}", change)):
        reply = await acme.call(method, path, sent)
        assert reply.status_code == 400, reply.text
        flat = reply.json()
        assert flat["error"] == flat["code"] == "invalid_request"
        assert flat["param"].partition(".")[0].partition("[")[0] == param
        assert f"`{param}" in flat["detail"]


@pytest.mark.parametrize("missing", ["label", "policy_id"])
async def test_label_and_policy_are_required(box: Box, missing: str) -> None:
    acme = await box.manager("acme")
    body = {"label": "quickstart", "policy_id": "pol_default"}
    del body[missing]
    reply = await acme.call("POST", "/keys", body)
    assert (reply.status_code, reply.json()["param"]) == (400, missing)
    assert reply.json()["detail"] == f"`{missing}` is required."


async def test_every_unknown_member_is_named(box: Box) -> None:
    acme = await box.manager("acme")
    body = {"label": "x", "policy_id": "pol_default", "colour": 1, "size": 2}
    detail = (await acme.call("POST", "/keys", body)).json()["detail"]
    assert detail.startswith("There is no member `colour`, `size`; known are `allowed_models`")


async def test_key_may_not_have_more_than_its_tenant(box: Box) -> None:
    acme = await box.manager("acme")
    await box.limit_tenant(acme.tenant_id, Limits(rpm=50, tpd=1000))
    body = {"label": "x", "policy_id": "pol_default", "rpm_limit": 51}
    reply = await acme.call("POST", "/keys", body)
    assert (reply.status_code, reply.json()["param"]) == (400, "rpm_limit")
    assert "may be 50 at most" in reply.json()["detail"]
    key = await acme.create(rpm_limit=50, plan="pro")
    reply = await acme.call("PATCH", f"/keys/{key['id']}", {"tpd_limit": 1001})
    assert (reply.status_code, reply.json()["param"]) == (400, "tpd_limit")
    assert key["effective_limits"] == {
        "rpm_limit": 50,
        "images_rpm_limit": 60,
        "tpd_limit": 1000,
        "concurrency_limit": None,
    }


async def test_patch_changes_what_it_names_and_counts_at_once(box: Box) -> None:
    acme = await box.manager("acme")
    key = await acme.create(plan="free", metadata={"a": "b"}, rpm_limit=3)
    secret = key.pop("secret")
    headers = {"Authorization": f"Bearer {secret}"}
    assert len((await box.client.get("/v1/models", headers=headers)).json()["data"]) > 1
    reply = await acme.call(
        "PATCH", f"/keys/{key['id']}", {"allowed_models": ["demo/embed"], "rpm_limit": None}
    )
    assert reply.status_code == 200
    changed = reply.json()
    assert changed["rpm_limit"] == 10
    same = {"id", "label", "plan", "metadata", "prefix", "last4", "created_at"}
    assert {name: changed[name] for name in same} == {name: key[name] for name in same}
    names = {
        entry["id"]
        for entry in (await box.client.get("/v1/models", headers=headers)).json()["data"]
    }
    assert "demo/embed" in names
    assert "demo/chat" not in names
    for body in ({"metadata": None}, {"allowed_models": None}, {"plan": None}):
        assert (await acme.call("PATCH", f"/keys/{key['id']}", body)).status_code == 200
    last = (await acme.call("GET", f"/keys/{key['id']}")).json()
    assert (last["metadata"], last["allowed_models"], last["plan"]) == ({}, ["*"], None)
    assert last["last_used_at"] is not None


async def test_rotation_lets_both_secrets_work_until_its_overlap_ends(box: Box) -> None:
    acme = await box.manager("acme")
    key = await acme.create()
    old = key["secret"]
    assert (await box.status(old))[0] == 200
    path = f"/keys/{key['id']}"
    rotated = (await acme.call("POST", f"{path}/rotate", {"overlap_s": 2})).json()
    ends_at = rotated["previous_expires_at"]
    new = rotated["secret"]
    assert new != old
    assert (rotated["id"], rotated["last4"]) == (key["id"], new[-4:])
    assert (await box.status(new))[0] == 200
    await asyncio.sleep(CACHE_S)
    assert (await box.status(old))[0] == 200
    shown = (await acme.call("GET", path)).json()
    assert shown["last_used_at"] is not None
    assert shown["previous_last_used_at"] is not None
    assert "secret" not in shown
    await asyncio.sleep(max(0.0, ends_at - time.time()))
    assert await box.status(old) == (401, "key_revoked")
    assert (await box.status(new))[0] == 200
    assert await _acts(box.settings, key["id"]) == ["key.create", "key.rotate"]


async def test_rotation_without_overlap_ends_the_old_secret_at_once(box: Box) -> None:
    acme = await box.manager("acme")
    key = await acme.create()
    assert (await box.status(key["secret"]))[0] == 200
    rotated = (await acme.call("POST", f"/keys/{key['id']}/rotate")).json()
    assert await box.status(key["secret"]) == (401, "key_revoked")
    again = (await acme.call("POST", f"/keys/{key['id']}/rotate", {"overlap_s": 60})).json()
    assert await box.status(key["secret"]) == (401, "invalid_api_key")
    assert (await box.status(rotated["secret"]))[0] == 200
    assert (await box.status(again["secret"]))[0] == 200
    for overlap_s in (-1, 10**9):
        reply = await acme.call("POST", f"/keys/{key['id']}/rotate", {"overlap_s": overlap_s})
        assert (reply.status_code, reply.json()["param"]) == (400, "overlap_s")


async def test_revoked_key_is_refused_at_once_and_soon_everywhere(box: Box) -> None:
    async with running_box(box.settings) as other:
        acme = await box.manager("acme")
        key = await acme.create()
        for each in (box, other):
            assert (await each.status(key["secret"]))[0] == 200
        reply = await acme.call("DELETE", f"/keys/{key['id']}")
        assert (reply.status_code, reply.content) == (204, b"")
        assert await box.status(key["secret"]) == (401, "key_revoked")
        give_up_at = time.monotonic() + 60
        while (await other.status(key["secret"]))[0] == 200:
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.02)
        assert await other.status(key["secret"]) == (401, "key_revoked")
    assert (await acme.call("DELETE", f"/keys/{key['id']}")).status_code == 204
    shown = (await acme.call("GET", f"/keys/{key['id']}")).json()
    assert shown["status"] == "revoked"
    assert shown["revoked_at"] is not None
    for method, path in (("PATCH", ""), ("POST", "/rotate")):
        reply = await acme.call(method, f"/keys/{key['id']}{path}", {})
        assert reply.status_code == 400
        assert "revoked" in reply.json()["detail"]
    assert await _acts(box.settings, key["id"]) == ["key.create", "key.revoke"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/keys/{id}", None),
        ("PATCH", "/keys/{id}", {"label": "mine"}),
        ("POST", "/keys/{id}/rotate", {}),
        ("DELETE", "/keys/{id}", None),
    ],
)
async def test_key_of_another_tenant_does_not_exist(
    box: Box, method: str, path: str, body: Any
) -> None:
    acme, bolt = await box.manager("acme"), await box.manager("bolt")
    victim = await acme.create(label="victim")
    unknown = await bolt.call(method, path.format(id="key_" + "0" * 26), body)
    for given in (victim["id"], victim["id"].lower(), "%00", "..%2F" + victim["id"], "'--"):
        reply = await bolt.call(method, path.format(id=given), body)
        assert reply.status_code == unknown.status_code == 404
        if given == victim["id"]:
            told, expected = reply.json(), unknown.json()
            assert told.pop("request_id") != expected.pop("request_id")
            assert told == expected
    assert (await box.status(victim["secret"]))[0] == 200
    shown = (await acme.call("GET", f"/keys/{victim['id']}")).json()
    assert (shown["label"], shown["status"]) == ("victim", "active")
    assert await _acts(box.settings, victim["id"]) == ["key.create"]


async def test_list_shows_the_callers_tenant_only(box: Box) -> None:
    acme, bolt = await box.manager("acme"), await box.manager("bolt")
    victim = await acme.create(label="victim")
    page = (await bolt.call("GET", "/keys?limit=100")).json()
    assert [key["id"] for key in page["data"]] == [bolt.key_id]
    foreign = await bolt.call("GET", f"/keys?after={victim['id']}")
    unknown = await bolt.call("GET", "/keys?after=key_unknown")
    assert foreign.status_code == unknown.status_code == 400
    assert foreign.json()["detail"] == unknown.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/keys"),
        ("GET", "/keys"),
        ("GET", "/keys/{id}"),
        ("PATCH", "/keys/{id}"),
        ("POST", "/keys/{id}/rotate"),
        ("DELETE", "/keys/{id}"),
    ],
)
async def test_managing_keys_needs_an_admins_key(box: Box, method: str, path: str) -> None:
    acme, plain = await box.manager("acme"), await box.manager("acme", admin=False)
    target = path.format(id=acme.key_id)
    reply = await plain.call(method, target, {})
    assert reply.status_code == 403
    assert reply.json()["code"] == "policy_denied"
    reply = await plain.call(method, target, {}, prefix="/api/v1")
    assert reply.json()["error"]["type"] == "permission_error"
    without = await box.client.request(method, f"/v1{target}")
    assert without.status_code == 401
    assert without.json()["error"] == "unauthorized"


async def test_both_prefixes_manage_the_same_keys(box: Box) -> None:
    acme = await box.manager("acme")
    key = await acme.create()
    reply = await acme.call("GET", f"/keys/{key['id']}", prefix="/api/v1")
    assert reply.json()["id"] == key["id"]
    reply = await acme.call("GET", "/keys/key_none", prefix="/api/v1")
    assert reply.json()["error"]["type"] == "not_found_error"


async def test_every_header_finds_the_same_key(box: Box) -> None:
    key = await (await box.manager("acme")).create(allowed_models=["demo/embed"])
    replies = [
        await box.client.get("/v1/models", headers={name: value})
        for name, value in (
            ("Authorization", f"Bearer {key['secret']}"),
            ("authorization", f"bearer  {key['secret']}"),
            ("x-api-key", key["secret"]),
            ("x-goog-api-key", key["secret"]),
        )
    ]
    assert {reply.status_code for reply in replies} == {200}
    # Google's clients are told of models in other words, and of the same models.
    assert all("demo/embed" in reply.text and "demo/chat" not in reply.text for reply in replies)
    in_address = await box.client.get(f"/v1/models?key={key['secret']}")
    assert in_address.status_code == 401


async def test_rotations_at_the_same_time_leave_one_secret(box: Box) -> None:
    acme = await box.manager("acme")
    key = await acme.create()
    replies = await asyncio.gather(
        *[acme.call("POST", f"/keys/{key['id']}/rotate") for _ in range(8)]
    )
    assert {reply.status_code for reply in replies} == {200}
    secrets = [reply.json()["secret"] for reply in replies]
    good = [secret for secret in secrets if (await box.status(secret))[0] == 200]
    assert len(good) == 1
    shown = (await acme.call("GET", f"/keys/{key['id']}")).json()
    assert good[0][-4:] == shown["last4"]
    assert await _acts(box.settings, key["id"]) == ["key.create"] + ["key.rotate"] * 8


async def test_revocations_at_the_same_time_are_one_act(box: Box) -> None:
    acme = await box.manager("acme")
    key = await acme.create()
    replies = await asyncio.gather(*[acme.call("DELETE", f"/keys/{key['id']}") for _ in range(8)])
    assert {reply.status_code for reply in replies} == {204}
    assert await _acts(box.settings, key["id"]) == ["key.create", "key.revoke"]


async def test_answer_from_before_a_revocation_is_not_believed_after_it(box: Box) -> None:
    acme = await box.manager("acme")
    for _ in range(10):
        key = await acme.create()
        # These ask the store while the revocation is written.
        asking = [asyncio.create_task(box.status(key["secret"])) for _ in range(5)]
        assert (await acme.call("DELETE", f"/keys/{key['id']}")).status_code == 204
        assert await box.status(key["secret"]) == (401, "key_revoked")
        await asyncio.gather(*asking)
        assert await box.status(key["secret"]) == (401, "key_revoked")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000])
async def test_body_that_is_no_object_is_400(box: Box, body: bytes) -> None:
    acme = await box.manager("acme")
    headers = {"Authorization": f"Bearer {acme.secret}"}
    for method, path in (("POST", "/v1/keys"), ("PATCH", f"/v1/keys/{acme.key_id}")):
        reply = await box.client.request(method, path, content=body, headers=headers)
        assert reply.status_code == 400, reply.text
