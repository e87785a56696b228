"""The processes of `orchestrator serve`: a parent that supervises, a Triton, HTTP workers."""

from __future__ import annotations

import asyncio
import logging
import sys

from orchestrator.serve.claims import ClaimError
from orchestrator.serve.worker import WorkerError, run_worker
from orchestrator.settings import Settings
from orchestrator.supervisor import StartError
from orchestrator.telemetry import configure_logging

__all__ = ["run", "run_worker"]


def run(settings: Settings) -> int:
    """Serves until a signal asks to stop. Returns the exit code: 0 after a stop by signal.

    Raises: SettingsError, CatalogueError, StoreError.
    """
    # Imported here: a worker does not need what the parent does, such as migrations.
    from orchestrator.serve.appliance import Appliance

    configure_logging(settings.logging)
    # It logs four lines about the same migration at every start.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        return asyncio.run(Appliance(settings).run())
    except (ClaimError, StartError, WorkerError) as error:
        sys.stderr.write(f"orchestrator: {error}\n")
        return 1
