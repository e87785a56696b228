"""What a document may say, and what it means for addresses and times."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.limits import UNLIMITED, Limits
from orchestrator.policy.document import PolicyDocument, parse_document


def test_an_empty_document_restricts_nothing() -> None:
    document = parse_document({})
    assert document == PolicyDocument()
    assert document.limits == UNLIMITED
    assert document.admits(None)
    assert document.admits("203.0.113.1")
    assert document.open_at(0)
    assert parse_document(dict.fromkeys(("limits", "time_window", "client_networks"))) == document


def test_every_member_is_read() -> None:
    document = parse_document(
        {
            "limits": {"rpm": 5, "images_rpm": 1, "tpd": 100, "concurrency": 2},
            "allowed_models": ["a", "b", "a"],
            "plan_models": {"free": ["a"]},
            "allowed_routes": ["local"],
            "api_disabled": True,
            "prefix_cache_tenants": ["ten_b", "ten_a"],
        }
    )
    assert document.limits == Limits(5, 1, 100, 2)
    assert document.allowed_models == ("a", "b")
    assert (document.plan_models, document.allowed_routes) == ({"free": ("a",)}, ("local",))
    assert document.api_disabled
    assert document.cache_tenants == ("ten_b", "ten_a")


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"nonsense": 1}, "document.nonsense"),
        ({"limits": []}, "document.limits"),
        ({"limits": {"rpm": True}}, "document.limits.rpm"),
        ({"limits": {"rpm": 1.5}}, "document.limits.rpm"),
        ({"limits": {"rpm": -1}}, "document.limits.rpm"),
        ({"limits": {"rpms": 1}}, "document.limits.rpms"),
        ({"allowed_models": "a"}, "document.allowed_models"),
        ({"allowed_models": [""]}, "document.allowed_models[0]"),
        ({"allowed_models": [1]}, "document.allowed_models[0]"),
        ({"plan_models": {"free": "a"}}, "document.plan_models.free"),
        ({"allowed_routes": ["local", "moon"]}, "document.allowed_routes"),
        ({"allowed_routes": ["cloud"]}, "document.allowed_routes"),
        ({"client_networks": ["10.0.0.0/33"]}, "document.client_networks[0]"),
        ({"client_networks": ["10.0.0.1/8"]}, "document.client_networks[0]"),
        ({"time_window": {"from": "8:00"}}, "document.time_window.from"),
        ({"time_window": {"to": "24:01"}}, "document.time_window.to"),
        ({"time_window": {"to": "١٢:00"}}, "document.time_window.to"),
        ({"time_window": {"days": ["monday"]}}, "document.time_window.days"),
        ({"time_window": {"timezone": "../etc"}}, "document.time_window.timezone"),
        ({"time_window": {"timezone": "Europe"}}, "document.time_window.timezone"),
        ({"time_window": {"timezone": 1}}, "document.time_window.timezone"),
        ({"time_window": {"until": "08:00"}}, "document.time_window.until"),
        ({"api_disabled": 1}, "document.api_disabled"),
        ({"prefix_cache_tenants": "ten_a"}, "document.prefix_cache_tenants"),
        ({"prefix_cache_tenants": ["ten_a", "acme"]}, "document.prefix_cache_tenants[1]"),
        (
            {"prefix_cache_tenants": [f"ten_{n}" for n in range(33)]},
            "document.prefix_cache_tenants",
        ),
    ],
)
def test_a_wrong_member_is_named(given: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_document(given)
    assert caught.value.param == param
    assert param in str(caught.value)


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("2001:db8::1", True),
        ("2001:db8::1%eth0", True),
        ("2001:db9::1", False),
        (None, False),
        ("", False),
        ("unix:/socket", False),
        ("10.1.2", False),
    ],
)
def test_an_address_is_inside_or_not(address: str | None, inside: bool) -> None:
    document = parse_document({"client_networks": ["10.0.0.0/8", "2001:db8::/32"]})
    assert document.admits(address) is inside


def test_a_network_of_mapped_addresses_is_one_of_ipv4() -> None:
    document = parse_document({"client_networks": ["::ffff:10.0.0.0/104"]})
    assert document.admits("10.1.2.3")
    assert document.admits("::ffff:10.1.2.3")
    assert not document.admits("11.1.2.3")


@pytest.mark.parametrize(
    ("window", "moment", "inside"),
    [
        ({"from": "08:00", "to": "18:00"}, "2026-11-18 08:00", True),
        ({"from": "08:00", "to": "18:00"}, "2026-11-18 07:59", False),
        ({"from": "08:00", "to": "18:00"}, "2026-11-18 18:00", False),
        ({"days": ["wed"]}, "2026-11-18 23:59", True),
        ({"days": ["wed"]}, "2026-11-19 00:00", False),
        # From 22 to 6 of the next day, which is still Friday's.
        ({"days": ["fri"], "from": "22:00", "to": "06:00"}, "2026-11-20 22:00", True),
        ({"days": ["fri"], "from": "22:00", "to": "06:00"}, "2026-11-21 05:59", True),
        ({"days": ["fri"], "from": "22:00", "to": "06:00"}, "2026-11-21 06:00", False),
        ({"days": ["fri"], "from": "22:00", "to": "06:00"}, "2026-11-20 05:00", False),
        # The hour that does not exist, and the one that is there twice.
        ({"from": "02:00", "to": "03:00"}, "2026-03-29 03:30", False),
        ({"from": "02:00", "to": "03:00"}, "2026-10-25 02:30", True),
    ],
)
def test_a_moment_is_inside_or_not(window: dict[str, Any], moment: str, inside: bool) -> None:
    zone = ZoneInfo("Europe/Berlin")
    at = datetime.fromisoformat(moment).replace(tzinfo=zone).timestamp()
    document = parse_document({"time_window": {**window, "timezone": "Europe/Berlin"}})
    assert document.open_at(at) is inside
