from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from orchestrator.keys.secret import (
    Pepper,
    is_key_secret,
    load_pepper,
    new_key_secret,
    public_prefix,
)
from orchestrator.settings import SecuritySettings, Settings, SettingsError

_SEED_KEY = "op_live_26f2_f9b8c4e2aa1345b7d3f27a901c55d88a"


def test_new_secrets_have_the_usual_format_and_differ() -> None:
    made = {new_key_secret() for _ in range(1000)}
    assert len(made) == 1000
    assert all(is_key_secret(secret) for secret in made)


def test_key_of_the_quick_start_has_the_usual_format() -> None:
    assert is_key_secret(_SEED_KEY)
    assert public_prefix(_SEED_KEY) == "op_live_26f2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "op_live_",
        _SEED_KEY.upper(),
        _SEED_KEY + "0",
        _SEED_KEY[:-1],
        _SEED_KEY + "\n",
        " " + _SEED_KEY,
        _SEED_KEY.replace("26f2", "26g2"),
        _SEED_KEY.replace("2", "\u0662"),
        "sk-" + "0" * 48,
    ],
)
def test_anything_else_is_not_a_key(text: str) -> None:
    assert not is_key_secret(text)


@given(st.binary(min_size=16, max_size=80), st.text(max_size=60))
def test_digest_is_hmac_sha256(pepper: bytes, key: str) -> None:
    made = Pepper("id", pepper).digest(key)
    assert made == hmac.new(pepper, key.encode(), hashlib.sha256).digest()
    assert len(made) == 32


def test_pepper_is_not_in_its_repr() -> None:
    assert "very secret" not in repr(Pepper("id", b"very secret"))


def test_made_up_pepper_stays(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    assert load_pepper(settings) == load_pepper(settings)
    assert load_pepper(Settings(data_dir=tmp_path / "other")) != load_pepper(settings)


def test_given_pepper_is_kept_nowhere(tmp_path: Path) -> None:
    security = SecuritySettings(pepper=SecretStr("sixteen bytes or more"))
    pepper = load_pepper(Settings(data_dir=tmp_path / "data", security=security))
    assert pepper.secret == b"sixteen bytes or more"
    assert not (tmp_path / "data").exists()


def test_pepper_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "pepper").write_text("sixteen bytes or more\n")
    by_file = SecuritySettings(pepper_file=tmp_path / "pepper")
    by_value = SecuritySettings(pepper=SecretStr("sixteen bytes or more"))
    data_dir = tmp_path / "data"
    assert load_pepper(Settings(data_dir=data_dir, security=by_file)) == load_pepper(
        Settings(data_dir=data_dir, security=by_value)
    )


def test_short_pepper_is_refused_without_being_told(tmp_path: Path) -> None:
    security = SecuritySettings(pepper=SecretStr("salty"))
    with pytest.raises(SettingsError, match=r"`security\.pepper` holds 5 bytes") as caught:
        load_pepper(Settings(data_dir=tmp_path, security=security))
    assert "salty" not in str(caught.value)


def test_empty_pepper_in_the_data_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pepper").write_text("")
    with pytest.raises(SettingsError, match=r"`data_dir: .*pepper` holds 0 bytes"):
        load_pepper(Settings(data_dir=tmp_path))


def test_missing_pepper_file_is_named(tmp_path: Path) -> None:
    security = SecuritySettings(pepper_file=tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"nowhere`, which does not exist$"):
        load_pepper(Settings(data_dir=tmp_path, security=security))


def test_two_peppers_are_one_too_many(tmp_path: Path) -> None:
    security = SecuritySettings(
        pepper=SecretStr("sixteen bytes or more"), pepper_file=tmp_path / "pepper"
    )
    with pytest.raises(SettingsError, match="both set"):
        load_pepper(Settings(data_dir=tmp_path, security=security))
