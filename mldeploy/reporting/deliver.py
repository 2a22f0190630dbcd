"""Delivery in a process of its own: `python -m mldeploy.reporting.deliver` reads a Delivery from standard
input and writes one line of JSON for each target as it is through with it.

A process, because a target may hang wherever it likes and Apprise's plugins are many hands' work: `deliver`
ends it when its time is over, knows what arrived until then, and nothing of it stays in the caller's memory
or logs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed

import msgspec

from mldeploy.errors import NotificationError
from mldeploy.reporting.message import Message
from mldeploy.reporting.targets import Secrets

#: Seconds for all targets together.
TIME = 60.0
#: Seconds after which the process ends itself, should nobody be left to end it.
_LAST = 120
#: Targets at a time.
_THREADS = 8


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A message and the URLs it is for, by name, with their placeholders."""

    message: Message
    targets: dict[str, str]
    owner_at: str = ""  # the target whose mail also goes to the owner


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one target. Without an error it arrived."""

    target: str
    error: str = ""
    hint: str = ""
    note: str = ""  # arrived, and yet there is something to say
    #: With an error: recipients that have it all the same, as `message.mark` names them.
    took: tuple[str, ...] = ()


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all of them."""

    reached: tuple[str, ...] = ()
    failed: dict[str, NotificationError] = {}
    notes: dict[str, str] = {}
    took: tuple[str, ...] = ()  # recipients that were reached at targets that failed: `Message.had` next time


def deliver(
    message: Message,
    targets: Mapping[str, str],
    *,
    owner_at: str | None = None,
    environ: Mapping[str, str] | None = None,
    time: float = TIME,
) -> Sent:
    """Send `message` to every target, in at most `time` seconds. Raises nothing: what failed is a result.

    The secrets come from `environ` (default: this process's environment). The mail of the target `owner_at`
    (default: the first mail target by name) goes to the bundle's owner as well.
    """
    if not targets:
        return Sent()
    owner_at = first_mail(targets) if owner_at is None else owner_at
    data = msgspec.json.encode(Delivery(message=message, targets=dict(targets), owner_at=owner_at))
    command = [sys.executable, "-P", "-m", __name__]
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=time, check=False, start_new_session=True,
            env=dict(os.environ if environ is None else environ),
        )  # fmt: skip
        said, why = done.stdout, f"the sending process ended with {done.returncode}"
    except subprocess.TimeoutExpired as error:
        said, why = error.stdout or b"", f"no answer within {time:.0f} s"
    except OSError as error:
        said, why = b"", f"the sending process cannot be started: {error}"
    return _read(said, targets, why)


def first_mail(targets: Mapping[str, str]) -> str:
    """The name of the mail target that the owner's copy goes through: the first by name; empty if none."""
    mails = (name for name in sorted(targets) if targets[name].startswith(("mailto://", "mailtos://")))
    return next(mails, "")


def _read(said: bytes, targets: Mapping[str, str], why: str) -> Sent:
    results: dict[str, Result] = {}
    for line in said.splitlines():
        try:
            result = msgspec.json.decode(line, type=Result)
        except msgspec.MsgspecError:  # cut off, or a plugin's print
            continue
        results[result.target] = result
    failed = {}
    for name in targets:
        result = results.get(name, Result(target=name, error=why, hint="it is tried again"))
        if result.error:
            failed[name] = NotificationError(result.error, result.hint)
    return Sent(
        reached=tuple(name for name in sorted(targets) if name not in failed),
        failed=failed,
        notes={name: result.note for name, result in results.items() if result.note},
        took=tuple(sorted({each for result in results.values() for each in result.took})),
    )


def main() -> int:
    """The process. Its only output is results; what libraries print goes nowhere."""
    from mldeploy.reporting.send import prepare

    out = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    signal.alarm(_LAST)
    delivery = msgspec.json.decode(sys.stdin.buffer.read(), type=Delivery)
    prepare()  # in one thread: imports and first uses are not for several
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(_one, delivery, name) for name in sorted(delivery.targets)]
        for future in as_completed(futures):
            out.write(msgspec.json.encode(future.result()) + b"\n")
    return 0


def _one(delivery: Delivery, name: str) -> Result:
    from mldeploy.reporting.send import send

    message = delivery.message
    if name != delivery.owner_at:
        message = msgspec.structs.replace(message, owner="")
    try:
        said = send(delivery.targets[name], message, Secrets(os.environ))
    except NotificationError as error:
        return Result(target=name, error=error.message or "it failed", hint=error.hint)
    hint = "the others have it; it is tried again for these" if said.later else ""
    return Result(target=name, error=said.later, hint=hint, note=said.note, took=said.took)


if __name__ == "__main__":
    sys.exit(main())
