"""gRPC over HTTP/2 in clear text, limited to what a client of Triton needs, on asyncio.

Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), gRPC over HTTP/2 (PROTOCOL-HTTP2.md).
"""

from orchestrator.triton.http2.channel import Http2Channel

__all__ = ["Http2Channel"]
