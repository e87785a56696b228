"""Triton's messages (`service_pb2`), without the client library that they come with.

Importing `tritonclient.grpc` loads its convenience clients, the gRPC library and numpy too:
30 MB in every process, none of which the messages need.
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
    """Imports the module while an empty package stands in for its own."""
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
        # A later import still gets the full package.
        del sys.modules[_PACKAGE]


if not TYPE_CHECKING:
    service_pb2 = _messages()
