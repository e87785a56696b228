"""Who finds what an engine has cached of a prompt: a tenant by itself, or tenants that agreed.

How many tokens of a prompt were cached, and how long it took, tells what was sent before. So each
prompt is cached under a salt that no caller knows or can choose.
"""

from __future__ import annotations

import hmac

from orchestrator.core.caches import remember

_MAX_REMEMBERED = 4096
_SALT_BYTES = 8
"""What TensorRT-LLM takes for a salt."""


class PrefixSalts:
    """The salts of one installation. They stay the same as long as its secret does."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._known: dict[tuple[str, tuple[str, ...]], int] = {}

    def of(self, tenant_id: str, sharing: tuple[str, ...] = ()) -> int:
        """The salt of the prompts of `tenant_id`, 1 to 2**64 - 1.

        It is that of the tenant and all of `sharing` as a group. So two tenants have the same one
        only where each names the other and both name the same others: no tenant joins a group that
        does not name it.
        """
        key = (tenant_id, sharing)
        salt = self._known.get(key)
        if salt is None:
            salt = self._made({tenant_id, *sharing})
            remember(self._known, key, salt, _MAX_REMEMBERED)
        return salt

    def _made(self, group: set[str]) -> int:
        # With their lengths: no list of ids reads like another one.
        named = "".join(f"{len(one)}:{one}" for one in sorted(group))
        digest = hmac.digest(self._secret, f"prefix cache {named}".encode(), "sha256")
        # 0 is for what the appliance itself asks.
        return int.from_bytes(digest[:_SALT_BYTES], "little") or 1
