"""The process of a front: `python -m mldeploy_daemon.front`, started by the keeper.

The control socket is bound before the table is first read, and connections are accepted only after that: so
a front either reads a new table or is told of it. SIGTERM and SIGINT: accept no more, finish, exit 0.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys

import uvloop

from mldeploy.errors import DaemonError
from mldeploy_daemon.front.accept import Acceptor
from mldeploy_daemon.front.config import FrontConfig, read_config
from mldeploy_daemon.front.control import Control
from mldeploy_daemon.front.http import Connection
from mldeploy_daemon.front.server import Front

log = logging.getLogger(__name__)


def main() -> int:
    """Serve until told to stop. Returns the exit code: 0; 78 where starting again would not help; else 1."""
    try:
        config = read_config(os.environ)
        level = logging.getLevelNamesMapping().get(config.log_level.upper(), logging.INFO)
        logging.basicConfig(stream=sys.stderr, level=level, format="front: %(levelname)s %(message)s")
        os.chdir(config.state)
        listener = socket.socket(fileno=config.listen_fd)
        uvloop.run(serve(config, listener))
    except DaemonError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return os.EX_CONFIG
    except OSError as error:
        print(f"error: the front cannot start: {error}\nhint: see {config.state}", file=sys.stderr)
        return 1
    return 0


async def serve(config: FrontConfig, listener: socket.socket) -> None:
    """Everything between the start of the event loop and its end. Raises OSError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    front = Front(config)
    control = Control(front, front.path)
    await control.start()
    front.reload()
    front.start()
    acceptor = Acceptor(listener, lambda: Connection(front), lambda: _admit(front))
    acceptor.start()
    gc.freeze()  # what is here stays: the collector need not look at it while requests wait
    await stop.wait()
    await acceptor.stop()
    await front.stop()
    control.close()


def _admit(front: Front) -> bool:
    if len(front.connections) >= front.limits.connections:
        front.metrics.refused += 1
        return False
    front.metrics.connections += 1
    return True


if __name__ == "__main__":
    sys.exit(main())
