"""Accepting no more connections than there is room for: whoever comes then waits in the kernel until somebody leaves.

Every connection takes a file descriptor, and a member that cannot open its own files any more has to end.
"""

import asyncio
import logging
import socket
from collections.abc import Coroutine
from functools import partial
from ssl import SSLContext
from typing import Any

from ratifyd.net.connection import Acceptor

AT_ONCE = 64
"""Connections accepted before the loop gets its turn."""
RETRY_S = 1.0
"""Pause after the system has refused a connection, mostly for want of descriptors or memory."""

log = logging.getLogger("ratifyd.net")


class LimitedAccepting:
    """Takes the connections of one listening socket for an acceptor that may be full."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, acceptor: Acceptor, ssl: SSLContext | None
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._acceptor = acceptor
        self._ssl = ssl
        self._retry: asyncio.TimerHandle | None = None
        self._stopped = False

    def start(self) -> None:
        """Accept from now on."""
        if not self._stopped:
            self._loop.add_reader(self._sock, self._accept)

    def stop(self) -> None:
        """Accept no more."""
        self._stopped = True
        self._loop.remove_reader(self._sock)
        if self._retry is not None:
            self._retry.cancel()

    def _accept(self) -> None:
        acceptor = self._acceptor
        for _ in range(AT_ONCE):
            if acceptor.is_full:
                self._loop.remove_reader(self._sock)
                acceptor.when_room(self.start)
                return
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("failed to accept a connection", extra={"fields": {"error": str(error)}})
                self._loop.remove_reader(self._sock)
                self._retry = self._loop.call_later(RETRY_S, self.start)
                return
            connection.setblocking(False)
            acceptor.arriving += 1
            self._go_on(self._arrive(connection))

    def _go_on(self, arrival: Coroutine[Any, None, None], _: object = None) -> None:
        """Run until it has to wait. It waits but once, for the next round of the loop: a Task would cost more."""
        try:
            waited_for = arrival.send(None)
        except StopIteration:
            return
        waited_for.add_done_callback(partial(self._go_on, arrival))

    async def _arrive(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._acceptor, connection, ssl=self._ssl)
        except OSError:  # it is gone already, or speaks no TLS
            connection.close()
        finally:
            self._acceptor.arrived()
