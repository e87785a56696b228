from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.wire.harness import Bench, bench


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Bench]:
    """The edge over a scripted backend."""
    async with bench(tmp_path) as made:
        yield made
