"""What an engine has made for a run, the prompt included."""

from __future__ import annotations

from orchestrator.backends.protocol import Run
from orchestrator.core.events import Usage


async def produced(run: Run) -> Usage:
    """Told when the engine's side has ended."""
    await run.ended()
    return run.cost("cancelled", sent=True).usage
