"""`ports.PeerCalls`: requests to the HTTP side of other members, answered through a callback."""

import asyncio
from collections.abc import Callable, Sequence

from ratifyd.peer.client import PeerClient
from ratifyd.peer.connection import PeerUnreachable


class Calls:
    """Calls made for a member; `PeerTransport.client` or a client of its own carries them."""

    def __init__(self, client: PeerClient) -> None:
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()

    def call(
        self,
        urls: Sequence[str],
        method: str,
        path: str,
        body: bytes,
        timeout_s: float,
        done: Callable[[int, bytes], None],
    ) -> None:
        """Ask the first of the peer URLs that answers; `done(status, body)`, status 0 when none did in time."""
        task = asyncio.get_running_loop().create_task(self._call(urls, method, path, body, timeout_s, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Give up on all calls; their callbacks are not called."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    async def _call(
        self,
        urls: Sequence[str],
        method: str,
        path: str,
        body: bytes,
        timeout_s: float,
        done: Callable[[int, bytes], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        for url in urls:
            left = deadline - loop.time()
            if left <= 0:
                break
            try:
                answer = await self._client.request(method, url, path, body=body, timeout_s=left)
            except (PeerUnreachable, ValueError):
                continue
            done(answer.status, answer.body)
            return
        done(0, b"")
