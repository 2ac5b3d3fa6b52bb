"""`State`: everything the log decides, in one object, with the index up to which it was decided."""

from collections.abc import Callable, Iterator
from itertools import islice

from ratifyd import schema
from ratifyd.auth.store import FIRST_REVISION, AuthStore
from ratifyd.lease import LeaseBook
from ratifyd.membership import Membership
from ratifyd.mvcc.buffer import WriteBuffer
from ratifyd.mvcc.hash import BYTES_PER_SLICE
from ratifyd.mvcc.store import ROWS_PER_SLICE, Store
from ratifyd.mvcc.watch import WatchHub
from ratifyd.ports import Backend, Done
from ratifyd.proto.lease_pb2 import Lease
from ratifyd.proto.rpc_pb2 import NOSPACE, AlarmMember


class State:
    """The replicated state of one member. `consistent_index` is the last entry it reflects."""

    __slots__ = (
        "alarms",
        "auth",
        "buffer",
        "conf_state_json",
        "consistent_index",
        "hub",
        "leases",
        "members",
        "over_quota",
        "room",
        "store",
        "term",
        "warnings",
    )

    def __init__(self, backend: Backend, members: Membership, *, min_ttl_s: int = 0) -> None:
        self.buffer = WriteBuffer(backend)
        self.hub = WatchHub()
        self.store = Store(self.buffer, self.hub)
        self.leases = LeaseBook(min_ttl_s=min_ttl_s)
        self.members = members
        self.auth = AuthStore()
        self.alarms: dict[tuple[int, int], None] = {}
        self.consistent_index = 0
        self.term = 0
        self.conf_state_json = b""
        self.over_quota: Callable[[int], bool] = _never
        self.room = 0
        """Entries of fewer bytes are within the quota whatever they hold, until the next commit."""
        self.warnings: list[tuple[str, dict[str, object]]] = []

    def restore(self) -> Iterator[int]:
        """Rebuild everything held in memory from the backend; yields after each slice with the rows or keys it took."""
        buffer = self.buffer
        self.consistent_index = schema.decode_u64(buffer.get(schema.META, schema.CONSISTENT_INDEX) or bytes(8))
        self.term = schema.decode_u64(buffer.get(schema.META, schema.TERM) or bytes(8))
        self.conf_state_json = buffer.get(schema.META, schema.CONF_STATE) or b""
        yield from self.store.restore()
        yield from self._restore_leases()
        self.alarms = {}
        for key, _ in buffer.range(schema.ALARM, b"", None):
            alarm = AlarmMember.FromString(key)
            self.alarms[(alarm.memberID, alarm.alarm)] = None
        self._restore_auth()
        self.members.restore(
            buffer.range(schema.MEMBERS, b"", None),
            buffer.range(schema.MEMBERS_REMOVED, b"", None),
            buffer.get(schema.CLUSTER, schema.CLUSTER_VERSION),
            buffer.get(schema.CLUSTER, schema.DOWNGRADE),
        )

    def _restore_leases(self) -> Iterator[int]:
        """Read the leases, and attach the keys of the store to them."""
        leases = self.leases
        leases.clear()
        cursor: bytes | None = b""
        while cursor is not None:
            rows, cursor = self.buffer.scan(schema.LEASE, cursor, None, ROWS_PER_SLICE, BYTES_PER_SLICE)
            for _, value in rows:
                lease = Lease.FromString(value)
                leases.restore(lease.ID, lease.TTL, lease.RemainingTTL)
            yield len(rows)
        attachments = iter(self.store.attachments.items())
        while some := list(islice(attachments, ROWS_PER_SLICE)):
            for key, lease_id in some:
                if lease_id in leases.leases:
                    leases.attach(lease_id, key)
            yield len(some)
        self.store.attachments.clear()

    def _restore_auth(self) -> None:
        """Read the auth store; one that never counted its changes begins to (formats 5.10)."""
        buffer = self.buffer
        revision = schema.decode_u64(buffer.get(schema.AUTH, schema.AUTH_REVISION) or bytes(8))
        if not revision:
            revision = FIRST_REVISION
            buffer.put(schema.AUTH, schema.AUTH_REVISION, schema.encode_u64(revision))
        self.auth.restore(
            buffer.get(schema.AUTH, schema.AUTH_ENABLED) == b"\x01",
            revision,
            buffer.range(schema.AUTH_USERS, b"", None),
            buffer.range(schema.AUTH_ROLES, b"", None),
        )

    def take_over(self, other: "State") -> None:
        """Become equal to a state restored from the backend that has just replaced ours; watchers go on from here."""
        self.buffer.discard()
        self.store.take_over(other.store)
        self.leases.take_over(other.leases)
        self.members.take_over(other.members)
        self._take_over_auth()
        self.alarms = other.alarms
        self.consistent_index = other.consistent_index
        self.term = other.term
        self.conf_state_json = other.conf_state_json

    def _take_over_auth(self) -> None:
        """Read the auth store anew, and end the tokens that the entries in between, which are not to be seen, ended."""
        auth, before = self.auth, self.auth.users
        self._restore_auth()
        if not auth.enabled:
            auth.tokens.invalidate_all()
        for name, user in before.items():
            now = auth.users.get(name)
            if now is None or now.password != user.password:
                auth.tokens.invalidate_user(name)

    def has_alarm(self, alarm: int = NOSPACE) -> bool:
        """Whether any member has raised this alarm."""
        return bool(self.alarms) and any(kind == alarm for _, kind in self.alarms)

    def seal(self, done: Done) -> bool:
        """Hand pending rows to the backend, with the index they reflect; False while an earlier batch is under way."""
        buffer = self.buffer
        if buffer.flushing:
            return False
        buffer.put(schema.META, schema.CONSISTENT_INDEX, schema.encode_u64(self.consistent_index))
        buffer.put(schema.META, schema.TERM, schema.encode_u64(self.term))
        if self.conf_state_json:
            buffer.put(schema.META, schema.CONF_STATE, self.conf_state_json)
        return buffer.seal(done)

    def warn(self, message: str, **fields: object) -> None:
        """Leave a fact worth logging; the server takes it out and logs it."""
        self.warnings.append((message, fields))


def _never(_cost: int) -> bool:
    return False
