"""Which tenants have one salt, and what can be known of it."""

from __future__ import annotations

import hashlib

from orchestrator.backends.triton.prefix_salts import PrefixSalts

SALTS = PrefixSalts(b"a secret of the tests")


def test_each_tenant_has_a_salt_of_its_own_which_stays() -> None:
    assert (
        SALTS.of("ten_a") == SALTS.of("ten_a") == PrefixSalts(b"a secret of the tests").of("ten_a")
    )
    assert len({SALTS.of(f"ten_{number}") for number in range(1000)}) == 1000


def test_a_salt_is_a_number_of_64_bits_and_not_the_one_of_no_tenant() -> None:
    assert all(0 < SALTS.of(f"ten_{number}") < 2**64 for number in range(1000))
    assert SALTS.of("") != 0


def test_the_name_of_a_tenant_does_not_give_its_salt() -> None:
    assert SALTS.of("ten_a") != PrefixSalts(b"another secret").of("ten_a")
    plain = hashlib.sha256(b"ten_a").digest()[:8]
    assert SALTS.of("ten_a") != int.from_bytes(plain, "little")


def test_tenants_share_where_each_names_all_the_others() -> None:
    assert SALTS.of("ten_a", ("ten_b",)) == SALTS.of("ten_b", ("ten_a",))
    assert SALTS.of("ten_a", ("ten_b", "ten_c")) == SALTS.of("ten_c", ("ten_a", "ten_b"))
    # It makes no difference whether a tenant names itself, or in which order or how often.
    assert SALTS.of("ten_a", ("ten_b", "ten_a", "ten_b")) == SALTS.of("ten_b", ("ten_a",))
    assert SALTS.of("ten_a", ("ten_a",)) == SALTS.of("ten_a")


def test_no_tenant_gets_in_by_itself() -> None:
    own = SALTS.of("ten_a")
    pair = SALTS.of("ten_a", ("ten_b",))
    stranger = {
        SALTS.of("ten_c", sharing)
        for sharing in ((), ("ten_a",), ("ten_b",), ("ten_a", "ten_b"), ("ten_b", "ten_a"))
    }
    assert not {own, pair, SALTS.of("ten_b")} & stranger
    # What reads like a list of two is still one.
    assert SALTS.of("ten_a5:ten_b") not in {own, pair}
