"""The watch over Tritons, where one of them answers what nobody can read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio

from orchestrator.backends.triton.placement import single
from orchestrator.backends.triton.served import ServedModel
from orchestrator.contract.catalogue import Catalogue, EngineRecipe, Model
from orchestrator.models.hosted import Deployments
from orchestrator.triton.client import TritonClient, TritonEndpoint
from orchestrator.triton.transport import SERVICE


async def test_the_watch_goes_on_whatever_a_triton_answers(tmp_path: Path) -> None:
    asked = 0
    twice = asyncio.Event()

    async def junk(request: bytes, context: Any) -> bytes:
        nonlocal asked
        del request, context
        asked += 1
        if asked == 2:
            twice.set()
        return b"\xff\xff"

    handlers = {"ModelReady": grpc.unary_unary_rpc_method_handler(junk)}
    server = grpc.aio.server()
    generic = grpc.method_handlers_generic_handler(SERVICE.strip("/"), handlers)
    server.add_generic_rpc_handlers((generic,))
    address = f"unix:{tmp_path}/s"
    assert server.add_insecure_port(address)
    await server.start()
    model = Model("acme/chat", "chat", "generate", 64, EngineRecipe("-"))
    placed = single(TritonClient(TritonEndpoint(url=address)))
    deployments = Deployments(Catalogue((model,)), tmp_path, placed, interval_s=0.01)
    await deployments.start()
    # Nothing of what is built is looked at.
    deployments.all[0].served = cast("ServedModel", object())
    async with asyncio.timeout(60):
        await twice.wait()
    assert not deployments.all[0].ready
    await deployments.close()
    await placed.close()
    await server.stop(None)
