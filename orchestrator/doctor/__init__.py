"""What an operator wants to know before asking for help: each thing that is needed, and how it is.

    findings = await examine(settings, deep=False)

Nothing is changed, nothing is started, and no connection is made but to what the settings name.
"""

from __future__ import annotations

from orchestrator.doctor.finding import Finding, Level
from orchestrator.doctor.round import examine

__all__ = ["Finding", "Level", "examine"]
