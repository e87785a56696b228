"""Golden files: exact bytes under `tests/wire/golden`, written anew when `UPDATE_GOLDEN` is set."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("golden")


def check(name: str, content: bytes) -> None:
    """Fails unless `content` is what the golden file holds."""
    path = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return
    assert path.is_file(), f"no golden file {name}: run `make golden` and read what it writes"
    assert content == path.read_bytes(), f"{name}: run `make golden` and review the difference"


def check_json(name: str, content: Any) -> None:
    """`check`, for a value, written so that a difference can be read."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    check(name, text.encode("utf-8"))
