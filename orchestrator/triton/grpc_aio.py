"""The transport of the gRPC library, for TLS and for whatever our HTTP/2 does not support."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio

from orchestrator.triton.transport import (
    CANCELLED,
    OK,
    SERVICE,
    UNAVAILABLE,
    Metadata,
    RpcFailed,
    Status,
)

MAX_MESSAGE_BYTES = 2**31 - 1

_OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A restarted Triton must be found at once; the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    # Tritons are near. The library would use `http_proxy` even for the loopback.
    ("grpc.enable_http_proxy", 0),
]


class GrpcAioChannel:
    """A `Transport` over `grpc.aio`. `url` is `host:port` or `unix:/path`."""

    def __init__(self, url: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(url, options=_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(url, credentials, options=_OPTIONS)
        self._calls: set[GrpcAioCall] = set()

    @classmethod
    def over_tls(
        cls,
        url: str,
        *,
        root_certificates: bytes | None,
        private_key: bytes | None,
        certificate_chain: bytes | None,
    ) -> GrpcAioChannel:
        """Connects with these certificates (PEM); without a root, with the system's authorities."""
        return cls(
            url, grpc.ssl_channel_credentials(root_certificates, private_key, certificate_chain)
        )

    def start(
        self,
        method: str,
        request: bytes,
        *,
        metadata: Metadata,
        timeout_s: float,
        on_message: Callable[[bytes], None],
        on_end: Callable[[Status], None],
    ) -> GrpcAioCall:
        """See `Transport.start`."""
        rpc = self._channel.stream_stream(SERVICE + method)(
            metadata=tuple(metadata), timeout=timeout_s
        )
        call = GrpcAioCall(rpc, request, on_message, on_end)
        self._calls.add(call)
        call.task.add_done_callback(lambda _: self._calls.discard(call))
        return call

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata, timeout_s: float
    ) -> bytes:
        """See `Transport.unary`."""
        try:
            answer: bytes = await self._channel.unary_unary(SERVICE + method)(
                request, metadata=tuple(metadata), timeout=timeout_s
            )
        except grpc.RpcError as error:
            raise RpcFailed(_status(error)) from error
        return answer

    async def close(self) -> None:
        """Ends what is in flight, and the connection."""
        for call in list(self._calls):
            call.cancel()
        if self._calls:
            await asyncio.wait([call.task for call in self._calls])
        await self._channel.close()


class GrpcAioCall:
    """A call, read by its own task: cancelling a pending read would cut the call."""

    def __init__(
        self,
        rpc: grpc.aio.StreamStreamCall,
        request: bytes,
        on_message: Callable[[bytes], None],
        on_end: Callable[[Status], None],
    ) -> None:
        self._rpc = rpc
        self._request = request
        self._on_message = on_message
        self._on_end = on_end
        self.task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        """Cuts the call."""
        if not self.task.done():
            self._rpc.cancel()

    async def _run(self) -> None:
        status = Status(UNAVAILABLE, "the call was abandoned")
        try:
            status = await self._read_all()
        except grpc.RpcError as error:
            status = _status(error)
        except asyncio.InvalidStateError:
            # grpc.aio says so when the call ended while we were writing to it.
            pass
        except asyncio.CancelledError:
            # Our own cancel(), or the channel closing under us.
            status = Status(CANCELLED, "cancelled")
        finally:
            self._on_end(status)

    async def _read_all(self) -> Status:
        await self._rpc.write(self._request)
        await self._rpc.done_writing()
        while (response := await self._rpc.read()) is not grpc.aio.EOF:
            self._on_message(response)
        return Status(OK)


def _status(error: grpc.RpcError) -> Status:
    code: int = error.code().value[0]
    return Status(code, error.details() or "")
