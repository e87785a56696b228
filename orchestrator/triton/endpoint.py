"""Where each Triton is and how to connect to it, from the settings."""

from __future__ import annotations

from orchestrator.contract.catalogue import Catalogue, CatalogueError, Model
from orchestrator.settings import Settings, TritonConnection
from orchestrator.triton.client import TritonEndpoint

DEFAULT = "default"
"""The name of the Triton of `triton.url`, child or remote."""


def endpoint_of(connection: TritonConnection) -> TritonEndpoint:
    """Returns the server of `connection`."""
    token, metadata = connection.token, connection.metadata
    return TritonEndpoint(
        url=connection.url,
        token=token.get_secret_value() if token else None,
        metadata=tuple((name, value.get_secret_value()) for name, value in metadata.items()),
        transport=connection.transport,
        tls=connection.tls,
        tls_ca_file=connection.tls_ca_file,
        tls_cert_file=connection.tls_cert_file,
        tls_key_file=connection.tls_key_file,
    )


def servers_of(model: Model) -> tuple[str, ...]:
    """Returns the names of the Tritons that `model` is placed on."""
    return model.tritons or (DEFAULT,)


def connections(catalogue: Catalogue, settings: Settings) -> dict[str, TritonConnection]:
    """Returns every Triton that the catalogue needs, by name.

    Raises: CatalogueError when a model is placed on one that the settings do not know.
    """
    triton = settings.triton
    known: dict[str, TritonConnection] = {DEFAULT: triton, **triton.endpoints}
    if triton.mode == "remote" and not triton.url:
        del known[DEFAULT]
    for model in catalogue.models:
        for name in servers_of(model):
            if name not in known:
                raise CatalogueError(_unknown(settings, model, name))
    if triton.endpoints and not any(DEFAULT in servers_of(one) for one in catalogue.models):
        known.pop(DEFAULT, None)
    return known


def _unknown(settings: Settings, model: Model, name: str) -> str:
    where = f"{settings.catalogue}: model `{model.id}`"
    if name == DEFAULT:
        return f"{where}: runs on the Triton of `triton.url`, which is not set"
    there = ", ".join(f"`{one}`" for one in settings.triton.endpoints) or "none"
    return f"{where}: `tritons` names `{name}`; `triton.endpoints` has {there}"
