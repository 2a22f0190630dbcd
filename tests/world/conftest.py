from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """What the code under test logs, thousands of times, is not what tells a broken world."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
