"""What fronts tell the mirror: copies of requests with the answers that were given, and how busy they are.

Frames of `mldeploy.runtime.frames` on the Unix stream socket `run/copies.sock`:

    front → mirror   kind REQUEST_V2. `header`: bytes of an envelope in JSON at the head of the body.
        flags COPY   envelope Copy, then the body of the request, then the body of the answer; `budget` is the
                     microseconds the answer took
        flags PULSE  envelope Pulse, and nothing else
    mirror → front   kind RESPONSE, no body: `status` 503, send no copies for shadows; 200, send them again

Both sides are of one release: the keeper replaces them together.
Left out: who sends when (`front/mirror.py`), and what becomes of it (`mirror/`).
"""

from __future__ import annotations

import msgspec

from mldeploy.runtime.frames import HEADER, REQUEST_V2, RESPONSE

#: Where the mirror hears, relative to the state folder.
COPIES = "run/copies.sock"
COPY, PULSE = 0, 1
PAUSE, RESUME = 503, 200
#: Microseconds, in the 32 bits a frame has.
_LONGEST = (1 << 32) - 1


class Copy(msgspec.Struct, array_like=True):
    """One answered request."""

    model: str
    version: int  # that answered
    request: int  # bytes of its body
    binary: int = 0  # bytes of the JSON header of a binary-tensor body; 0: plain JSON
    answer_binary: int = 0
    shadows: tuple[str, ...] = ()  # the ids of those it was chosen for
    open: tuple[str, ...] = ()  # and of those whose criterion its inputs decide
    sampled: bool = False  # for drift
    headers: dict[str, str] = {}  # those that a criterion names which the headers did not decide


class Pulse(msgspec.Struct, array_like=True):
    """What one front's stable versions have answered since the last one."""

    answers: dict[str, tuple[int, float]]  # by `churn@7`: how many, and the sum of their seconds


_encode = msgspec.json.encode


def copy_parts(copy: Copy, seconds: float, request: bytes, answer: bytes) -> tuple[bytes, ...]:
    """The frame of a copy, to be sent one after the other."""
    envelope = _encode(copy)
    length = len(envelope) + len(request) + len(answer)
    micros = min(_LONGEST, int(seconds * 1e6))
    return HEADER.pack(length, REQUEST_V2, COPY, 200, 0, micros, len(envelope)), envelope, request, answer


def pulse_frame(pulse: Pulse) -> bytes:
    """The frame of a pulse."""
    envelope = _encode(pulse)
    return HEADER.pack(len(envelope), REQUEST_V2, PULSE, 0, 0, 0, len(envelope)) + envelope


def word_frame(status: int) -> bytes:
    """The frame that pauses or resumes."""
    return HEADER.pack(0, RESPONSE, 0, status, 0, 0, 0)
