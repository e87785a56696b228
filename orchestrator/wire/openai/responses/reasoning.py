"""Reasoning that goes back and forth in `encrypted_content`, for clients that keep nothing else.

Each text is encrypted and authenticated with AES-256-GCM, under a key of its own that is derived
from the appliance's pepper, the tenant and random bytes: another tenant, or a client that changes
it, cannot have it read. What another provider encrypted cannot be read here and counts as nothing,
so that a session may move; what was made here and is not whole is refused, as OpenAI does.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Callable, Sequence

from orchestrator.core.errors import InvalidEncryptedContent, InvalidRequest

_MARK = "op2."
_SALT_BYTES, _NONCE_BYTES = 16, 12
MAX_CHARACTERS = 4 * 1024 * 1024
_MAX_SHOWN = 8


class ReasoningSeal:
    """Encrypts reasoning for one tenant, and reads what was encrypted for it."""

    def __init__(
        self,
        peppers: Sequence[bytes],
        tenant_id: str,
        *,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """The first of `peppers` encrypts; each of them may have encrypted what comes back."""
        self._peppers = peppers
        self._random = random
        self._tenant = tenant_id.encode("utf-8")

    def seal(self, text: str) -> str | None:
        """`text` encrypted, or `None` where it would be longer than what `open` takes."""
        # Loaded where it is used: the library costs 10 MB.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        salt, nonce = self._random(_SALT_BYTES), self._random(_NONCE_BYTES)
        cipher = AESGCM(self._key(self._peppers[0], salt))
        sealed = cipher.encrypt(nonce, text.encode("utf-8", "replace"), self._tenant)
        written = _MARK + base64.urlsafe_b64encode(salt + nonce + sealed).decode("ascii")
        return written if len(written) <= MAX_CHARACTERS else None

    def open(self, given: str) -> str:
        """The text in what `seal` made for this tenant; nothing for what another provider made.

        Raises: InvalidEncryptedContent, InvalidRequest.
        """
        if not given.startswith(_MARK):
            return ""
        if len(given) > MAX_CHARACTERS:
            raise InvalidRequest(
                f"`encrypted_content` may have {MAX_CHARACTERS} characters at most; it has"
                f" {len(given)}.",
                param="input",
            )
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            sealed = base64.b64decode(given[len(_MARK) :], b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise _unreadable(given) from None
        salt, rest = sealed[:_SALT_BYTES], sealed[_SALT_BYTES:]
        nonce, text = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
        for pepper in self._peppers:
            try:
                return AESGCM(self._key(pepper, salt)).decrypt(nonce, text, self._tenant).decode()
            except (InvalidTag, ValueError):
                continue
        raise _unreadable(given)

    def _key(self, pepper: bytes, salt: bytes) -> bytes:
        # The salt has always the same length: no other tenant and salt read like these.
        return hmac.digest(pepper, b"reasoning content " + salt + self._tenant, "sha256")


def _unreadable(given: str) -> InvalidEncryptedContent:
    """In OpenAI's words, which clients look for."""
    return InvalidEncryptedContent(
        f"The encrypted content {given[:_MAX_SHOWN]}… could not be verified. Reason: it was made"
        " for another tenant or with a pepper that is gone, or it was changed. Leave the reasoning"
        " item out.",
        param="input",
    )
