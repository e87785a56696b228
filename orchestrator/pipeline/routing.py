"""Which backend answers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchestrator.backends.protocol import Backend
from orchestrator.contract.catalogue import Model
from orchestrator.core.request import RouteHint


class Route(msgspec.Struct, frozen=True):
    """A backend and the model it is to run. `reason` says why a wish was not granted, in a word."""

    backend: Backend
    model: Model
    reason: str = ""


class Router:
    """Sends every allowed request to this appliance's own engines."""

    def __init__(self, local: Backend) -> None:
        self._local = local

    def route(self, model: Model, allowed: Sequence[str], hint: RouteHint) -> Route:
        """The route among those `allowed`, the caller's `hint` being no more than a wish."""
        if hint == "local-only":
            return Route(self._local, model)
        # There is no other backend yet, so whoever may go elsewhere is served here as well.
        return Route(self._local, model, "no_cloud" if "cloud" in allowed else "policy")
