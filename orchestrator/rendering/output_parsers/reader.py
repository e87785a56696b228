"""Readers, which separate tool calls from text, and the protocols of their syntaxes."""

from __future__ import annotations

from typing import Protocol

from orchestrator.rendering.output_parsers.markers import SPACE, Markers
from orchestrator.rendering.output_parsers.parts import Parts


class Reader(Protocol):
    """Reads the answer of one choice into its `Parts`."""

    @property
    def held(self) -> int:
        """Number of characters read that may still turn out to be text."""

    def read(self, text: str) -> None:
        """Reads more of the answer."""

    def finish(self, *, cut: bool) -> None:
        """Ends the answer. `cut` means that the model had not finished."""


class Block(Protocol):
    """Reads the calls after an opening marker."""

    over: bool
    failed: bool

    @property
    def clean(self) -> bool:
        """Whether at least one call was read, and no call is open."""

    def feed(self, text: str, at: int) -> int:
        """Reads `text` from `at` on, at most to the end of a call; returns the end position.

        Unread text is passed again with more text after it; if the block is finished or has failed,
        it is plain text. If nothing is read, the block waits for more text.
        """

    def finish(self, *, cut: bool) -> None:
        """Ends the open call, or fails. No more text comes."""


class Syntax(Protocol):
    """The syntax of calls of one model family."""

    openings: Markers

    def block(self, opening: str) -> Block:
        """The block that reads the text after `opening`."""

    def bare_block(self) -> Block | None:
        """The block for an answer that begins with a brace; None if calls need an opening."""


class PlainReader:
    """Reads everything as text."""

    held = 0

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def read(self, text: str) -> None:
        """Adds to the one text part."""
        self._parts.text(text)

    def finish(self, *, cut: bool) -> None:
        """Does nothing: no text is held back."""


class ToolReader:
    """Reads text with tool calls in the given `syntax`. O(n) overall.

    Text that looks like a call but is not one stays text, unless its name was already passed on.
    """

    def __init__(self, parts: Parts, syntax: Syntax) -> None:
        self._parts = parts
        self._syntax = syntax
        self._at_start = True
        self._block: Block | None = None
        self._unread = ""
        self._raw: list[str] = []
        self._raw_length = 0

    @property
    def held(self) -> int:
        """Number of characters that may still turn out to be text."""
        if self._block is not None and (self._block.clean or self._parts.in_call):
            return 0
        return len(self._unread) + self._raw_length

    def read(self, text: str) -> None:
        """Reads more of the answer."""
        text, self._unread = self._unread + text, ""
        at = 0
        while at < len(text) and not self._parts.ended:
            block = self._block
            place = self._read_text(text, at) if block is None else self._read_in(block, text, at)
            if place == at and self._block is block:
                self._unread = text[at:]
                return
            at = place

    def finish(self, *, cut: bool) -> None:
        """Ends the answer. The rest is text if it is not part of a call."""
        if (block := self._block) is not None:
            if block.clean:
                return
            block.finish(cut=cut)
            if not block.failed:
                return
            self._give_up()
        self._parts.text(self._unread)

    def _read_text(self, text: str, at: int) -> int:
        if self._at_start and (core := text[at:].lstrip(SPACE)):
            self._at_start = False
            if core[0] == "{" and (bare := self._syntax.bare_block()) is not None:
                self._parts.text(text[at : len(text) - len(core)])
                self._block = bare
                return len(text) - len(core)
        start, opening = self._syntax.openings.search(text, at)
        self._parts.text(text[at:start])
        if opening:
            self._block = self._syntax.block(opening)
            self._keep(opening)
        return start + len(opening)

    def _read_in(self, block: Block, text: str, at: int) -> int:
        place = block.feed(text, at)
        if block.clean or self._parts.in_call:
            self._raw.clear()
            self._raw_length = 0
        else:
            self._keep(text[at:place])
        if block.failed:
            self._give_up()
        if block.failed or block.over:
            self._block = None
        return place

    def _keep(self, text: str) -> None:
        self._raw.append(text)
        self._raw_length += len(text)

    def _give_up(self) -> None:
        """Gives up the block: what was read since the last call becomes text."""
        if self._parts.in_call:
            self._parts.end_call()
        self._parts.text("".join(self._raw))
        self._raw.clear()
        self._raw_length = 0
