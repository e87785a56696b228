"""Recognises responses that differ from an earlier one only in their token."""

from __future__ import annotations

_TOKEN_BYTES = 4


class ResponseTemplate:
    """Finds the token of a response without parsing the message, once it has seen some of a stream.

    Equal messages have equal tokens. If two parsed messages differ only in the four bytes of
    their one token, those bytes are the token's: any message with the same bytes around them is
    the same message with another token. A message that differs elsewhere does not match and has
    to be parsed.
    """

    __slots__ = ("_at", "_head", "_message", "_size", "_tail", "_token")

    def __init__(self) -> None:
        self._message: bytes | None = None
        self._token = 0
        self._at = 0
        self._size = -1
        self._head = self._tail = b""

    def token(self, message: bytes) -> int | None:
        """Returns the one token of `message`, if the message matches those before."""
        if (
            len(message) == self._size
            and message.startswith(self._head)
            and message.endswith(self._tail)
        ):
            at = self._at
            return int.from_bytes(message[at : at + _TOKEN_BYTES], "little", signed=True)
        return self._token if message == self._message else None

    def learn(self, message: bytes, token: int) -> None:
        """Records that `message` was parsed and holds that one token and no other information."""
        before, self._message = self._message, message
        earlier, self._token = self._token, token
        if before is None or len(before) != len(message) or earlier == token:
            return
        raw, old = (one.to_bytes(_TOKEN_BYTES, "little", signed=True) for one in (token, earlier))
        at = message.find(raw)
        while at >= 0:
            end = at + _TOKEN_BYTES
            head, tail = message[:at], message[end:]
            if before == head + old + tail:
                self._at, self._size, self._head, self._tail = at, len(message), head, tail
                return
            at = message.find(raw, at + 1)
