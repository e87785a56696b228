"""Turns messages into token ids and token ids into parts. Engines see only ids."""

from orchestrator.rendering.decoder import Decoder
from orchestrator.rendering.files import RenderingError
from orchestrator.rendering.renderer import Renderer

__all__ = ["Decoder", "Renderer", "RenderingError"]
