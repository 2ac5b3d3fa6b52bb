"""The load of the cluster tests: writers, counters, readers, watchers, lease holders at once, and what must hold after.

What clients were told is written down while faults happen; `Load.check` compares it with every member afterwards:

- an acknowledged write is there, once, at its revision; an unanswered one happened once or never (`Workload`);
- a counter moved by compare-and-swap from several clients has lost no step;
- a linearizable read saw everything that anybody knew before the read began;
- each member tells the same history from revision 1 on, and so did the watch streams that went through the faults;
- a lease's keys live until it is revoked or its time is up, and not longer;
- HashKV is equal everywhere, at the last revision and before it.
"""

import itertools
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from harness import stubs
from harness.clusters import Cluster, call, wait_for
from harness.servers import EtcdServer
from ratifyd.keys import prefix_end
from ratifyd.proto import rpc_pb2
from tests.cluster.workload import RETRY_S, Client, Workload, explained

CALL_TIMEOUT_S = 4.0
PAUSE_S = 0.002
"""Between two requests of one client: the load keeps the members busy, not the machine."""
SHORT_TTL_S = 2
LONG_TTL_S = 3600

Event = tuple[int, bytes, bytes, int, int, int, int]


def event_of(event: Any) -> Event:
    """All there is in an event, to be compared."""
    kv = event.kv
    return (kv.mod_revision, kv.key, kv.value, event.type, kv.create_revision, kv.version, kv.lease)


class Endpoints:
    """A client that goes to the next member when one fails it."""

    def __init__(self, endpoints: Sequence[str], first: int) -> None:
        self._endpoints = itertools.cycle([*endpoints[first % len(endpoints) :], *endpoints[: first % len(endpoints)]])
        self.client = Client(next(self._endpoints), CALL_TIMEOUT_S)

    def next(self) -> None:
        """Leave this member."""
        self.client.close()
        self.client = Client(next(self._endpoints), CALL_TIMEOUT_S)


class Loop(ABC):
    """A client in a thread of its own: `step` again and again; a failed call sends it to the next member."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.problems: list[str] = []
        self.steps = 0

    @abstractmethod
    def step(self, client: Client) -> None:
        """One round of requests; a grpc.RpcError leaves its outcome unknown."""

    def run(self, endpoints: Sequence[str], stop: threading.Event) -> None:
        """Go on until told to stop."""
        place = Endpoints(endpoints, self._number)
        while not stop.wait(PAUSE_S):
            try:
                self.step(place.client)
                self.steps += 1
            except grpc.RpcError as error:
                if not explained(error):
                    self.problems.append(f"{type(self).__name__}: {error.code()} {error.details()}")
                place.next()
                stop.wait(RETRY_S)
        place.client.close()


class Counter(Loop):
    """Adds one by compare-and-swap to counters that other clients move as well."""

    KEYS = (b"shared/0", b"shared/1")

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.moved: dict[bytes, list[int]] = {key: [] for key in self.KEYS}
        """Values this client knows it wrote."""
        self.unknown = dict.fromkeys(self.KEYS, 0)

    def step(self, client: Client) -> None:
        key = self.KEYS[self.steps % len(self.KEYS)]
        row = next(iter(client.rows(key)), None)
        value = int(row.value) if row else 0
        compare = rpc_pb2.Compare(
            target=rpc_pb2.Compare.CompareTarget.MOD, key=key, mod_revision=row.mod_revision if row else 0
        )
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=b"%d" % (value + 1)))
        try:
            reply = client.txn(rpc_pb2.TxnRequest(compare=[compare], success=[put]))
        except grpc.RpcError:
            self.unknown[key] += 1
            raise
        if reply.succeeded:
            self.moved[key].append(value + 1)


def check_counters(counters: Sequence[Counter], client: Client) -> None:
    """No step was lost or made twice."""
    for key in Counter.KEYS:
        moved = [value for counter in counters for value in counter.moved[key]]
        unknown = sum(counter.unknown[key] for counter in counters)
        row = next(iter(client.rows(key)), None)
        value, version = (int(row.value), row.version) if row else (0, 0)
        assert len(set(moved)) == len(moved), f"{key!r} took the same step twice"
        assert value == version, f"{key!r} was moved other than by one"
        assert len(moved) <= value <= len(moved) + unknown, f"{key!r} is {value} after {len(moved)} (+{unknown}) steps"
        assert max(moved, default=0) <= value


class Knowledge:
    """The highest revision that any client has heard of; what a linearizable read must not be older than."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._seen = 0
        self.compacted = 0
        """The highest revision that a client has asked to compact at."""

    def heard(self, revision: int) -> None:
        """A client was told of this revision; a race of two loses the lower one at most, which only asks for less."""
        if revision > self._seen:
            self._seen = revision

    def revision(self) -> int:
        """Read before the request that must not be older."""
        return max(self._seen, self._workload.latest.revision)


class Reader(Loop):
    """Reads the latest write that anybody got acknowledged, by a Range or by a Txn."""

    def __init__(self, number: int, workload: Workload, knowledge: Knowledge) -> None:
        super().__init__(number)
        self._workload = workload
        self._knowledge = knowledge

    def step(self, client: Client) -> None:
        latest, floor = self._workload.latest, self._knowledge.revision()
        read = rpc_pb2.RangeRequest(key=latest.key or b"none")
        if self.steps % 2:
            answer = client.txn(rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_range=read)]))
            kvs = answer.responses[0].response_range.kvs
        else:
            answer = client.range(read)
            kvs = answer.kvs
        if answer.header.revision < floor:
            self.problems.append(f"stale read: revision {answer.header.revision} when {floor} was known")
        if latest.revision and [kv.mod_revision for kv in kvs] != [latest.revision]:
            self.problems.append(f"stale read: {latest.key!r} of revision {latest.revision} is not there")
        self._knowledge.heard(answer.header.revision)


@dataclass(slots=True)
class Grant:
    """A lease as its client knows it."""

    key: bytes
    lease: int
    ttl_s: int
    asked: float
    """Before the grant was sent: the lease cannot be older than this."""
    written: bool = False
    revoked: bool | None = False
    """None when the answer to the revocation is missing."""


class Compactor(Loop):
    """Compacts at a little less than the latest revision, again and again; `physical`: every other time to the end."""

    BEHIND = 20

    def __init__(self, number: int, knowledge: Knowledge, *, physical: bool) -> None:
        super().__init__(number)
        self._knowledge = knowledge
        self._physical = physical

    def step(self, client: Client) -> None:
        revision = self._knowledge.revision() - self.BEHIND
        if revision > self._knowledge.compacted:
            self._knowledge.compacted = revision  # before the answer: it may happen without one
            client.compact(revision, physical=self._physical and self.steps % 2 == 0)
        else:
            client.revision()


class LeaseHolder(Loop):
    """Grants leases, writes keys with them, revokes some, lets others run out, and looks for keys gone too early."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.grants: list[Grant] = []

    def step(self, client: Client) -> None:
        number = len(self.grants)  # a key is never used twice, whatever fails
        short = number % 8 == 0
        ttl_s = SHORT_TTL_S if short else LONG_TTL_S
        asked = time.monotonic()
        key = b"%s/%d/%d" % (b"short" if short else b"leased", self._number, number)
        grant = Grant(key, client.grant(ttl_s), ttl_s, asked)
        self.grants.append(grant)
        try:
            client.put(key, b"v", grant.lease)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND and time.monotonic() >= asked + ttl_s:
                return  # the put was on its way for longer than the lease had
            raise
        grant.written = True
        self._look(client, random.choice(self.grants[-8:]))
        if not short and number % 3 == 0:
            grant.revoked = None
            client.revoke(grant.lease)
            grant.revoked = True

    def _look(self, client: Client, grant: Grant) -> None:
        """A linearizable read answered within the time to live finds the key, unless it may be revoked."""
        found = client.get(grant.key) is not None
        in_time = time.monotonic() < grant.asked + grant.ttl_s
        if grant.written and grant.revoked is False and in_time and not found:
            self.problems.append(f"{grant.key!r} went before its lease of {grant.ttl_s} s was up")
        if grant.revoked and found:
            self.problems.append(f"{grant.key!r} outlived the revocation of its lease")

    def check(self, client: Client) -> None:
        """Keys of living leases are there, those of dead ones are not."""
        assert not list(client.rows(b"short/")), "leases never expired"
        keys = {bytes(row.key) for row in client.rows(b"leased/%d/" % self._number)}
        for grant in self.grants:
            if grant.ttl_s == LONG_TTL_S and grant.written and grant.revoked is False:
                assert grant.key in keys, f"{grant.key!r} is gone, its lease is not"
            if grant.revoked:
                assert grant.key not in keys, f"{grant.key!r} outlived its lease"


class Watcher:
    """A watcher of everything from revision 1 on one member; reconnects where it was, as clients do."""

    def __init__(self, server: EtcdServer, knowledge: Knowledge) -> None:
        self.server = server
        self.overtaken = False
        """Whether a compaction took away what it had not seen yet."""
        self.events: list[Event] = []
        self.problems: list[str] = []
        self._knowledge = knowledge
        self._resume = 1
        self._call: Any = None

    @property
    def revision(self) -> int:
        """Up to where it has everything."""
        return self.events[-1][0] if self.events else 0

    def run(self, stop: threading.Event) -> None:
        """Watch until told to stop."""
        while not stop.is_set():
            with stubs.Client(self.server.client_endpoint) as client:
                try:
                    self._follow(client, stop)
                except grpc.RpcError as error:
                    if not explained(error):
                        self.problems.append(f"watch: {error.code()} {error.details()}")
            stop.wait(RETRY_S)

    def _follow(self, client: stubs.Client, stop: threading.Event) -> None:
        create = rpc_pb2.WatchCreateRequest(
            key=b"\0", range_end=b"\0", start_revision=max(self.revision + 1, self._resume)
        )
        ended = threading.Event()

        def requests() -> Iterator[rpc_pb2.WatchRequest]:
            yield rpc_pb2.WatchRequest(create_request=create)
            ended.wait()

        self._call = client.watch.Watch(requests())
        if stop.is_set():
            self._call.cancel()
        try:
            for response in self._call:
                if response.compact_revision and self._knowledge.compacted >= response.compact_revision:
                    self.overtaken = True
                    self._resume = response.compact_revision
                    return
                if response.canceled:
                    self.problems.append(f"watch canceled: {response}")
                    return
                self.events += self._fresh(list(map(event_of, response.events)))
                if response.events:
                    self._knowledge.heard(self.revision)
        finally:
            ended.set()

    def _fresh(self, events: list[Event]) -> list[Event]:
        """Leave out what etcd repeats: a member that installs a snapshot sends its watchers old events again."""
        if self.server.kind == "ratifyd":
            return events
        return [event for event in events if event[0] > self.revision]

    def end(self) -> None:
        """Wake the thread out of its stream."""
        if self._call is not None:
            self._call.cancel()


def history(server: EtcdServer, first: int, revision: int) -> list[Event]:
    """All events from one revision to another, as a new watcher from the first on gets them from this member.

    A write that nobody waits for any more may still happen, and lead beyond the second.
    """
    events: list[Event] = []
    create = rpc_pb2.WatchCreateRequest(key=b"\0", range_end=b"\0", start_revision=first)
    done = threading.Event()

    def requests() -> Iterator[rpc_pb2.WatchRequest]:
        yield rpc_pb2.WatchRequest(create_request=create)
        done.wait()

    with stubs.Client(server.client_endpoint) as client:
        try:
            for response in client.watch.Watch(requests(), timeout=60.0):
                events += map(event_of, response.events)
                if events and events[-1][0] >= revision:
                    break
        finally:
            done.set()
    return [event for event in events if event[0] <= revision]


@dataclass(slots=True)
class _Crew:
    threads: list[threading.Thread] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def add(self, target: Callable[..., None], *args: Any) -> None:
        self.threads.append(threading.Thread(target=target, args=(*args, self.stop)))

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


class Load:
    """All kinds of clients at once against all members of a cluster. `running` may be entered several times."""

    def __init__(self, cluster: Cluster, *, writers: int = 3) -> None:
        self.cluster = cluster
        self.workload = Workload(writers, persistent=True, timeout_s=CALL_TIMEOUT_S, pause_s=PAUSE_S)
        self._knowledge = Knowledge(self.workload)
        self._counters = [Counter(number) for number in range(2)]
        self._readers = [Reader(number, self.workload, self._knowledge) for number in range(2)]
        self._holders = [LeaseHolder(0)]
        # A physical compaction ends with a commit that is not between two entries: see harness.clusters.KILLABLE.
        physical = all(member.kind != "etcd" for member in cluster.members)
        self._compactor = Compactor(0, self._knowledge, physical=physical)
        self._watchers: dict[str, Watcher] = {}

    @property
    def _loops(self) -> list[Loop]:
        return [*self._counters, *self._readers, *self._holders]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Everything runs during the block; whoever watched when it ends has seen all of it when `check` is through."""
        members = list(self.cluster.members)
        endpoints = [member.client_endpoint for member in members]
        crew = _Crew()
        for loop in self._loops:
            crew.add(loop.run, endpoints)
        for member in members:
            watcher = self._watchers.setdefault(member.name, Watcher(member, self._knowledge))
            crew.add(watcher.run)
        for thread in crew.threads:
            thread.start()
        try:
            with self.workload.running(*endpoints):
                yield
            self._wait_watched()
        finally:
            crew.stop.set()
            for watcher in self._watchers.values():
                watcher.end()
            crew.end()

    @contextmanager
    def compacting(self) -> Iterator[None]:
        """Compactions all the time during the block; from then on history begins at the last of them."""
        endpoints = [member.client_endpoint for member in self.cluster.members]
        crew = _Crew()
        crew.add(self._compactor.run, endpoints)
        crew.threads[0].start()
        try:
            yield
        finally:
            crew.end()

    def progress(self, writes: int = 60, timeout_s: float = 60.0) -> None:
        """Wait until so many more writes were acknowledged."""
        self.workload.wait_acknowledged(writes, timeout_s)

    def _wait_watched(self, timeout_s: float = 40.0) -> None:
        """Until each stream of a member that is still there has reached what was acknowledged when this began."""
        target = self.workload.last_revision()
        for member in self.cluster.running:
            watcher = self._watchers.get(member.name)
            if watcher is not None:
                wait_for(
                    f"event {target} at {member.name} ({watcher.revision} so far, {watcher.problems})",
                    lambda watcher=watcher: True if watcher.revision >= target else None,  # type: ignore[misc]
                    timeout_s,
                )

    def check(self) -> None:
        """Compare all members with what clients were told and with each other. All members run, nobody writes."""
        problems = [problem for loop in (*self._loops, self._compactor) for problem in loop.problems]
        problems += [problem for watcher in self._watchers.values() for problem in watcher.problems]
        assert not problems, problems[:5]
        assert all(loop.steps for loop in self._loops), "a client never got anything done"
        self._wait_expired()
        revision, _ = self.cluster.wait_equal(40.0)
        first = self._knowledge.compacted + 1
        for earlier in (first + (revision - first) // 3, first + 2 * (revision - first) // 3):
            hashes = {member.name: self.cluster.hash_kv(member, earlier).hash for member in self.cluster.running}
            assert len(set(hashes.values())) == 1, f"HashKV at {earlier} differs: {hashes}"
        for member in self.cluster.running:
            with Client(member.client_endpoint) as client:
                self.workload.check(client)
                check_counters(self._counters, client)
                for holder in self._holders:
                    holder.check(client)
        self._check_histories(first, revision)
        self._check_leases()

    def _wait_expired(self) -> None:
        def look() -> bool | None:
            request = rpc_pb2.RangeRequest(key=b"short/", range_end=prefix_end(b"short/"), count_only=True)
            return True if not call(self.cluster.running[0], "kv", "Range", request).count else None

        wait_for("expiry of all short leases", look, 20.0)

    def _check_histories(self, first: int, revision: int) -> None:
        one, *others = self.cluster.running
        told = history(one, first, revision)
        for other in others:
            assert history(other, first, revision) == told, f"{one.name} and {other.name} tell different histories"
        missing = set(range(max(first, 2), revision + 1)) - {event[0] for event in told}
        assert not missing, f"revisions without events: {sorted(missing)[:5]}"
        for watcher in self._watchers.values():
            if watcher.overtaken:
                continue
            seen = [event for event in watcher.events if first <= event[0] <= revision]
            assert seen == told[: len(seen)], f"the stream from {watcher.server.name} {first_difference(seen, told)}"

    def _check_leases(self) -> None:
        """The same leases with the same keys on every member."""
        leases: dict[str, Any] = {}
        for member in self.cluster.running:
            listed = call(member, "lease", "LeaseLeases", rpc_pb2.LeaseLeasesRequest())
            leases[member.name] = sorted(lease.ID for lease in listed.leases)
        assert len({tuple(ids) for ids in leases.values()}) == 1, f"different leases: {leases}"
        alive = set(next(iter(leases.values())))
        for grant in (grant for holder in self._holders for grant in holder.grants):
            if grant.ttl_s == LONG_TTL_S and grant.revoked is False:
                assert grant.lease in alive, f"lease {grant.lease:x} is gone"
            if grant.revoked:
                assert grant.lease not in alive, f"lease {grant.lease:x} outlived its revocation"


def first_difference(seen: Sequence[Event], told: Sequence[Event]) -> str:
    """Where a stream left the history."""
    for place, (one, other) in enumerate(zip(seen, told, strict=False)):
        if one != other:
            return f"had {one} at place {place} where the history has {other}"
    return f"is longer than the history: {seen[len(told) :][:2]}"
