"""Messages to token ids, token ids to parts. The orchestrator owns tokens; engines see only ids."""

from orchestrator.rendering.decoder import Decoder
from orchestrator.rendering.files import RenderingError
from orchestrator.rendering.renderer import Renderer

__all__ = ["Decoder", "Renderer", "RenderingError"]
