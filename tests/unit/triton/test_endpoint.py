"""Which Tritons settings and catalogue name."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from orchestrator.contract.catalogue import Catalogue, CatalogueError, EngineRecipe, Model
from orchestrator.settings import Settings, TritonConnection, TritonSettings
from orchestrator.triton.endpoint import connections, endpoint_of


def model(name: str, *tritons: str) -> Model:
    return Model(f"acme/{name}", name, "generate", 64, EngineRecipe("-"), tritons=tritons)


def settings(*names: str, url: str = "", mode: str = "remote") -> Settings:
    endpoints = {name: TritonConnection(url=f"{name}:8001") for name in names}
    return Settings(
        triton=TritonSettings.model_validate({"mode": mode, "url": url, "endpoints": endpoints})
    )


def test_models_without_a_place_run_on_the_one_triton() -> None:
    known = connections(Catalogue((model("chat"),)), settings(url="box:8001"))
    assert {name: one.url for name, one in known.items()} == {"default": "box:8001"}


def test_the_child_is_not_started_for_no_model() -> None:
    catalogue = Catalogue((model("chat", "a", "b"),))
    assert list(connections(catalogue, settings("a", "b", mode="child"))) == ["a", "b"]
    catalogue = Catalogue((model("chat", "a", "default"),))
    assert list(connections(catalogue, settings("a", mode="child"))) == ["default", "a"]


@pytest.mark.parametrize(
    ("placed", "names", "message"),
    [
        (("a", "c"), ("a", "b"), r"`acme/chat`: `tritons` names `c`; `triton.endpoints` has"),
        (("a",), (), r"names `a`; `triton.endpoints` has none"),
        ((), ("a",), r"`acme/chat`: runs on the Triton of `triton.url`, which is not set"),
    ],
)
def test_a_place_that_the_settings_lack_is_named(
    placed: tuple[str, ...], names: tuple[str, ...], message: str
) -> None:
    known = settings(*names, url="" if names else "box:8001")
    with pytest.raises(CatalogueError, match=message):
        connections(Catalogue((model("chat", *placed),)), known)


def test_each_triton_has_secrets_of_its_own() -> None:
    made = endpoint_of(
        TritonConnection(
            url="box:8001", token=SecretStr("tok"), metadata={"authorization": SecretStr("Bearer")}
        )
    )
    assert made.call_metadata == (("authorization", "Bearer"), ("triton-grpc-protocol-tok", "tok"))
