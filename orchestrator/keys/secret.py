"""The secret of a virtual key: its format, and the digest that the store holds instead of it."""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass, field

from orchestrator.settings import Settings, SettingsError
from orchestrator.store.private_files import prepare_folder, read_or_create_private, read_text

KEY_FORMAT = "op_live_<4 hex digits>_<32 hex digits>"
_KEY = re.compile(r"op_live_[0-9a-f]{4}_[0-9a-f]{32}", re.ASCII)
_MIN_PEPPER_BYTES = 16


@dataclass(frozen=True, slots=True)
class Pepper:
    """The secret input of every digest. `id` says which pepper a stored digest was made with."""

    id: str
    secret: bytes = field(repr=False)

    def digest(self, key: str) -> bytes:
        """Returns HMAC-SHA256 of a key's secret, 32 bytes.

        A slow hash would add nothing: keys hold 144 random bits and are not chosen by people.
        """
        return hmac.digest(self.secret, key.encode(), "sha256")


def new_key_secret() -> str:
    """Returns a new secret in the usual format."""
    return f"op_live_{secrets.token_hex(2)}_{secrets.token_hex(16)}"


def is_key_secret(text: str) -> bool:
    """Whether `text` has the usual format; anything else cannot be in the store."""
    return _KEY.fullmatch(text) is not None


def public_prefix(key: str) -> str:
    """Returns the part of a key that may be shown: `op_live_26f2`."""
    return key.rpartition("_")[0]


def load_pepper(settings: Settings) -> Pepper:
    """Returns the configured pepper, or the one in the data folder, generated the first time.

    Raises: SettingsError.
    """
    security = settings.security
    if security.pepper is not None and security.pepper_file is not None:
        raise SettingsError("`security.pepper` and `security.pepper_file` are both set; give one")
    if security.pepper is not None:
        return _pepper(security.pepper.get_secret_value(), "security.pepper")
    if (path := security.pepper_file) is not None:
        try:
            return _pepper(read_text(path, "security.pepper_file"), "security.pepper_file")
        except FileNotFoundError:
            raise SettingsError(
                f"`security.pepper_file` is `{path}`, which does not exist"
            ) from None
    prepare_folder(settings.data_dir, "data_dir")
    path = settings.data_dir / "pepper"
    return _pepper(
        read_or_create_private(path, lambda: secrets.token_hex(32), "data_dir"), f"data_dir: {path}"
    )


def load_previous_peppers(settings: Settings) -> tuple[Pepper, ...]:
    """Returns the peppers with which older keys may have been stored. Raises: SettingsError."""
    security = settings.security
    if security.previous_peppers and security.previous_peppers_file is not None:
        raise SettingsError(
            "`security.previous_peppers` and `security.previous_peppers_file` are both set; "
            "give one"
        )
    if (path := security.previous_peppers_file) is None:
        return tuple(
            _pepper(pepper.get_secret_value(), "security.previous_peppers")
            for pepper in security.previous_peppers
        )
    try:
        lines = read_text(path, "security.previous_peppers_file").split("\n")
    except FileNotFoundError:
        raise SettingsError(
            f"`security.previous_peppers_file` is `{path}`, which does not exist"
        ) from None
    return tuple(
        _pepper(line.strip(), "security.previous_peppers_file") for line in lines if line.strip()
    )


def _pepper(text: str, setting: str) -> Pepper:
    secret = text.encode()
    if len(secret) < _MIN_PEPPER_BYTES:
        raise SettingsError(
            f"`{setting}` holds {len(secret)} bytes, a pepper needs at least {_MIN_PEPPER_BYTES}"
        )
    return Pepper(hmac.digest(secret, b"pepper id", "sha256").hex()[:8], secret)
