"""Settings: where they come from, and what is said about bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.settings import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("ORCHESTRATOR_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults_start_a_box_on_loopback_with_its_own_triton() -> None:
    settings = load_settings()
    assert settings.server.host == "127.0.0.1"
    assert settings.triton.mode == "child"
    assert settings.store_url.startswith("sqlite+aiosqlite:///")


def test_environment_wins_over_file_and_file_over_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "orchestrator.toml").write_text('[server]\nport = 1111\nhost = "127.0.0.2"\n')
    monkeypatch.setenv("ORCHESTRATOR_SERVER__PORT", "2222")
    settings = load_settings()
    assert settings.server.port == 2222
    assert settings.server.host == "127.0.0.2"
    assert settings.server.drain_s == Settings.model_fields["server"].default.drain_s


def test_a_named_file_is_read_and_a_missing_one_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "box.toml"
    path.write_text("[server]\nport = 3333\n")
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", str(path))
    assert load_settings().server.port == 3333
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match=r"none\.toml`, which is not a file"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ORCHESTRATOR_SERVER__PROT", "1", "ORCHESTRATOR_SERVER__PROT"),
        ("ORCHESTRATOR_SERVER__PORT", "70000", "server.port"),
        ("ORCHESTRATOR_TRITON__MODE", "remote", "triton.url"),
        ("ORCHESTRATOR_SERVER__DRAIN_S", "-1", "server.drain_s"),
    ],
)
def test_a_bad_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message.replace(".", r"\.")):
        load_settings()


def test_an_unknown_key_in_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "orchestrator.toml").write_text("[server]\nprot = 1\n")
    with pytest.raises(SettingsError, match="prot"):
        load_settings()


def test_secrets_do_not_show_in_a_printed_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_BOOTSTRAP__ADMIN_KEY", "op_live_26f2_" + "a" * 32)
    assert "aaaa" not in repr(load_settings())


def test_the_secret_does_not_show_in_the_error_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_TRITON__METADATA", '{"authorization": ["hunter2"]}')
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_tritons_have_names_and_settings_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_TRITON__MODE", "remote")
    monkeypatch.setenv("ORCHESTRATOR_TRITON__ENDPOINTS__A__URL", "one:8001")
    monkeypatch.setenv("ORCHESTRATOR_TRITON__ENDPOINTS__B__URL", "other:8001")
    monkeypatch.setenv("ORCHESTRATOR_TRITON__ENDPOINTS__B__TLS", "true")
    monkeypatch.setenv("ORCHESTRATOR_TRITON__ENDPOINTS__B__TOKEN", "hunter2")
    triton = load_settings().triton
    assert {name: one.url for name, one in triton.endpoints.items()} == {
        "a": "one:8001",
        "b": "other:8001",
    }
    assert triton.endpoints["b"].tls
    assert "hunter2" not in repr(triton)


@pytest.mark.parametrize(
    ("endpoints", "message"),
    [
        ('{"default": {"url": "one:8001"}}', "endpoints.default"),
        ('{"No good": {"url": "one:8001"}}', "endpoints.No good"),
        ('{"a": {"tls": true}}', "`triton.endpoints.a.url` must be set"),
        ('{"a": {"url": "one:8001", "repository": "/models"}}', "endpoints.a.repository"),
    ],
)
def test_a_bad_triton_is_named(
    monkeypatch: pytest.MonkeyPatch, endpoints: str, message: str
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_TRITON__ENDPOINTS", endpoints)
    with pytest.raises(SettingsError, match=message.replace(".", r"\.")):
        load_settings()


def test_trusted_proxies_are_addresses_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().server.trusted_proxies == ()
    monkeypatch.setenv("ORCHESTRATOR_SERVER__TRUSTED_PROXIES", '["10.0.0.0/8", "::1"]')
    assert load_settings().server.trusted_proxies == ("10.0.0.0/8", "::1")


@pytest.mark.parametrize("given", ["10.0.0.1/8", "proxy.example", "*", "", "10.0.0.1:80"])
def test_a_trusted_proxy_that_is_no_address_is_named(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_SERVER__TRUSTED_PROXIES", f'["{given}"]')
    with pytest.raises(SettingsError, match=r"server\.trusted_proxies") as refused:
        load_settings()
    assert given in str(refused.value)


@pytest.mark.parametrize(
    ("name", "given", "shown"),
    [
        ("SERVER__TRUSTED_PROXIES", "127.0.0.1", "; `127.0.0.1` was given"),
        ("SERVER__CORS_ORIGINS", '"https://a.example"', '; `"https://a.example"` was given'),
        ("HOSTS__SPEC", "", "; `` was given"),
        ("TELEMETRY__CONTENT_KEYS", "[1]", "; `[1]` was given"),
        ("SECURITY__PREVIOUS_PEPPERS", "a secret", ""),
    ],
)
def test_a_variable_that_takes_a_list_says_so(
    monkeypatch: pytest.MonkeyPatch, name: str, given: str, shown: str
) -> None:
    monkeypatch.setenv(f"ORCHESTRATOR_{name}", given)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    text = f'`ORCHESTRATOR_{name}` takes a JSON list of texts, such as ["a", "b"]{shown}'
    assert str(caught.value) == text
