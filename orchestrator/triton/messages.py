"""Triton's messages (`service_pb2`), without the client library that they come with.

Whoever imports `tritonclient.grpc` gets its convenience clients, the gRPC library and numpy too:
30 MB in every process, of which the messages need nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonclient.grpc import service_pb2

__all__ = ["service_pb2"]

_PACKAGE = "tritonclient.grpc"


def _messages() -> ModuleType:
    """The module, imported while a bare package stands in for the one around it."""
    name = f"{_PACKAGE}.service_pb2"
    if _PACKAGE in sys.modules:
        return importlib.import_module(name)
    around = importlib.util.find_spec("tritonclient")
    assert around is not None
    bare = ModuleType(_PACKAGE)
    bare.__path__ = [f"{path}/grpc" for path in around.submodule_search_locations or ()]
    sys.modules[_PACKAGE] = bare
    try:
        return importlib.import_module(name)
    finally:
        # Whoever wants all of it still gets it.
        del sys.modules[_PACKAGE]


if not TYPE_CHECKING:
    service_pb2 = _messages()
