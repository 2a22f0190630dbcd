"""Reports as they are read by everybody, decoded once.

Fifty hosts read the same bytes, again and again; values are frozen, so they may share them.
"""

from __future__ import annotations

from typing import Any, Protocol


class Decodes(Protocol):
    """A decoder of msgspec."""

    def decode(self, data: bytes) -> Any:
        """Raises msgspec.MsgspecError."""


class Decoded:
    """A decoder that remembers what it made of which bytes; of the last few thousand."""

    def __init__(self, decoder: Decodes, most: int = 4096) -> None:
        self._decoder, self._most = decoder, most
        self._known: dict[bytes, Any] = {}

    def decode(self, data: bytes) -> Any:
        """As the decoder does."""
        found = self._known.get(data)
        if found is None:
            found = self._known[data] = self._decoder.decode(data)
            if len(self._known) > self._most:
                del self._known[next(iter(self._known))]
        return found
