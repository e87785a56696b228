"""Where Triton is and how to speak to it, as the settings say."""

from __future__ import annotations

from orchestrator.settings import TritonSettings
from orchestrator.triton.client import TritonEndpoint


def endpoint_of(triton: TritonSettings) -> TritonEndpoint:
    """The server of `triton.url`."""
    return TritonEndpoint(
        url=triton.url,
        token=triton.token.get_secret_value() if triton.token else None,
        metadata=tuple((name, value.get_secret_value()) for name, value in triton.metadata.items()),
        transport=triton.transport,
        tls=triton.tls,
        tls_ca_file=triton.tls_ca_file,
        tls_cert_file=triton.tls_cert_file,
        tls_key_file=triton.tls_key_file,
    )
