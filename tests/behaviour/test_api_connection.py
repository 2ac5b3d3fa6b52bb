"""What a connection is told and allowed: streams, pings, keepalive; and addresses shared with others."""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import grpc
import pytest

from harness.servers import EtcdServer, StartFailed, free_port
from harness.stubs import Client, Stub
from harness.wire import DATA, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WAIT_S, Wire
from ratifyd.proto.rpc_pb2 import PutRequest, RangeRequest, WatchCreateRequest, WatchRequest

StartServer = Callable[..., tuple[EtcdServer, Client]]
Connect = Callable[[EtcdServer], Wire]
MAX_CONCURRENT_STREAMS, REFUSED_STREAM, ENHANCE_YOUR_CALM = 3, 7, 11
RANGE = "/etcdserverpb.KV/Range"


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as stack:

        def make(server: EtcdServer) -> Wire:
            wire = Wire(server)
            stack.callback(wire.close)
            return wire

        yield make


def settings(wire: Wire) -> dict[int, int]:
    _, _, payload = wire.take(SETTINGS)
    return dict(struct.iter_unpack(">HI", payload))


@pytest.mark.only("ratifyd")  # the flag came with etcd 3.5.5
def test_streams_above_the_limit_are_refused(start_server: StartServer, connect: Connect) -> None:
    server, _ = start_server("--max-concurrent-streams=2")
    wire = connect(server)
    assert settings(wire)[MAX_CONCURRENT_STREAMS] == 2
    for stream_id in (1, 3, 5):
        wire.open(stream_id)
    assert wire.take(RST_STREAM) == (RST_STREAM, 5, struct.pack(">I", REFUSED_STREAM))
    wire.send(RST_STREAM, 0, 1, struct.pack(">I", 8))
    wire.open(7, RANGE)
    wire.send(DATA, 1, 7, struct.pack(">BI", 0, 0))
    kind, stream_id, _ = wire.take(HEADERS, RST_STREAM)
    assert (kind, stream_id) == (HEADERS, 7)
    assert settings(connect(server))  # another connection has a limit of its own


def test_compressed_requests(server: EtcdServer, prefix: bytes) -> None:
    key = prefix + b"k"
    with grpc.insecure_channel(server.client_endpoint, compression=grpc.Compression.Gzip) as channel:
        kv, watch = Stub(channel, "etcdserverpb.KV"), Stub(channel, "etcdserverpb.Watch")
        kv.Put(PutRequest(key=key, value=bytes(1_000_000)), timeout=WAIT_S)
        (found,) = kv.Range(RangeRequest(key=key), timeout=WAIT_S).kvs
        assert found.value == bytes(1_000_000)
        created = WatchRequest(create_request=WatchCreateRequest(key=key, start_revision=found.mod_revision))
        created.create_request.filters.extend([WatchCreateRequest.NODELETE] * 100)
        events = watch.Watch(iter([created]), timeout=WAIT_S)
        assert next(events).created and next(events).events[0].kv.key == key
        events.cancel()
        with pytest.raises(grpc.RpcError) as refused:
            kv.Put(PutRequest(key=key, value=bytes(3 << 20)), timeout=WAIT_S)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as refused:
            kv.Range(RangeRequest(key=key * 100), timeout=WAIT_S, compression=grpc.Compression.Deflate)
        assert refused.value.details() == 'grpc: Decompressor is not installed for grpc-encoding "deflate"'
        unknown = channel.unary_unary("/nobody/Knows")
        with pytest.raises(grpc.RpcError) as refused:
            unknown(bytes(1_000), timeout=WAIT_S)
        assert refused.value.details() == "unknown service nobody"


@pytest.mark.only("ratifyd")
def test_no_limit_of_streams_is_not_announced(server: EtcdServer, start_server: StartServer, connect: Connect) -> None:
    assert MAX_CONCURRENT_STREAMS not in settings(connect(server))
    without, _ = start_server("--max-concurrent-streams=0")
    wire = connect(without)
    assert MAX_CONCURRENT_STREAMS not in settings(wire)
    for stream_id in range(1, 999, 2):
        wire.open(stream_id)
    wire.open(999, RANGE)
    wire.send(DATA, 1, 999, struct.pack(">BI", 0, 0))
    assert wire.take(HEADERS, RST_STREAM)[:2] == (HEADERS, 999)


def ping_until_told(wire: Wire, gap_s: float, limit: int) -> int | None:
    """Ping at intervals; the number of pings after which the server says GOAWAY, None if it does not."""
    for count in range(1, limit + 1):
        wire.send(PING, 0, 0, bytes(8))
        wire._socket.settimeout(gap_s)
        try:
            _, _, payload = wire.take(GOAWAY)
        except TimeoutError:
            continue
        finally:
            wire._socket.settimeout(WAIT_S)
        assert struct.unpack_from(">I", payload, 4) == (ENHANCE_YOUR_CALM,)
        assert payload[8:] == b"too_many_pings"
        assert wire.at_end()
        return count
    return None


@pytest.mark.parametrize("busy", [False, True])
def test_too_many_pings(server: EtcdServer, connect: Connect, busy: bool) -> None:
    """The first is free, three strikes are too many."""
    wire = connect(server)
    settings(wire)
    if busy:
        wire.open(1)
    assert ping_until_told(wire, 0.05, 8) == 4


@pytest.mark.parametrize(("min_time", "busy", "told"), [("50ms", True, None), ("50ms", False, 4), ("0s", True, 4)])
def test_how_often_one_may_ping(
    start_server: StartServer, connect: Connect, min_time: str, busy: bool, told: int | None
) -> None:
    """Without a stream every two hours, whatever is set; and a time that is none means five minutes."""
    server, _ = start_server(f"--grpc-keepalive-min-time={min_time}")
    wire = connect(server)
    settings(wire)
    if busy:
        wire.open(1)
    assert ping_until_told(wire, 0.15, 6) == told


def test_a_silent_client_is_pinged_then_left(start_server: StartServer, connect: Connect) -> None:
    """Every second at most, though less was asked for."""
    server, _ = start_server("--grpc-keepalive-interval=100ms", "--grpc-keepalive-timeout=300ms")
    began = time.monotonic()
    silent, polite = connect(server), connect(server)
    for wire in (silent, polite):
        kind, _, payload = wire.take(PING, GOAWAY)
        assert kind == PING
        if wire is polite:
            wire.send(PING, 1, 0, payload)
    assert time.monotonic() - began > 0.9
    assert silent.at_end()
    assert polite.take(PING, GOAWAY)[0] == PING


def test_a_port_shared_with_another_process(kind: str) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", free_port()))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartFailed, match="address already in use"):
            EtcdServer(kind, client_port=port)
        with EtcdServer(kind, ["--socket-reuse-port", "--socket-reuse-address"], client_port=port) as server:
            assert server.running
