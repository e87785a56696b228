"""Salts that keep the engine's prefix cache separate: per tenant, or per group of tenants.

The number of cached tokens, and the time, reveal which prompts were sent before. So each prompt is
cached under a salt that no caller knows or can choose.
"""

from __future__ import annotations

import hmac

from orchestrator.core.caches import remember

_MAX_REMEMBERED = 4096
_SALT_BYTES = 8
"""The size of a salt in TensorRT-LLM."""


class PrefixSalts:
    """The salts of one installation. They change only with its secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._known: dict[tuple[str, tuple[str, ...]], int] = {}

    def of(self, tenant_id: str, sharing: tuple[str, ...] = ()) -> int:
        """The salt of the prompts of `tenant_id`, 1 to 2**64 - 1.

        It belongs to the group of the tenant and all of `sharing`. Two tenants have the same salt
        only if each names the other and both name the same others. So no tenant can join a group
        that does not name it.
        """
        key = (tenant_id, sharing)
        salt = self._known.get(key)
        if salt is None:
            salt = self._made({tenant_id, *sharing})
            remember(self._known, key, salt, _MAX_REMEMBERED)
        return salt

    def _made(self, group: set[str]) -> int:
        # With lengths, no two lists of ids give the same text.
        named = "".join(f"{len(one)}:{one}" for one in sorted(group))
        digest = hmac.digest(self._secret, f"prefix cache {named}".encode(), "sha256")
        # 0 is the salt of the appliance's own requests.
        return int.from_bytes(digest[:_SALT_BYTES], "little") or 1
