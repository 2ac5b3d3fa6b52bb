"""Start two servers that must answer alike: same name, token and advertised peer URL, so the same ids."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from differential.runner import Session
from differential.sides import ANSWER_TIMEOUT_S, Side
from harness.servers import EtcdServer

_PEER_URL = "http://127.0.0.1:1"
_FLAGS = ("--unsafe-no-fsync", "--bcrypt-cost=4")


def start_pair(left: str, right: str, flags: tuple[str, ...] = ()) -> tuple[EtcdServer, EtcdServer]:
    """Two fresh one-member clusters of the given kinds, started at the same time."""

    def start(kind: str) -> EtcdServer:
        return EtcdServer(kind, [*_FLAGS, *flags], advertise_peer_url=_PEER_URL)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(start, left), pool.submit(start, right)
        try:
            return first.result(), second.result()
        except BaseException:
            for future in (first, second):
                if future.exception() is None:
                    future.result().stop()
            raise


@asynccontextmanager
async def session(
    left: str, right: str, flags: tuple[str, ...] = (), timeout_s: float = ANSWER_TIMEOUT_S
) -> AsyncIterator[Session]:
    """A session over a fresh pair, which is stopped afterwards."""
    servers = await asyncio.to_thread(start_pair, left, right, flags)
    sides: list[Side] = []
    try:
        for kind, server in zip((left, right), servers):
            sides.append(await Side.connect(kind, server.client_endpoint, timeout_s))
        yield Session(sides[0], sides[1])
    finally:
        for side in sides:
            side.close()
        for server in servers:
            await asyncio.to_thread(server.stop)
