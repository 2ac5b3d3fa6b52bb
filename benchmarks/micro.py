"""Timings of hot functions: nanoseconds per operation, best of several repeats, no server and no load generator."""

import argparse
import itertools
import random
import sys
import timeit
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from time import thread_time
from typing import TypeVar

from benchmarks.load import grpc_frame
from ratifyd.apply.state import State
from ratifyd.apply.txn import parse_txn, txn
from ratifyd.keys import KeyRange, prefix_end
from ratifyd.membership import Membership
from ratifyd.mvcc.buffer import WriteBuffer
from ratifyd.mvcc.store import Store
from ratifyd.mvcc.watch import WatchHub
from ratifyd.proto import fast, light, rpc_pb2
from ratifyd.raft.codec import decode_entry, encode_entry
from ratifyd.raft.core import Raft
from ratifyd.raft.log import RaftLog
from ratifyd.raft.messages import ConfState, Entry, HardState
from ratifyd.storage.disk import OsDisk
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.wal import Wal
from ratifyd.wire.events import Call
from ratifyd.wire.grpc import GrpcConnection
from ratifyd.wire.limits import Limits

T = TypeVar("T")
Operation = Callable[[], object]
Benchmark = tuple[str, int, Operation]
"""Name, operations done by one call, the call."""

REPEATS = 5
MIN_SECONDS = 0.05
KEYS = 10_000
VALUE = b"v" * 256
BATCH = 32


class InPlaceWorker:
    """Runs each job at once, on the caller."""

    def submit(self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        done(job(), None)


class Silence:
    """A tracer that hears nothing."""

    def mark(self, name: str, **fields: object) -> None: ...


def key(number: int) -> bytes:
    return b"key/%06d" % number


def proto_benchmarks() -> Iterator[Benchmark]:
    """Messages: parsing with the protobuf runtime, answering with joined bytes."""
    put = rpc_pb2.PutRequest(key=key(1), value=VALUE).SerializeToString()
    read = rpc_pb2.RangeRequest(key=key(1)).SerializeToString()
    yield "proto: parse PutRequest", 1, lambda: rpc_pb2.PutRequest.FromString(put)
    yield "proto: read a put", 1, lambda: light.read_put(put, 0, len(put))
    yield "proto: parse RangeRequest", 1, lambda: rpc_pb2.RangeRequest.FromString(read)
    headers = fast.HeaderEncoder(2**63 + 5, 2**62 + 7)
    revisions = itertools.count(1_000_000)
    row = fast.key_value(key(1), 5, 9, 2, VALUE)
    rows = [row] * 100
    yield "proto: key_value", 1, lambda: fast.key_value(key(1), 5, 9, 2, VALUE)
    yield "proto: header of a new revision", 1, lambda: headers.header(next(revisions), 3)
    yield "proto: put_response", 1, lambda: fast.put_response(headers.header(7, 3), None)
    yield "proto: range_response, 1 key", 1, lambda: fast.range_response(headers.header(7, 3), [row], False, 1)
    yield "proto: range_response, 100 keys", 1, lambda: fast.range_response(headers.header(7, 3), rows, False, 100)


def literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing and Huffman coding (RFC 7541, 6.2.2); both under 127 bytes."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


class Serve:
    """One read with several requests, all answered, one write. Making the read costs a third of a microsecond each."""

    def __init__(self, message: bytes, reply: bytes, batch: int) -> None:
        fields = {
            b":method": b"POST",
            b":scheme": b"http",
            b":path": b"/etcdserverpb.KV/Put",
            b":authority": b"127.0.0.1:2379",
            b"content-type": b"application/grpc",
            b"te": b"trailers",
        }
        block = b"".join(literal(name, value) for name, value in fields.items())
        self._body = grpc_frame(message)
        self._headers = len(block).to_bytes(3) + b"\x01\x04"
        self._block = block + len(self._body).to_bytes(3) + b"\0\x01"
        self._reply = reply
        self._batch = batch
        self._next = 1
        self._connection = GrpcConnection(Limits())
        self._connection.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")

    def __call__(self) -> None:
        out: list[bytes] = []
        for number in range(self._next, self._next + 2 * self._batch, 2):
            stream = number.to_bytes(4)
            out += (self._headers, stream, self._block, stream, self._body)
        self._next += 2 * self._batch
        connection = self._connection
        answered = 0
        for call in connection.receive(b"".join(out)):
            assert isinstance(call, Call)
            connection.reply(call.stream_id, self._reply)
            answered += 1
        assert answered == self._batch
        connection.data_to_send()


def wire_benchmarks() -> Iterator[Benchmark]:
    """Requests through the codec, their replies out of it."""
    message = rpc_pb2.PutRequest(key=key(1), value=VALUE).SerializeToString()
    reply = fast.put_response(fast.HeaderEncoder(2**63 + 5, 2**62 + 7).header(7, 3), None)
    for batch in (1, BATCH):
        yield f"wire: receive and reply, {batch} a read", batch, Serve(message, reply, batch)


def new_store() -> Store:
    """A store of KEYS keys in memory, half of them only in the write buffer."""
    buffer = WriteBuffer(MemoryBackend(InPlaceWorker()))
    store = Store(buffer, WatchHub())
    for _ in store.restore():
        pass
    for number in range(KEYS):
        store.put(key(number), VALUE)
        if number == KEYS // 2:
            buffer.seal()
    return store


def mvcc_benchmarks() -> Iterator[Benchmark]:
    """The store over a memory backend."""
    store = new_store()
    names = itertools.cycle([key(number) for number in range(0, KEYS, 7)])
    revision = store.revision
    hundred = KeyRange.parse(key(2000), key(2100))
    thousand = KeyRange.parse(b"key/003", prefix_end(b"key/003"))
    yield "mvcc: get", 1, lambda: store.get(next(names))
    yield "mvcc: get at an old revision", 1, lambda: store.get(key(100), revision - 100)
    yield "mvcc: range, 100 keys", 1, lambda: store.range(hundred)
    yield "mvcc: range, 1,000 keys", 1, lambda: store.range(thousand)
    yield "mvcc: range read before, 1,000 keys", 1, lambda: store.range(thousand, fields=True)
    yield "mvcc: count, 1,000 keys", 1, lambda: store.count(thousand)
    yield "mvcc: put, keys in turn", 1, lambda: store.put(next(names), VALUE)
    fresh = itertools.count(KEYS)
    yield "mvcc: put, new keys", 1, lambda: store.put(key(next(fresh)), VALUE)


def new_leader() -> Raft:
    """A cluster of one that has elected itself."""
    raft = Raft(
        1,
        election_ticks=10,
        heartbeat_ticks=1,
        pre_vote=True,
        check_quorum=True,
        max_message_bytes=2**20,
        max_inflight=512,
        max_uncommitted_bytes=2**30,
        random=random.Random(1),
        log=RaftLog(),
        hard_state=HardState(),
        conf_state=ConfState(voters=(1,)),
        applied=0,
        tracer=Silence(),
    )
    raft.campaign()
    drive(raft)
    assert raft.leader_id == 1
    return raft


def drive(raft: Raft) -> None:
    """Do what the readies ask for, with a log that is durable at once."""
    while (ready := raft.ready()) is not None:
        if ready.must_append:
            raft.appended(ready)
        if ready.committed:
            raft.applied_to(ready.committed[-1].index)


class Propose:
    """Entries from proposal to applied, on a log that stays short."""

    def __init__(self, batch: int) -> None:
        self._raft = new_leader()
        self._datas = [VALUE] * batch

    def __call__(self) -> None:
        raft = self._raft
        assert raft.propose(self._datas)
        drive(raft)
        if raft.log.applied - raft.log.first_index > 5_000:
            raft.compact(raft.log.applied)


def raft_benchmarks() -> Iterator[Benchmark]:
    """Consensus of one, from proposal to applied; and the bytes of entries."""
    for batch in (1, BATCH):
        yield f"raft: propose to applied, {batch} at once", batch, Propose(batch)
    entry = Entry(3, 123_456, VALUE)
    encoded = encode_entry(entry)
    yield "raft: encode_entry", 1, lambda: encode_entry(entry)
    yield "raft: decode_entry", 1, lambda: decode_entry(encoded)


class Append:
    """Appends to a log in a temporary directory, without syncing."""

    def __init__(self, batch: int) -> None:
        self._directory = TemporaryDirectory(prefix="bench-")
        path = str(Path(self._directory.name) / "wal")
        self._wal = Wal.create(OsDisk(), path, b"", worker=InPlaceWorker(), fsync=False)
        self._batch = batch
        self._index = 1

    def __call__(self) -> None:
        index = self._index
        entries = [Entry(1, number, VALUE) for number in range(index, index + self._batch)]
        self._index += self._batch
        self._wal.append(entries, HardState(1, 1, index), raise_if_failed)


def raise_if_failed(error: BaseException | None) -> None:
    if error is not None:
        raise error


def wal_benchmarks() -> Iterator[Benchmark]:
    """Framing, checksum and write of entries."""
    for batch in (1, BATCH):
        yield f"wal: append without sync, {batch} at once", batch, Append(batch)


def benchmarks() -> Iterator[Benchmark]:
    """All of them, by room."""
    yield from proto_benchmarks()
    yield from wire_benchmarks()
    yield from mvcc_benchmarks()
    yield from raft_benchmarks()
    yield from wal_benchmarks()
    yield from txn_benchmarks()


def txn_benchmarks() -> Iterator[Benchmark]:
    """Compare and swap, as the API reads it and as the state machine executes it."""
    state = State(MemoryBackend(InPlaceWorker()), Membership(1, 1, 1))
    for _ in state.restore():
        pass
    state.store.put(key(1), VALUE)
    message = swap(key(1)).SerializeToString()
    request = parse_txn(message)
    yield "txn: read a compare-and-swap", 1, lambda: parse_txn(message)
    yield "txn: apply a compare-and-swap", 1, lambda: txn(state, request, True)


def swap(name: bytes) -> rpc_pb2.TxnRequest:
    """Replace the value that is there with the same, else read the key."""
    compare = rpc_pb2.Compare
    return rpc_pb2.TxnRequest(
        compare=[compare(target=compare.VALUE, result=compare.EQUAL, key=name, value=VALUE)],
        success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=name, value=VALUE))],
        failure=[rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=name))],
    )


def reference() -> int:
    """A fixed piece of plain Python, of the kind the hot functions are made of: what their time is measured in."""
    found: dict[bytes, list[bytes]] = {}
    for number in range(100):
        name = b"%d" % (number & 15)
        found.setdefault(name, []).append(b"".join((name, b"\0", VALUE)))
    return sum(len(parts) for parts in found.values())


BOUNDS = {
    "proto: key_value": 0.1,
    "proto: read a put": 0.07,
    "proto: header of a new revision": 0.04,
    "proto: range_response, 100 keys": 1.0,
    "wire: receive and reply, 32 a read": 0.5,
    "mvcc: get": 0.1,
    "mvcc: put, keys in turn": 0.3,
    "mvcc: range, 1,000 keys": 25.0,
    "mvcc: range read before, 1,000 keys": 9.0,
    "raft: propose to applied, 1 at once": 0.9,
    "raft: propose to applied, 32 at once": 0.07,
    "wal: append without sync, 32 at once": 0.25,
    "txn: read a compare-and-swap": 0.45,
    "txn: apply a compare-and-swap": 0.45,
}
"""How many times as long as `reference` a hot function may take: about three times what it takes."""
CHECK_ROUNDS = 7


def too_slow(seconds: float) -> Iterator[tuple[str, float, float]]:
    """Hot functions beyond their bounds: name, ratio to the reference, bound.

    CPU time counts, reference and function take turns, and the best of each counts, so that other
    work on the machine hardly matters.
    """
    for name, operations, operation in benchmarks():
        if name not in BOUNDS:
            continue
        rounds = [
            (nanoseconds(operation, operations, seconds), nanoseconds(reference, 1, seconds))
            for _ in range(CHECK_ROUNDS)
        ]
        ratio = min(mine for mine, _ in rounds) / min(plain for _, plain in rounds)
        sys.stdout.write(f"{name:<48}{ratio:>10.3f} of {BOUNDS[name]:.3f}\n")
        if ratio > BOUNDS[name]:
            yield name, ratio, BOUNDS[name]


def nanoseconds(operation: Operation, operations: int, seconds: float) -> float:
    """Best nanoseconds of CPU per operation of several repeats that take at least `seconds` each."""
    timer = timeit.Timer(operation, timer=thread_time)
    number = 1
    while (elapsed := timer.timeit(number)) < seconds:
        number = max(number * 2, int(number * seconds / max(elapsed, 1e-9)))
    best = min(timer.repeat(REPEATS, number))
    return best / number / operations * 1e9


def main(argv: Sequence[str]) -> int:
    """Print one line for each benchmark whose name matches."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks micro", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of names, such as 'mvcc*'")
    parser.add_argument("--seconds", type=float, default=MIN_SECONDS, help="shortest repeat (default 0.05)")
    parser.add_argument("--check", action="store_true", help="fail if a hot function is slower than its bound")
    arguments = parser.parse_args(argv)
    if arguments.check:
        slow = list(too_slow(arguments.seconds))
        for name, ratio, bound in slow:
            sys.stdout.write(f"{name} takes {ratio:.3f} of the reference's time, more than {bound:.3f}\n")
        return 1 if slow else 0
    for name, operations, operation in benchmarks():
        if fnmatch(name, arguments.pattern):
            sys.stdout.write(f"{name:<48}{nanoseconds(operation, operations, arguments.seconds):>12,.0f} ns/op\n")
            sys.stdout.flush()
    return 0
