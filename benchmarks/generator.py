"""Load that h2load cannot make: keys that differ, streams, watchers. Runs as a process of its own.

`python -m benchmarks.generator LOAD SETTING`, the latter as JSON, prints one JSON object, see `Setting`, `Figures`.
The client costs about as much processor as a server, so figures understate ratios: both sides bear it alike. Only
keep-alives (`renewals.py`) and watchers (`watching.py`) are cheap.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop

from benchmarks.bulk import space_key
from benchmarks.cases import KEYS, SHAPES, VALUE, read_key
from benchmarks.load import LoadError, Shape, percentile
from benchmarks.renewals import renew
from benchmarks.watching import Watchers
from harness.fastgrpc import Answer, FastConnection, Metadata
from ratifyd.proto import rpc_pb2

RANGE = "/etcdserverpb.KV/Range"
PUT = "/etcdserverpb.KV/Put"
DELETE = "/etcdserverpb.KV/DeleteRange"
TXN = "/etcdserverpb.KV/Txn"
GRANT = "/etcdserverpb.Lease/LeaseGrant"
REVOKE = "/etcdserverpb.Lease/LeaseRevoke"

WRITE_SHARE = 0.1
SWAP_KEYS = 1000
DELETED_AT_ONCE = 10
LEASE_TTL_S = 600
WATCHED_KEYS = 1000
WATCHERS_PER_KEY = 10
PROCESS_TIMEOUT_S = 300.0
ROOT = Path(__file__).resolve().parent.parent

Request = tuple[str, bytes]
Check = Callable[[str, bytes], None]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a load reached: things done (requests answered, or events delivered), in how long, and each one's time."""

    count: int
    elapsed_s: float
    p50_us: float
    p99_us: float

    @property
    def rate(self) -> float:
        """Things done a second."""
        return self.count / self.elapsed_s


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a load goes, how wide it is and how long; `keys` is how many there are, for loads that draw from them."""

    endpoint: str
    connections: int
    streams: int
    seconds: float
    keys: int = KEYS
    metadata: Metadata = field(default=())


def run_generated(load: str, setting: Setting) -> Figures:
    """Run a load in a process of its own; LoadError when a request failed."""
    command = [sys.executable, "-m", "benchmarks.generator", load, json.dumps(asdict(setting))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_TIMEOUT_S, cwd=ROOT)
    if done.returncode:
        raise LoadError(f"{load} failed:\n{done.stderr[-2000:]}")
    return Figures(**json.loads(done.stdout))


# --- requests one after the other ----------------------------------------------------------------------------------


def _mixed(number: int, keys: int) -> Iterator[Request]:
    """One put for nine gets, of keys drawn at random."""
    draw = random.Random(number)
    while True:
        key = read_key(draw.randrange(keys))
        if draw.random() < WRITE_SHARE:
            yield PUT, rpc_pb2.PutRequest(key=key, value=VALUE).SerializeToString()
        else:
            yield RANGE, rpc_pb2.RangeRequest(key=key).SerializeToString()


def _puts(number: int, keys: int) -> Iterator[Request]:
    """Puts of keys drawn at random."""
    draw = random.Random(number)
    while True:
        yield PUT, rpc_pb2.PutRequest(key=read_key(draw.randrange(keys)), value=VALUE).SerializeToString()


def _space_puts(number: int, keys: int) -> Iterator[Request]:
    """Puts of keys drawn at random from a loaded keyspace."""
    draw = random.Random(number)
    while True:
        key = space_key(draw.randrange(keys))
        yield PUT, rpc_pb2.PutRequest(key=key, value=VALUE).SerializeToString()


def _space_gets(number: int, keys: int) -> Iterator[Request]:
    """Gets of keys drawn at random from a loaded keyspace."""
    draw = random.Random(number)
    while True:
        yield RANGE, rpc_pb2.RangeRequest(key=space_key(draw.randrange(keys))).SerializeToString()


def _swaps(number: int, keys: int) -> Iterator[Request]:
    """Compare and swap: replace a key drawn at random if it exists, else read it."""
    draw = random.Random(number)
    compare = rpc_pb2.Compare
    while True:
        key = read_key(draw.randrange(SWAP_KEYS))
        yield (
            TXN,
            rpc_pb2.TxnRequest(
                compare=[compare(target=compare.MOD, result=compare.GREATER, key=key, mod_revision=0)],
                success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=VALUE))],
                failure=[rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))],
            ).SerializeToString(),
        )


def _deletes(number: int, keys: int) -> Iterator[Request]:
    """Ten puts, then one deletion of all ten."""
    prefix = b"deleted/%d/" % number
    whole = rpc_pb2.DeleteRangeRequest(key=prefix, range_end=prefix[:-1] + b"0").SerializeToString()
    puts = [
        rpc_pb2.PutRequest(key=prefix + b"%d" % at, value=VALUE).SerializeToString() for at in range(DELETED_AT_ONCE)
    ]
    while True:
        for put in puts:
            yield PUT, put
        yield DELETE, whole


def _grants(_number: int, _keys: int) -> Iterator[Request]:
    """Leases granted and revoked in turn, by ids of our own; the last one of a run may stay behind."""
    lease = random.getrandbits(62)
    while True:
        lease += 1
        yield GRANT, rpc_pb2.LeaseGrantRequest(TTL=LEASE_TTL_S, ID=lease).SerializeToString()
        yield REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease).SerializeToString()


class Repeater:
    """One stream of requests: the next leaves when the last is answered, until the time is up."""

    def __init__(
        self, connection: FastConnection, requests: Iterator[Request], until: float, metadata: Metadata
    ) -> None:
        self._connection = connection
        self._metadata = metadata
        self._requests = requests
        self._until = until
        self._began = 0.0
        self.times_us: list[float] = []
        self.over: asyncio.Future[None] = connection.loop.create_future()

    def start(self) -> None:
        """Send the first request."""
        self._send()

    def _send(self) -> None:
        path, message = next(self._requests)
        self._began = time.perf_counter()
        self._connection.unary(path, message, self._metadata).add_done_callback(self._answered)

    def _answered(self, answer: "asyncio.Future[Answer]") -> None:
        now = time.perf_counter()
        code, text, _ = answer.result()
        if code:
            self.over.set_exception(LoadError(f"a request was answered {code} {text}"))
            return
        self.times_us.append((now - self._began) * 1e6)
        if now >= self._until:
            self.over.set_result(None)
        else:
            self._send()


async def _repeat(connections: list[FastConnection], setting: Setting, requests: "Requests") -> Figures:
    began = time.perf_counter()
    repeaters = [
        Repeater(
            connection,
            requests(at * setting.streams + stream, setting.keys),
            began + setting.seconds,
            tuple((name, value) for name, value in setting.metadata),
        )
        for at, connection in enumerate(connections)
        for stream in range(setting.streams)
    ]
    for repeater in repeaters:
        repeater.start()
    await asyncio.gather(*(repeater.over for repeater in repeaters))
    return _figures([each for repeater in repeaters for each in repeater.times_us], time.perf_counter() - began)


def _figures(times_us: Sequence[float], elapsed_s: float) -> Figures:
    return Figures(len(times_us), elapsed_s, percentile(times_us, 50.0), percentile(times_us, 99.0))


# --- streams -------------------------------------------------------------------------------------------------------


async def _keep_alives(connections: list[FastConnection], setting: Setting) -> Figures:
    """Keep-alives of one lease for each stream."""
    grant = rpc_pb2.LeaseGrantRequest(TTL=LEASE_TTL_S).SerializeToString()
    leases = []
    for _ in range(setting.connections):
        answers = await asyncio.gather(*(connections[0].unary(GRANT, grant) for _ in range(setting.streams)))
        leases.append([rpc_pb2.LeaseGrantResponse.FromString(answer.message).ID for answer in answers])
    times_s, elapsed_s = renew(setting.endpoint, leases, LEASE_TTL_S, setting.seconds)
    return _figures([each * 1e6 for each in times_s], elapsed_s)


async def _watch(putting: FastConnection, setting: Setting, keys: int, per_key: int) -> Figures:
    watchers = Watchers(putting, [b"watched/%05d" % number for number in range(keys)], per_key)
    try:
        await watchers.open(setting.endpoint, setting.connections)
        began = time.perf_counter()
        while time.perf_counter() - began < setting.seconds:
            await watchers.put()
        return _figures(watchers.times_us, time.perf_counter() - began)
    finally:
        watchers.close()


def _repeating(requests: "Requests") -> "Load":
    async def load(connections: list[FastConnection], setting: Setting) -> Figures:
        return await _repeat(connections, setting, requests)

    return load


def _watching(keys: int, per_key: int) -> "Load":
    async def load(connections: list[FastConnection], setting: Setting) -> Figures:
        return await _watch(connections[0], setting, keys, per_key)

    return load


Requests = Callable[[int, int], Iterator[Request]]
"""Requests of one stream, by its number and the number of keys."""
Load = Callable[[list[FastConnection], Setting], Awaitable[Figures]]
FAN_OUTS = {"watch-latency": 1, "watch-fan-out-10": 10, "watch-fan-out-100": 100, "watch-fan-out": 1000}
"""Watchers of one key, by load."""
LOADS: dict[str, Load] = {
    "mixed": _repeating(_mixed),
    "mixed-auth": _repeating(_mixed),
    "put-random": _repeating(_puts),
    "txn-swap": _repeating(_swaps),
    "delete-range": _repeating(_deletes),
    "lease-grant": _repeating(_grants),
    "lease-keepalive": _keep_alives,
    **{load: _watching(1, watchers) for load, watchers in FAN_OUTS.items()},
    "watch-many-keys": _watching(WATCHED_KEYS, WATCHERS_PER_KEY),
}
"""What is compared. Watch loads count events, and time each from the put to the event."""
OWN_SOCKETS = {"lease-keepalive", *FAN_OUTS, "watch-many-keys"}
"""Loads that open the connections of their setting themselves, and use the given one for the rest."""
SPACE_LOADS: dict[str, Load] = {"get": _repeating(_space_gets), "put": _repeating(_space_puts)}
"""What is done to a loaded keyspace."""


def all_loads() -> list[tuple[str, str, Shape]]:
    """Title, load and shape of everything worth measuring."""
    lone, busy, watching = Shape(1, 1), Shape(100, 10), Shape(10, 1)
    shapes = {"mixed": SHAPES, "mixed-auth": (busy,), "put-random": (busy,), "watch-latency": (lone,)}
    usual = {load: (watching,) if load.startswith("watch") else (lone, busy) for load in LOADS}
    return [(f"{load}/{shape}", load, shape) for load in LOADS for shape in shapes.get(load, usual[load])]


async def _main(load: str, setting: Setting) -> Figures:
    count = 1 if load in OWN_SOCKETS else setting.connections
    opened = [await FastConnection.connect(setting.endpoint) for _ in range(count)]
    try:
        return await {**LOADS, **SPACE_LOADS}[load](opened, setting)
    finally:
        for connection in opened:
            connection.close()


def main(argv: Sequence[str]) -> None:
    """Run one load and print its figures."""
    load, setting = argv
    figures = uvloop.run(_main(load, Setting(**json.loads(setting))))
    sys.stdout.write(json.dumps(asdict(figures)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
