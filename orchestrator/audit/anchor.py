"""The anchor: the head of the audit chain, saved in the data folder, outside the database.

An attacker with write access to only the database can build a new chain, or cut off its end and
move `audit_head` back; the anchor reveals both. An attacker who can also write to the data folder
can change both: against that, save the head somewhere else (`orchestrator audit verify` prints
it, and accepts it as `--head`).
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.audit.log import ChainHead
from orchestrator.settings import SettingsError
from orchestrator.store.private_files import read_text, write_private

_FILE = "audit-head"
_HASH_CHARS = 64


def read_anchor(data_dir: Path) -> ChainHead | None:
    """Returns the saved head; `None` if there is none yet. Raises: SettingsError."""
    try:
        return parse_head(read_text(data_dir / _FILE, "data_dir"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SettingsError(f"`{data_dir / _FILE}` is damaged: {error}") from error


def write_anchor(data_dir: Path, head: ChainHead) -> None:
    """Saves `head`. Raises: SettingsError."""
    write_private(data_dir / _FILE, format_head(head) + "\n", "data_dir")


def format_head(head: ChainHead) -> str:
    """Returns `<number>:<hash>`."""
    return f"{head.seq}:{head.hash.hex()}"


def parse_head(text: str) -> ChainHead:
    """Parses the text of `format_head`. Raises: ValueError."""
    number, _, digest = text.partition(":")
    if not number.isascii() or not number.isdigit() or len(digest) != _HASH_CHARS:
        raise ValueError(f"`{text}` is not `<number>:<64 hexadecimal digits>`")
    return ChainHead(int(number), bytes.fromhex(digest))
