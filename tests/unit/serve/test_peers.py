"""Which peers are believed about the client behind them."""

from __future__ import annotations

import pytest

from orchestrator.serve.peers import NO_PROXIES, TrustedProxies

PROXIES = TrustedProxies(["192.0.2.1", "10.0.0.0/8", "2001:db8::/32", "::ffff:198.51.100.0/120"])


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("192.0.2.1", True),
        ("192.0.2.2", False),
        ("10.255.0.1", True),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("198.51.100.7", True),
        ("::ffff:198.51.100.7", True),
        ("2001:db8::1", True),
        ("2001:DB8:0:0::1", True),
        ("2001:db9::1", False),
        ("", False),
        ("unix:", False),
        ("010.0.0.1", False),
        ("10.0.0", False),
    ],
)
def test_a_proxy_is_known_however_its_address_is_written(address: str, trusted: bool) -> None:
    assert PROXIES.trusts(address) is trusted


def test_without_a_setting_no_peer_is_trusted() -> None:
    assert not NO_PROXIES
    assert not NO_PROXIES.trusts("127.0.0.1")
