"""Taking connections off a listening socket that several fronts share.

One at a time and pass: what is not taken stays in the kernel's queue, where another front can have it, and
where it survives this process. The siblings race for each, and all but one find nothing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from mldeploy_daemon.front import answers

#: Seconds without accepting once descriptors or memory have run out.
_PAUSE = 0.25

log = logging.getLogger(__name__)


class Acceptor:
    """Makes a protocol for each connection accepted; refuses those for which `admit` says no."""

    def __init__(
        self, listener: socket.socket, make: Callable[[], asyncio.Protocol], admit: Callable[[], bool]
    ) -> None:
        self._listener = listener
        self._make = make
        self._admit = admit
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._open = False

    def start(self) -> None:
        """Accept from now on."""
        self._listener.setblocking(False)
        self._open = True
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._readable)

    async def stop(self) -> None:
        """Accept no more, and see those accepted become connections; the socket stays open for the others."""
        self._open = False
        if self._timer:
            self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        await asyncio.gather(*self._tasks)

    def _readable(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return  # a sibling was quicker, or the client gave up
        except OSError as error:
            log.error("no connection can be accepted: %s", error)
            self._rest()
            return
        client.setblocking(False)
        if not self._admit():
            _refuse(client)
            return
        task = asyncio.get_running_loop().create_task(self._connect(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, client: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make, client)
        except OSError as error:
            log.info("a connection was lost at once: %s", error)
            client.close()

    def _rest(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener.fileno())
        self._timer = loop.call_later(_PAUSE, self._again)

    def _again(self) -> None:
        if self._open:
            self.start()


def _refuse(client: socket.socket) -> None:
    with client:
        try:
            client.send(answers.refused_connection())
            client.shutdown(socket.SHUT_WR)
        except OSError as error:
            log.debug("a connection was gone before it was refused: %s", error)
