"""Chooses the backend that answers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchestrator.backends.protocol import Backend
from orchestrator.contract.catalogue import Model
from orchestrator.core.request import RouteHint


class Route(msgspec.Struct, frozen=True):
    """A backend and the model to run. `reason` says in one word why a hint was not followed."""

    backend: Backend
    model: Model
    reason: str = ""


class Router:
    """Sends every allowed request to this appliance's own engines."""

    def __init__(self, local: Backend) -> None:
        self._local = local

    def route(self, model: Model, allowed: Sequence[str], hint: RouteHint) -> Route:
        """Chooses one of the `allowed` routes. The caller's `hint` is only a preference."""
        if hint == "local-only":
            return Route(self._local, model)
        # No other backend exists yet, so requests that may go elsewhere are served here as well.
        return Route(self._local, model, "no_cloud" if "cloud" in allowed else "policy")
