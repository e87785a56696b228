"""Readers: what tells tool calls from text, in one way of writing them."""

from __future__ import annotations

from typing import Protocol

from orchestrator.rendering.output_parsers.markers import SPACE, Markers
from orchestrator.rendering.output_parsers.parts import Parts


class Reader(Protocol):
    """Reads the answer of one choice into its `Parts`."""

    @property
    def held(self) -> int:
        """Characters read that may still turn out to be text."""

    def read(self, text: str) -> None:
        """More of the answer."""

    def finish(self, *, cut: bool) -> None:
        """No more comes; `cut` means that the model was not done."""


class Block(Protocol):
    """What stands behind an opening marker: calls, as far as it goes."""

    over: bool
    failed: bool

    @property
    def clean(self) -> bool:
        """Whether what was read last is part of a call, or a border between two."""

    def feed(self, text: str, at: int) -> int:
        """The place up to which `text` was read from `at` on, the end of a call at most.

        What was not read comes again with more behind it, unless the block is over or has failed:
        then it is text. Reading nothing means to wait.
        """

    def finish(self, *, cut: bool) -> None:
        """No more comes. Ends the open call, or fails."""


class Syntax(Protocol):
    """One family's way of writing calls."""

    openings: Markers

    def block(self, opening: str) -> Block:
        """What is behind `opening`."""

    def bare_block(self) -> Block | None:
        """What an answer that begins with a brace may be, where calls have no opening."""


class PlainReader:
    """Everything is text."""

    held = 0

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def read(self, text: str) -> None:
        """More of the one text part."""
        self._parts.text(text)

    def finish(self, *, cut: bool) -> None:
        """Nothing is held back."""


class ToolReader:
    """Text with tool calls in it, written as `syntax` says. O(n) overall.

    What looks like a call and is none stays text, unless its name was given out already.
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
        """Characters that may still turn out to be text."""
        if self._block is not None and (self._block.clean or self._parts.in_call):
            return 0
        return len(self._unread) + self._raw_length

    def read(self, text: str) -> None:
        """More of the answer."""
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
        """The rest, which is text where it is part of no call."""
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
        """What was read since the last call is no call."""
        if self._parts.in_call:
            self._parts.end_call()
        self._parts.text("".join(self._raw))
        self._raw.clear()
        self._raw_length = 0
