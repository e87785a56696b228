from __future__ import annotations

import pytest

from orchestrator.core.origins import origin_of


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("*", "*"),
        ("https://chat.example.com", "https://chat.example.com"),
        (" HTTPS://Chat.Example.com ", "https://chat.example.com"),
        ("https://chat.example.com:443", "https://chat.example.com"),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("tauri://localhost", "tauri://localhost"),
    ],
)
def test_an_origin_is_as_browsers_write_it(given: str, origin: str) -> None:
    assert origin_of(given) == origin


@pytest.mark.parametrize(
    "given",
    ["", "null", "chat.example.com", "https://", "https://a/", "https://a/b", "https://a,b",
     "https://*.a b", "https://a?b", "https://u@a", "https://a:x", "**", "https://a\nb"],
)  # fmt: skip
def test_anything_else_is_refused_with_what_is_wanted(given: str) -> None:
    with pytest.raises(ValueError, match="such as https://chat\\.example\\.com"):
        origin_of(given)
