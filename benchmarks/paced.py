"""A light load at fixed times, as a process of its own: `python -m benchmarks.paced ENDPOINT KEYS RATE`.

Runs until its standard input ends, then prints every request as JSON: when it was due and how long after that it was
answered. The next request leaves when it is due, whether or not the last one has been answered.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence

import uvloop

from benchmarks.bulk import RANGE, space_key
from benchmarks.cases import VALUE
from benchmarks.load import LoadError
from harness.fastgrpc import Answer, FastConnection
from ratifyd.proto import rpc_pb2

PUT = "/etcdserverpb.KV/Put"
CONNECTIONS = 4


class Paced:
    """Sends what is due and notes how late each answer was."""

    def __init__(self, connections: Sequence[FastConnection], keys: int, rate: float) -> None:
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._keys = keys
        self._pause = 1 / rate
        self._draw = random.Random(1)
        self._number = 0
        self._began = time.monotonic()
        self._waiting: set[asyncio.Future[Answer]] = set()
        self.requests: list[tuple[float, float]] = []
        self.refused: list[Answer] = []
        self.over = False

    def send_due(self) -> None:
        """Send every request that is due, and come back when the next one is."""
        while not self.over:
            due = self._began + self._number * self._pause
            if due > time.monotonic():
                self._loop.call_later(due - time.monotonic(), self.send_due)
                return
            self._send(due)

    def _send(self, due: float) -> None:
        key = space_key(self._draw.randrange(self._keys))
        connection = self._connections[self._number % len(self._connections)]
        self._number += 1
        if self._draw.random() < 0.5:
            answer = connection.unary(RANGE, rpc_pb2.RangeRequest(key=key).SerializeToString())
        else:
            answer = connection.unary(PUT, rpc_pb2.PutRequest(key=key, value=VALUE).SerializeToString())
        self._waiting.add(answer)
        answer.add_done_callback(lambda done: self._answered(done, due))

    def _answered(self, answer: "asyncio.Future[Answer]", due: float) -> None:
        self._waiting.discard(answer)
        self.requests.append((due, (time.monotonic() - due) * 1e6))
        if answer.result().code:
            self.refused.append(answer.result())

    async def finish(self) -> None:
        """Send no more; wait for the answers still due."""
        self.over = True
        if self._waiting:
            await asyncio.wait(self._waiting)


async def _main(endpoint: str, keys: int, rate: float) -> list[tuple[float, float]]:
    connections = [await FastConnection.connect(endpoint) for _ in range(CONNECTIONS)]
    paced = Paced(connections, keys, rate)
    paced.send_due()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await paced.finish()
    for connection in connections:
        connection.close()
    if paced.refused:
        raise LoadError(f"{len(paced.refused)} requests were refused: {paced.refused[0]}")
    return paced.requests


def main(argv: Sequence[str]) -> None:
    """Run until standard input ends; print the requests."""
    endpoint, keys, rate = argv
    sys.stdout.write(json.dumps(uvloop.run(_main(endpoint, int(keys), float(rate)))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
