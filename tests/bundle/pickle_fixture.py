"""A class whose pickle a folder source brings, with this module as its code."""

from __future__ import annotations

from typing import Any


class Constant:
    """Answers one value."""

    def __init__(self, value: int) -> None:
        self.value = value

    def predict(self, x: Any) -> Any:
        return x[:, 0] * 0 + self.value
