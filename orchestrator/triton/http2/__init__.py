"""gRPC over HTTP/2 in clear text, as far as a client of Triton needs it, on an asyncio Protocol.

Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), gRPC over HTTP/2 (PROTOCOL-HTTP2.md).
"""

from orchestrator.triton.http2.channel import Http2Channel

__all__ = ["Http2Channel"]
