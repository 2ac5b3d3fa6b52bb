"""Quick loading: transactions of many puts, many in flight, the same for every kind of server."""

import asyncio
from collections.abc import Callable, Iterator, Sequence

import uvloop

from benchmarks.cases import VALUE
from benchmarks.load import LoadError
from harness.fastgrpc import FastConnection
from ratifyd.keys import prefix_end
from ratifyd.proto import rpc_pb2

TXN = "/etcdserverpb.KV/Txn"
RANGE = "/etcdserverpb.KV/Range"
PREFIX = b"space/"
PUTS = 100
"""Puts in a transaction; etcd's limit is 128."""
CONNECTIONS = 4
IN_FLIGHT = 32
ANNOUNCED = 200
"""Transactions between two words about how far loading is."""

Share = Callable[[float], None]
"""Told from time to time which share of the work is done."""


def space_key(number: int) -> bytes:
    """Key of a row of the big keyspaces; all have the same length."""
    return b"space/%010d" % number


def requests(keys: int) -> Iterator[bytes]:
    """Txn messages that put every key once, in order."""
    sample = rpc_pb2.PutRequest(key=space_key(0), value=VALUE)
    put = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=sample)]).SerializeToString()
    head, tail = put.split(space_key(0))
    for start in range(0, keys, PUTS):
        numbers = range(start, min(start + PUTS, keys))
        yield b"".join([head + space_key(number) + tail for number in numbers])


def _silent(_: float) -> None:
    """For those who do not want to know."""


async def _send(endpoint: str, messages: Iterator[bytes], total: int, share: Share) -> None:
    connections = [await FastConnection.connect(endpoint) for _ in range(CONNECTIONS)]
    done = 0

    async def send(connection: FastConnection) -> None:
        nonlocal done
        for message in messages:
            answer = await connection.unary(TXN, message)
            if answer.code:
                raise LoadError(f"a transaction was answered {answer.code} {answer.text}")
            done += 1
            if not done % ANNOUNCED:
                share(done / total)

    try:
        await asyncio.gather(*(send(connections[number % CONNECTIONS]) for number in range(IN_FLIGHT)))
    finally:
        for connection in connections:
            connection.close()


def send_all(endpoint: str, messages: Sequence[bytes]) -> None:
    """Send transactions, many in flight; LoadError when one was refused."""
    uvloop.run(_send(endpoint, iter(messages), len(messages), _silent))


async def _count(endpoint: str) -> int:
    connection = await FastConnection.connect(endpoint)
    try:
        request = rpc_pb2.RangeRequest(key=PREFIX, range_end=prefix_end(PREFIX), count_only=True)
        answer = await connection.unary(RANGE, request.SerializeToString())
        return int(rpc_pb2.RangeResponse.FromString(answer.message).count)
    finally:
        connection.close()


def load_keys(endpoint: str, keys: int, share: Share, times: int = 1) -> None:
    """Put `keys` keys, `times` times over; LoadError when one was refused or is not there."""
    each = -(-keys // PUTS)
    messages = (message for _ in range(times) for message in requests(keys))
    uvloop.run(_send(endpoint, messages, each * times, share))
    found = uvloop.run(_count(endpoint))
    if found != keys:
        raise LoadError(f"{found} of {keys} keys are there")
