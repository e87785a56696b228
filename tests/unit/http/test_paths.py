"""Paths: what is decoded before a route is looked for, and what after."""

from __future__ import annotations

from urllib.parse import unquote

import pytest

from orchestrator.http.paths import name_in_path, routed_path


@pytest.mark.parametrize(
    ("sent", "routed"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/%6Dodels", "/v1/models"),
        ("/v1%2Fmodels", "/v1%2Fmodels"),
        ("/v1%2fmodels", "/v1%2fmodels"),
        ("/v1%252Fmodels", "/v1%252Fmodels"),
        ("/%C3%A9", "/é"),
    ],
)
def test_slashes_of_names_separate_nothing(sent: str, routed: str) -> None:
    assert routed_path(sent) == routed


@pytest.mark.parametrize(
    "sent",
    [
        "a%2Fb",
        "a%2fb",
        "a%252Fb",
        "a%25252Fb",
        "50%25",
        "%",
        "a%2",
        "%%34%31",
        "%2%46",
        "%zz%2F%C3",
    ],
)
def test_names_are_decoded_once(sent: str) -> None:
    assert name_in_path({"path_params": {"id": routed_path(sent)}}, "id") == unquote(sent)
