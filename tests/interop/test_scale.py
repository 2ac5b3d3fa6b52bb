"""Many streams, large values and many watchers, with sizes kept small unless --full is given."""

import asyncio
from collections.abc import Iterator

import pytest

from harness.fastgrpc import Call, FastConnection
from harness.outcomes import get, put
from harness.servers import EtcdServer
from harness.stubs import Client
from ratifyd.proto import rpc_pb2

_PUT, _RANGE, _WATCH = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range", "/etcdserverpb.Watch/Watch"


@pytest.fixture(scope="session")
def client(server: EtcdServer) -> Iterator[Client]:
    with Client(server.client_endpoint) as stubs:
        yield stubs


def _put(key: bytes, value: bytes = b"") -> bytes:
    return rpc_pb2.PutRequest(key=key, value=value).SerializeToString()


def _create(key: bytes, range_end: bytes = b"") -> bytes:
    create = rpc_pb2.WatchCreateRequest(key=key, range_end=range_end)
    return rpc_pb2.WatchRequest(create_request=create).SerializeToString()


async def _until(calls: list[Call], counts: list[int], wanted: int, timeout_s: float) -> None:
    """Wait until every call has received `wanted` messages."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while min(counts) < wanted:
        assert asyncio.get_running_loop().time() < deadline, (
            f"{sum(count >= wanted for count in counts)} of {len(calls)}"
        )
        await asyncio.sleep(0.01)


def test_a_mebibyte_both_ways(client: Client, prefix: str) -> None:
    value = bytes(range(256)) * 4096
    for number in range(8):
        put(client, f"{prefix}{number}".encode(), value)
    answer = get(client, prefix.encode(), prefix[:-1].encode() + b"0")
    assert [kv.value == value for kv in answer.kvs] == [True] * 8


def test_mebibytes_at_the_same_time(server: EtcdServer, prefix: str) -> None:
    async def script() -> None:
        connection = await FastConnection.connect(server.client_endpoint)
        keys = [f"{prefix}{number}".encode() for number in range(16)]
        puts = await asyncio.gather(*(connection.unary(_PUT, _put(key, key * 100_000)) for key in keys))
        assert {answer.code for answer in puts} == {0}
        requests = [rpc_pb2.RangeRequest(key=key).SerializeToString() for key in keys]
        gets = await asyncio.gather(*(connection.unary(_RANGE, request) for request in requests))
        for key, answer in zip(keys, gets):
            assert rpc_pb2.RangeResponse.FromString(answer.message).kvs[0].value == key * 100_000
        connection.close()

    asyncio.run(asyncio.wait_for(script(), 60))


def test_a_thousand_calls_at_once_on_one_connection(server: EtcdServer, prefix: str) -> None:
    async def script() -> None:
        connection = await FastConnection.connect(server.client_endpoint)
        requests = [_put(f"{prefix}{number % 50}".encode(), b"%d" % number) for number in range(1000)]
        answers = await asyncio.gather(*(connection.unary(_PUT, request) for request in requests))
        assert {answer.code for answer in answers} == {0}
        revisions = [rpc_pb2.PutResponse.FromString(answer.message).header.revision for answer in answers]
        assert sorted(revisions) == list(range(min(revisions), min(revisions) + 1000))
        connection.close()

    asyncio.run(asyncio.wait_for(script(), 60))


def test_many_connections(server: EtcdServer, prefix: str) -> None:
    async def script() -> None:
        connections = [await FastConnection.connect(server.client_endpoint) for _ in range(200)]
        calls = [each.unary(_PUT, _put(f"{prefix}{at}".encode())) for at, each in enumerate(connections)]
        assert {answer.code for answer in await asyncio.gather(*calls)} == {0}
        for each in connections:
            each.close()

    asyncio.run(asyncio.wait_for(script(), 60))


async def _watch_streams(endpoint: str, prefix: str, streams: int, puts: int) -> None:
    """Every stream has one watcher on a key of its own, and every key is put `puts` times."""
    connection = await FastConnection.connect(endpoint)
    counts = [0] * streams

    def counter(at: int) -> None:
        counts[at] += 1

    calls = [connection.open(_WATCH, lambda _, at=at: counter(at)) for at in range(streams)]  # type: ignore[misc]
    for at, call in enumerate(calls):
        call.send(_create(f"{prefix}{at}".encode()))
    await _until(calls, counts, 1, 60)
    for _ in range(puts):
        requests = [_put(f"{prefix}{at}".encode()) for at in range(streams)]
        await asyncio.gather(*(connection.unary(_PUT, request) for request in requests))
    await _until(calls, counts, 1 + puts, 60)
    assert set(counts) == {1 + puts}
    connection.close()


async def _watchers_on_one_stream(endpoint: str, prefix: str, watchers: int) -> None:
    """All watchers see one key; one put reaches all."""
    connection = await FastConnection.connect(endpoint)
    counts = [0]
    seen: set[int] = set()

    def received(message: bytes) -> None:
        counts[0] += 1
        response = rpc_pb2.WatchResponse.FromString(message)
        if response.events:
            seen.add(response.watch_id)

    call = connection.open(_WATCH, received)
    for _ in range(watchers):
        call.send(_create(prefix.encode()))
    await _until([call], counts, watchers, 60)
    await connection.unary(_PUT, _put(prefix.encode()))
    await _until([call], counts, 2 * watchers, 60)
    assert seen == set(range(watchers))
    connection.close()


def test_many_watch_streams(server: EtcdServer, prefix: str) -> None:
    asyncio.run(_watch_streams(server.client_endpoint, prefix, 500, 2))


def test_many_watchers_on_one_stream(server: EtcdServer, prefix: str) -> None:
    asyncio.run(_watchers_on_one_stream(server.client_endpoint, prefix, 1_000))


@pytest.mark.slow
def test_ten_thousand_watch_streams(server: EtcdServer, prefix: str) -> None:
    asyncio.run(_watch_streams(server.client_endpoint, prefix, 10_000, 2))


@pytest.mark.slow
def test_ten_thousand_watchers_on_one_stream(server: EtcdServer, prefix: str) -> None:
    asyncio.run(_watchers_on_one_stream(server.client_endpoint, prefix, 10_000))


def test_a_reader_that_does_not_read_holds_nobody_up(server: EtcdServer, client: Client, prefix: str) -> None:
    """One stream's client stops reading while others go on; when it reads again nothing is lost."""

    async def script() -> None:
        stuck = await FastConnection.connect(server.client_endpoint)
        revisions: list[int] = []

        def received(message: bytes) -> None:
            revisions.extend(event.kv.mod_revision for event in rpc_pb2.WatchResponse.FromString(message).events)

        call = stuck.open(_WATCH, received)
        call.send(_create(prefix.encode()))
        await stuck.unary(_RANGE, rpc_pb2.RangeRequest(key=b"a").SerializeToString())
        stuck._transport.pause_reading()
        writer = await FastConnection.connect(server.client_endpoint)
        written: list[int] = []
        for _ in range(60):
            answer = await writer.unary(_PUT, _put(prefix.encode(), b"x" * 500_000))
            assert answer.code == 0, answer.text
            written.append(rpc_pb2.PutResponse.FromString(answer.message).header.revision)
        stuck._transport.resume_reading()
        deadline = asyncio.get_running_loop().time() + 30
        while len(revisions) < len(written):
            assert asyncio.get_running_loop().time() < deadline, f"{len(revisions)} of {len(written)}"
            await asyncio.sleep(0.01)
        assert revisions == written
        stuck.close()
        writer.close()

    asyncio.run(asyncio.wait_for(script(), 60))
