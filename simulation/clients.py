"""Clients at work: what they ask, and what they remember of it.

Each has random numbers of its own, so that leaving one out changes as little as possible for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from ratifyd.proto import rpc_pb2 as pb
from simulation.authmodel import BAD_TOKEN, NO_USER, NOT_ENABLED, OLD_REVISION, ROOT
from simulation.calls import KV, LEASE, PATHS, RESPONSES
from simulation.connection import Connection, Stream
from simulation.history import Operation, Renewal, WatchRecord
from simulation.http2 import Metadata

if TYPE_CHECKING:
    from simulation.machine import SimMember
    from simulation.world import World

TIMEOUT_S = 4.0
RETRY_S = 0.3
MAX_RETRIES = 3
LEASED_KEYS = 4
NO_LEADER = "etcdserver: no leader"
_LOG_IN_AFTER = (NO_USER, BAD_TOKEN, OLD_REVISION)

Answered = Callable[[Operation], None]


class Client:
    """A client with at most one connection, which it makes to any member that serves."""

    until_checked = False
    """Whether it goes on while the healed cluster is asked for its duties."""

    def __init__(self, world: World, name: str, user: str = ROOT) -> None:
        """`user` is who it logs in as once the cluster asks it to."""
        self.world = world
        self.name = name
        self.user = user
        self.token = ""
        self.logs_in = False
        """Whether it should log in before it asks for anything else."""
        self.random = Random(f"{name} {world.options.seed}")
        self.connection: Connection | None = None
        self.counter = 0
        self.stopped = False

    def start(self) -> None:
        """Begin after a while."""
        self.later(self.random.random(), self.work)

    def work(self) -> None:
        """Do the next thing."""

    def later(self, seconds: float, callback: Callable[..., None], *args: Any) -> None:
        self.world.clock.call_later(seconds, callback, *args)

    def pause(self) -> None:
        """Think, then go on."""
        if not self.stopped:
            self.later(self.random.expovariate(1 / self.world.options.think_s), self.work)

    def connect(self) -> Connection | None:
        """The connection, a new one if there is none; None if no member serves."""
        if self.connection is None or self.connection.over:
            serving = [machine.member for machine in self.world.machines if machine.member and machine.member.ready]
            if not serving:
                return None
            return self.attach(self.random.choice(serving))
        return self.connection

    def attach(self, member: SimMember) -> Connection:
        """Connect to a certain member."""
        self.connection = Connection(self.world.clock, self.random, member, self.lost)
        self.world.connections.append(self.connection)
        return self.connection

    def hang_up(self) -> None:
        """Close the connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def lost(self) -> None:
        """The connection is gone."""
        self.connection = None

    def unique(self) -> bytes:
        """A value nobody else writes."""
        self.counter += 1
        return b"%s.%d" % (self.name.encode(), self.counter)

    @property
    def metadata(self) -> Metadata:
        return (("authorization", self.token),) if self.token else ()

    def log_in(self) -> bool:
        """Ask for a token, then go on. False: nobody to ask."""
        self.logs_in = False
        known = self.world.passwords.get(self.user, ["none"])
        password = known[-1] if self.random.random() < 0.7 else self.random.choice(known)
        request = pb.AuthenticateRequest(name=self.user, password=password)
        return self.ask("authenticate", request, lambda operation: self.pause())

    def ask(self, kind: str, request: Any, answered: Answered, *, streamed: bool = False) -> bool:
        """Send a request and remember it; `answered` when it is over, however that went. False: nobody to ask.

        `streamed`: a Range whose answer comes in pieces.
        """
        connection = self.connect()
        if connection is None:
            return False
        world = self.world
        operation = Operation(self.name, kind, request, world.clock.now, connection.member.machine.number)
        operation.user = self.user if self.token else ""
        operation.token = self.token if kind != "authenticate" else ""
        world.history.operations.append(operation)
        metadata = self.metadata if kind != "authenticate" else ()

        def done(status: int, text: str, body: bytes) -> None:
            if operation.status is not None:
                return
            timer.cancel()
            operation.end = world.clock.now
            operation.status, operation.error = status, text
            if status == 0 and streamed:
                operation.response = pb.RangeStreamResponse.FromString(body).range_response
            elif status == 0:
                operation.response = RESPONSES[kind].FromString(body)
            self._learn(operation)
            world.answered(operation)
            answered(operation)

        def too_late() -> None:
            self.hang_up()
            done(-1, "timed out", b"")

        timer = world.clock.call_later(TIMEOUT_S, too_late)
        path = KV + "RangeStream" if streamed else PATHS[kind]
        connection.call(path, request.SerializeToString(), done, metadata)
        return True

    def _learn(self, operation: Operation) -> None:
        """Draw conclusions about tokens."""
        if operation.kind == "authenticate":
            self.token = operation.response.token if operation.ok else ""
        elif operation.error in _LOG_IN_AFTER:
            self.logs_in = True
        elif operation.error == NOT_ENABLED:
            self.token = ""


class Writer(Client):
    """Reads and writes a few keys."""

    def work(self) -> None:
        if self.stopped:
            return
        if self.random.random() < 0.03:
            self.hang_up()
        if self.logs_in:
            asked = self.log_in()
        else:
            kind, request = self.draw()
            asked = self.send(kind, request, MAX_RETRIES)
        if not asked:
            self.later(RETRY_S, self.work)

    def send(self, kind: str, request: Any, retries: int) -> bool:
        """Ask; what only reads is asked again, of another member, when nothing was heard."""

        def answered(operation: Operation) -> None:
            if operation.unsure and kind == "range" and retries and not self.stopped:
                self.hang_up()
                if self.send(kind, request, retries - 1):
                    return
            self.pause()

        streamed = kind == "range" and self.random.random() < 0.1
        return self.ask(kind, request, answered, streamed=streamed)

    def key(self) -> bytes:
        return b"k%d" % self.random.randrange(self.world.options.keys)

    def draw(self) -> tuple[str, Any]:
        """The next request."""
        random = self.random
        if self.world.options.wide and random.random() < 0.2:
            return self.draw_wide()
        number = random.random()
        key = self.key()
        if number < 0.4:
            value = self.unique() + b"." * random.choice((0, 0, 10, 300, 1500))
            return "put", pb.PutRequest(key=key, value=value, prev_kv=random.random() < 0.3)
        if number < 0.7:
            return "range", self.draw_range(key)
        if number < 0.78:
            end = b"" if random.random() < 0.7 else b"k%d\xff" % random.randrange(self.world.options.keys)
            return "delete_range", pb.DeleteRangeRequest(key=key, range_end=end, prev_kv=random.random() < 0.3)
        if self.world.options.short_history:
            return "range", pb.RangeRequest(key=key)  # the search knows no transactions
        return "txn", self.draw_txn(key)

    def draw_wide(self) -> tuple[str, Any]:
        """Long values; keys that hang on leases of others, without one or deleted."""
        random = self.random
        key = b"l%d" % random.randrange(LEASED_KEYS)
        kind = random.randrange(4)
        if kind == 0:
            return "put", pb.PutRequest(key=self.key(), value=self.unique() + b"." * 3000)
        if kind == 1:
            return "delete_range", pb.DeleteRangeRequest(key=key)
        if kind == 2:
            return "put", pb.PutRequest(key=key, value=self.unique())
        request = pb.TxnRequest()
        request.success.add().request_put.CopyFrom(pb.PutRequest(key=key, value=self.unique()))
        request.success.add().request_put.CopyFrom(pb.PutRequest(key=self.key(), value=self.unique()))
        return "txn", request

    def draw_range(self, key: bytes) -> pb.RangeRequest:
        random = self.random
        request = pb.RangeRequest(key=key)
        kind = random.randrange(10)
        if kind < 3:
            request.key, request.range_end = b"k", b"l"
        if kind == 3:
            request.key, request.range_end, request.limit = b"\0", b"\0", random.randint(1, 4)
        request.serializable = random.random() < 0.2
        revision = self.world.revision_seen
        if random.random() < 0.15 and revision > 2:
            request.revision = random.randint(max(1, revision - 30), revision + random.choice((0, 0, 0, 5)))
        request.keys_only = random.random() < 0.05
        request.count_only = random.random() < 0.05
        return request

    def draw_txn(self, key: bytes) -> pb.TxnRequest:
        random = self.random
        request = pb.TxnRequest()
        for _ in range(random.choice((0, 1, 1, 2))):
            compare = request.compare.add(key=self.key(), result=random.choice((0, 1, 2, 3)))
            compare.target = random.choice((pb.Compare.VERSION, pb.Compare.MOD, pb.Compare.CREATE, pb.Compare.VALUE))
            if compare.target == pb.Compare.VALUE:
                compare.value = b"w"
            elif compare.target == pb.Compare.VERSION:
                compare.version = random.randint(0, 3)
            elif compare.target == pb.Compare.MOD:
                compare.mod_revision = random.choice((0, max(0, self.world.revision_seen - 2)))
            else:
                compare.create_revision = 0
        for branch in (request.success, request.failure):
            taken: set[bytes] = set()
            for _ in range(random.choice((1, 1, 2, 3))):
                self.draw_op(branch.add(), key, taken)
                key = self.key()
        return request

    def draw_op(self, op: Any, key: bytes, taken: set[bytes]) -> None:
        kind = self.random.randrange(10)
        if kind < 5 and key not in taken:
            taken.add(key)
            op.request_put.key, op.request_put.value = key, self.unique()
        elif kind < 7 and not taken:
            taken.add(key)
            op.request_delete_range.key = key
        else:
            op.request_range.key = key
            if kind == 9:
                op.request_range.key, op.request_range.range_end = b"k", b"l"


class Keeper(Client):
    """Holds leases: grants them, hangs keys on them, keeps them alive for a while, lets them end."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.lease = 0
        self.ttl_s = 0
        self.until = 0.0
        self.beating: Stream | None = None
        self.sent: list[float] = []

    def work(self) -> None:
        if self.stopped:
            return
        now = self.world.clock.now
        if self.logs_in:
            self.go_on(self.log_in())
        elif not self.lease:
            self.counter += 1
            lease = 1 + self.random.getrandbits(40) * 1000 + self.counter
            if self.world.options.wide and self.random.random() < 0.3:
                lease = 0  # the server is to choose
            self.ttl_s = self.random.randint(1, 5)
            self.until = now + self.random.uniform(0, 12)
            self.go_on(self.ask("lease_grant", pb.LeaseGrantRequest(ID=lease, TTL=self.ttl_s), self.granted))
        elif now >= self.until:
            lease, self.lease = self.lease, 0
            if self.random.random() < 0.4:
                self.world.history.revoked.add(lease)
                self.go_on(self.ask("lease_revoke", pb.LeaseRevokeRequest(ID=lease), lambda operation: self.pause()))
            else:
                self.pause()
        elif self.random.random() < 0.4:
            key = b"l%d" % self.random.randrange(LEASED_KEYS)
            request = pb.PutRequest(key=key, value=self.unique(), lease=self.lease)
            if self.world.options.wide and self.random.random() < 0.4:
                txn = pb.TxnRequest()
                plain = pb.PutRequest(key=b"k0", value=self.unique())
                for put in self.random.sample((plain, request), 2):
                    txn.success.add().request_put.CopyFrom(put)
                self.go_on(self.ask("txn", txn, self.hung))
            else:
                self.go_on(self.ask("put", request, self.hung))
        else:
            self.beat()

    def go_on(self, asked: bool) -> None:
        if not asked:
            self.later(RETRY_S, self.work)

    def granted(self, operation: Operation) -> None:
        if operation.ok:
            response = operation.response
            self.lease, self.ttl_s = response.ID, response.TTL
            self.world.history.renewals.append(Renewal(self.lease, self.ttl_s, operation.start, operation.end))
        self.pause()

    def hung(self, operation: Operation) -> None:
        if operation.error == "etcdserver: requested lease not found":
            self.lease = 0
        self.pause()

    def beat(self) -> None:
        connection = self.connect()
        if connection is None:
            self.later(RETRY_S, self.work)
            return
        if self.beating is None or self.beating.over:
            self.sent = []
            self.beating = connection.stream(LEASE + "LeaseKeepAlive", self.kept, self.refused, self.metadata)
        self.sent.append(self.world.clock.now)
        self.beating.send(pb.LeaseKeepAliveRequest(ID=self.lease).SerializeToString())
        self.later(self.ttl_s / 3, self.work)

    def refused(self, status: int, text: str) -> None:
        """The stream is over; perhaps because it came without a token that is good."""
        self.logs_in = self.logs_in or text in _LOG_IN_AFTER

    def kept(self, body: bytes) -> None:
        response = pb.LeaseKeepAliveResponse.FromString(body)
        sent = self.sent.pop(0)
        if response.TTL > 0:
            renewal = Renewal(response.ID, response.TTL, sent, self.world.clock.now)
            self.world.history.renewals.append(renewal)
        else:
            self.world.history.gone.append(Renewal(response.ID, 0, sent, self.world.clock.now))
            if self.lease == response.ID:
                self.lease = 0

    def lost(self) -> None:
        super().lost()
        self.beating = None


class Watcher(Client):
    """Watches ranges of keys, and goes on elsewhere where its connection broke off."""

    until_checked = True

    def __init__(self, world: World, name: str, user: str = ROOT) -> None:
        super().__init__(world, name, user)
        self.stream: Stream | None = None
        self.records: dict[int, WatchRecord] = {}
        self.wanted: list[pb.WatchCreateRequest] = []
        self.next_id = 0

    def work(self) -> None:
        if self.stopped:
            return
        random = self.random
        if self.logs_in:
            self.close()  # a stream shows the token it was opened with
            if not self.log_in():
                self.later(RETRY_S, self.work)
            return
        if self.stream is None or self.stream.over:
            self.open()
        elif random.random() < 0.15:
            self.close()
        elif random.random() < 0.3 and len(self.records) < 4:
            self.create(self.draw())
        elif random.random() < 0.3:
            self.stream.send(pb.WatchRequest(progress_request={}).SerializeToString())
        self.later(random.expovariate(1), self.work)

    def draw(self) -> pb.WatchCreateRequest:
        random = self.random
        request = pb.WatchCreateRequest(key=b"k", range_end=b"l")
        kind = random.randrange(4)
        if kind == 0:
            request.key, request.range_end = b"k%d" % random.randrange(self.world.options.keys), b""
        elif kind == 1:
            request.key, request.range_end = b"\0", b"\0"
        request.prev_kv = random.random() < 0.3
        request.progress_notify = random.random() < 0.5
        if self.world.options.wide:
            request.fragment = random.random() < 0.5
            if random.random() < 0.4:
                request.filters.append(random.choice((pb.WatchCreateRequest.NOPUT, pb.WatchCreateRequest.NODELETE)))
        if random.random() < 0.5:
            seen = self.world.revision_seen
            request.start_revision = max(1, seen + random.choice((-50, -10, -3, 0, 1, 5)))
        return request

    def open(self) -> None:
        connection = self.connect()
        if connection is None:
            return
        self.records = {}
        self.next_id = 0
        metadata = self.metadata
        if self.random.random() < 0.5:
            metadata += (("hasleader", "true"),)
        self.stream = connection.stream(
            "/etcdserverpb.Watch/Watch", self.took, lambda status, text: self.over(text), metadata
        )
        again, self.wanted = self.wanted, []
        for request in again or [self.draw()]:
            self.create(request)

    def create(self, request: pb.WatchCreateRequest) -> None:
        assert self.stream is not None and self.connection is not None
        self.next_id += 1
        request.watch_id = self.next_id
        record = WatchRecord(self.name, self.connection.member.machine.number, request)
        record.user = self.user if self.token else ""
        self.records[self.next_id] = record
        self.world.history.watches.append(record)
        self.stream.send(pb.WatchRequest(create_request=request).SerializeToString())

    def took(self, body: bytes) -> None:
        response = pb.WatchResponse.FromString(body)
        revision = response.header.revision
        if response.watch_id == -1 and response.canceled:
            self.denied(response.cancel_reason)
            return
        if response.watch_id == -1:
            for record in self.records.values():
                if record.live and record.created >= 0:
                    record.items.append(("progress", revision, []))
            return
        record = self.records[response.watch_id]
        if response.created:
            record.created = revision
            record.confirmed = self.world.clock.now
        elif response.canceled:
            record.items.append(("canceled", response.compact_revision, []))
            self.world.network.situations.seen("watch: a compaction overtakes it")
            record.live = False
        elif response.events:
            record.begun += response.events
            if not response.fragment:
                record.floors[len(record.items)] = self.world.model.compacted
                record.items.append(("events", revision, record.begun))
                record.begun = []
        else:
            record.items.append(("progress", revision, []))

    def denied(self, reason: str) -> None:
        """The oldest watcher that was not confirmed yet is refused: answers come in order."""
        number = next(number for number, record in self.records.items() if record.created < 0)
        record = self.records.pop(number)
        record.live = False
        record.refusal, record.confirmed = reason, self.world.clock.now
        self.logs_in = self.logs_in or any(reason.endswith(each) for each in _LOG_IN_AFTER)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.cancel()
        self.broken()
        self.hang_up()

    def lost(self) -> None:
        super().lost()
        self.broken()

    def over(self, why: str) -> None:
        """The server has ended the stream."""
        if why == NO_LEADER:
            self.world.network.situations.seen("watch: ended for lack of a leader")
        self.broken()

    def broken(self) -> None:
        """Remember where each watcher has to go on."""
        self.stream = None
        for record in self.records.values():
            if not record.live:
                continue
            record.live = False
            seen = resume_revision(record)
            if seen and self.random.random() < 0.7:
                request = pb.WatchCreateRequest()
                request.CopyFrom(record.request)
                request.start_revision = seen
                self.wanted.append(request)
        self.records = {}


def resume_revision(record: WatchRecord) -> int:
    """Where a watcher has to go on after what it has seen; 0 when it never began."""
    if record.created < 0:
        return 0
    first = int(record.request.start_revision) or record.created + 1
    for kind, revision, events in record.items:
        if kind == "events":
            first = max(first, events[-1].kv.mod_revision + 1)
        elif kind == "progress":
            first = max(first, revision + 1)
    return first
