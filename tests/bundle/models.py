"""Model classes for the tests of `pack`: a local module, so that it travels in code/."""

from __future__ import annotations

from typing import Any

import numpy as np


class Linear:
    """x @ w."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def predict(self, x: Any) -> Any:
        return x @ self.weights


class Named:
    """Takes two inputs by name, gives two outputs by name."""

    def predict(self, *, age: Any, city: Any) -> dict[str, Any]:
        return {"older": age + 1, "shout": np.char.upper(city.astype(str)).astype(object)}


class Pair:
    """Gives a tuple."""

    def transform(self, x: Any) -> Any:
        return x.sum(axis=1), (x > 0).all(axis=1)


class Picky:
    """Refuses every input."""

    def predict(self, x: Any) -> Any:
        raise ValueError(f"expects 3 features, got {x.shape[1]}")


class Locked:
    """Cannot be pickled."""

    def __init__(self) -> None:
        import threading

        self.lock = threading.Lock()

    def predict(self, x: Any) -> Any:
        return x
