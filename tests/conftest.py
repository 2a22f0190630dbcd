from __future__ import annotations

import signal

import pytest

from tests.support.s3 import bucket, s3_environ, s3_server

__all__ = ["bucket", "s3_environ", "s3_server"]


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Commands under test can be interrupted, also where a shell's `&` has this process ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
