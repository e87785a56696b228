"""The head of the audit, noted in the data folder: what the database cannot forget about itself.

Whoever can write to the database alone can make a whole chain anew, or cut off its end and move
`audit_head` back; against the note both show. Whoever can write to the data folder as well can
change both: against that, note the head somewhere else (`orchestrator audit verify` prints it, and
takes it back as `--head`).
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.audit.log import ChainHead
from orchestrator.settings import SettingsError
from orchestrator.store.private_files import read_text, write_private

_FILE = "audit-head"
_HASH_CHARS = 64


def read_anchor(data_dir: Path) -> ChainHead | None:
    """The head noted last; `None` before the first. Raises: SettingsError."""
    try:
        return parse_head(read_text(data_dir / _FILE, "data_dir"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SettingsError(f"`{data_dir / _FILE}` is damaged: {error}") from error


def write_anchor(data_dir: Path, head: ChainHead) -> None:
    """Notes `head`. Raises: SettingsError."""
    write_private(data_dir / _FILE, format_head(head) + "\n", "data_dir")


def format_head(head: ChainHead) -> str:
    """`<number>:<hash>`."""
    return f"{head.seq}:{head.hash.hex()}"


def parse_head(text: str) -> ChainHead:
    """What `format_head` wrote. Raises: ValueError."""
    number, _, digest = text.partition(":")
    if not number.isascii() or not number.isdigit() or len(digest) != _HASH_CHARS:
        raise ValueError(f"`{text}` is not `<number>:<64 hexadecimal digits>`")
    return ChainHead(int(number), bytes.fromhex(digest))
