"""Standard streams that are fit to be written to, whatever the caller made of them.

Rules: one that is closed leads nowhere, as with `> /dev/null`: what a command did is done, and its exit code
says so. A character that the encoding of a stream lacks is shown by its number.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Any, TextIO


def mend() -> None:
    """Before anything else is opened: the next file would get the number of a stream that is closed."""
    for number in (0, 1, 2):
        _fill(number)
    sys.stdin = sys.stdin or _opened(0, "r")
    sys.stdout = sys.stdout or _opened(1, "w")
    sys.stderr = sys.stderr or _opened(2, "w")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _fill(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, number)  # for our children too
        if nowhere != number:
            os.close(nowhere)


def _opened(number: int, mode: str) -> Any:
    # a stream that the interpreter found closed has no object at all
    return open(number, mode, encoding="utf-8", errors="replace", closefd=False)


def fit_for(stream: TextIO, document: str) -> str:
    """JSON that is still JSON in the stream's encoding."""
    if codecs.lookup(stream.encoding or "utf-8").name == "utf-8":
        return document
    import json
    import re

    return re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], document)
