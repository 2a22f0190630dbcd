"""The process of the mirror: `python -m mldeploy_daemon.mirror`, started by the keeper.

It takes the lowest priority first: whatever else this machine has to do goes before. SIGTERM and SIGINT end
it at once, exit code 0; there is nothing to finish.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from mldeploy.core.pausing import Marks
from mldeploy_daemon.config import VARIABLE
from mldeploy_daemon.copies import COPIES
from mldeploy_daemon.front.control import MIRROR, Control
from mldeploy_daemon.mirror.inbox import Inbox
from mldeploy_daemon.mirror.mirror import LOOK, Mirror
from mldeploy_daemon.system import give_way


class MirrorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What it is told: the keys of the keeper's document it needs."""

    state: str = "."
    log_level: str = "info"
    pause: Marks = Marks()  # when shadows give way


def main() -> int:
    """Mirror until told to stop. Returns the exit code."""
    try:
        config = msgspec.json.decode(os.environ.get(VARIABLE, "{}"), type=MirrorConfig)
        level = logging.getLevelNamesMapping().get(config.log_level.upper(), logging.INFO)
        logging.basicConfig(stream=sys.stderr, level=level, format="mirror: %(levelname)s %(message)s")
        os.chdir(config.state)
        give_way(os.getpid())
        uvloop.run(serve(config.pause))
    except (OSError, msgspec.MsgspecError) as error:
        print(f"error: the mirror cannot start: {error}\nhint: see the state folder", file=sys.stderr)
        return 1
    return 0


async def serve(marks: Marks) -> None:
    """Everything between the start of the event loop and its end. Raises OSError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    mirror = Mirror(marks)
    control = Control(mirror, MIRROR)
    await control.start()
    mirror.reload()
    inboxes = await _listen(mirror)
    while not stop.is_set():
        try:
            async with asyncio.timeout(LOOK):
                await stop.wait()
        except TimeoutError:
            mirror.look(time.monotonic())
    inboxes.close()
    mirror.close()
    control.close()


async def _listen(mirror: Mirror) -> asyncio.Server:
    """Take the fronts' connections, in place of whoever had the name before."""
    path = Path(COPIES)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.unlink(missing_ok=True)
    server = await asyncio.get_running_loop().create_unix_server(lambda: Inbox(mirror), staged)
    staged.chmod(0o600)
    staged.replace(path)
    return server


if __name__ == "__main__":
    sys.exit(main())
