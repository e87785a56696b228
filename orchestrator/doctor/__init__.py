"""What an operator checks before asking for help: each part that is needed, and its state.

    findings = await examine(settings, deep=False)

It changes nothing, starts nothing, and connects only to what the settings name.
"""

from __future__ import annotations

from orchestrator.doctor.finding import Finding, Level
from orchestrator.doctor.round import examine

__all__ = ["Finding", "Level", "examine"]
