"""What etcd should answer: the whole state machine in its simplest form, fed with the committed log.

Keeps every version of every key for ever, so that any answer can be checked at its revision. Written from etcd's
documented behaviour and sharing no code with the server's state machine; requests and answers are protobuf messages.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, NamedTuple

from ratifyd.proto.kv_pb2 import KeyValue
from ratifyd.proto.raft_internal_pb2 import InternalRaftRequest
from ratifyd.proto.rpc_pb2 import (
    CORRUPT,
    NOSPACE,
    AlarmRequest,
    Compare,
    DeleteRangeResponse,
    PutResponse,
    RangeRequest,
    RangeResponse,
    TxnResponse,
)
from simulation.authmodel import AuthRefused, Need, Rights, needs_of

COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"
NO_LEASE = "etcdserver: requested lease not found"
LEASE_EXISTS = "etcdserver: lease already exists"
NO_KEY = "etcdserver: key not found"
NO_SPACE = "etcdserver: mvcc: database space exceeded"
IS_CORRUPT = "etcdserver: corrupt cluster"

_NOT_WHEN_CORRUPT = ("put", "delete_range", "txn", "compaction", "lease_grant", "lease_revoke")
_V2_FIRST_BYTE = 8
_ORDER: dict[int, Callable[[int], bool]] = {
    Compare.EQUAL: lambda order: order == 0,
    Compare.NOT_EQUAL: lambda order: order != 0,
    Compare.GREATER: lambda order: order > 0,
    Compare.LESS: lambda order: order < 0,
}
_SORTED_BY: dict[int, Callable[["Version"], Any]] = {
    RangeRequest.KEY: attrgetter("key"),
    RangeRequest.VERSION: attrgetter("version"),
    RangeRequest.CREATE: attrgetter("create"),
    RangeRequest.MOD: attrgetter("mod"),
    RangeRequest.VALUE: attrgetter("value"),
}


class Version(NamedTuple):
    """A key at a revision; version 0: deleted."""

    key: bytes
    mod: int
    create: int
    version: int
    value: bytes
    lease: int

    def kv(self) -> KeyValue:
        """As etcd shows it; of a deletion, key and revision are left."""
        return KeyValue(
            key=self.key,
            mod_revision=self.mod,
            create_revision=self.create,
            version=self.version,
            value=self.value,
            lease=self.lease,
        )


class Change(NamedTuple):
    """One event: what a key became, and what it was before the revision."""

    version: Version
    before: Version | None


class Book(NamedTuple):
    """Leases, what hangs on them, and alarms. Never changed: each change makes another one."""

    leases: dict[int, tuple[int, int]]
    """TTL and the rest on record, 0 for none, by id."""
    attached: dict[bytes, int]
    alarms: frozenset[tuple[int, int]]


class Applied(NamedTuple):
    """What a committed entry came to."""

    at: int
    """Its index in the log."""
    kind: str
    request: Any
    response: Any
    error: str
    revision: int
    """The store's revision afterwards."""
    compacted: int
    leases: int
    """How many leases there are afterwards."""
    rights: Rights
    """Those in force afterwards."""
    user: str
    """Who asked for it; empty for nobody in particular."""
    book: Book
    """Leases and alarms afterwards."""


class Refused(Exception):
    """The request has no effect; the text is the client's."""


class Model:
    """The state after the entries applied so far, and the way there."""

    def __init__(self, min_ttl_s: int) -> None:
        self.revision = 1
        self.compacted = -1
        self.applied: list[Applied] = []
        """By index - 1."""
        self.keys: dict[bytes, list[Version]] = {}
        self.changes: dict[int, list[Change]] = {}
        """Events by revision."""
        self.writes: dict[int, Applied] = {}
        """What made each revision."""
        self.leases: dict[int, int] = {}
        self.rests: dict[int, int] = {}
        """What is left of leases, as checkpoints say."""
        self.attached: dict[bytes, int] = {}
        self.alarms: set[tuple[int, int]] = set()
        self.rights = Rights()
        self.book = Book({}, {}, frozenset())
        self.passwords: dict[str, list[tuple[int, str]]] = {}
        """Of each user by index, as the log has them; empty where the user is gone."""
        self.proposed: dict[tuple[str, bytes], list[Applied]] = {}
        """Everything that was committed, by kind and encoding of the request."""
        self.compactions: list[int] = []
        self._min_ttl_s = min_ttl_s

    # --- the log ---------------------------------------------------------------------------------------------------

    def apply(self, index: int, data: bytes) -> Applied:
        """Execute the next entry; membership changes and empty entries come as b""."""
        assert index == len(self.applied) + 1
        kind, request, response, error, user = "", None, None, "", ""
        if data and data[0] != _V2_FIRST_BYTE:
            entry = InternalRaftRequest.FromString(data)
            kind = next(field.name for field, _ in entry.ListFields() if field.name != "header")
            request, user = getattr(entry, kind), entry.header.username
            before = self.revision
            try:
                self._admit(kind, request, user, entry.header.auth_revision)
                response = self._execute(kind, request)
            except (Refused, AuthRefused) as refused:
                error = str(refused)
        leases = len(self.leases)
        applied = Applied(
            index,
            kind,
            request,
            response,
            error,
            self.revision,
            self.compacted,
            leases,
            self.rights,
            user,
            self._booked(),
        )
        self.applied.append(applied)
        if kind and request is not None:
            self.proposed.setdefault((kind, request.SerializeToString(deterministic=True)), []).append(applied)
            if self.revision != before:
                self.writes[self.revision] = applied
        return applied

    def _booked(self) -> Book:
        """Leases and alarms as they are now."""
        leases = {lease: (ttl, self.rests.get(lease, 0)) for lease, ttl in self.leases.items()}
        now = Book(leases, self.attached, frozenset(self.alarms))
        if now != self.book:
            self.book = now._replace(attached=dict(self.attached))
        return self.book

    def _admit(self, kind: str, request: Any, user: str, auth_revision: int) -> None:
        """Refuse what alarms and rights forbid."""
        raised = {alarm for _, alarm in self.alarms}
        if CORRUPT in raised and kind in _NOT_WHEN_CORRUPT:
            raise Refused(IS_CORRUPT)
        if NOSPACE in raised and (kind in ("put", "lease_grant") or (kind == "txn" and _puts(request))):
            raise Refused(NO_SPACE)
        if kind.startswith("auth_"):
            self.rights.check_admin(user)
            return
        needs = needs_of(kind, request) if self.rights.is_admin(user) else self._needs(kind, request)
        self.rights.check(user, auth_revision, needs)

    def _needs(self, kind: str, request: Any) -> Iterable[Need]:
        """What a request needs, the keys of its leases included: whoever attaches one must be able to delete them."""
        yield from needs_of(kind, request)
        if kind == "lease_revoke":
            leases = {request.ID}
        elif kind == "put":
            leases = {request.lease}
        elif kind == "txn":
            puts = (op.request_put for branch in (request.success, request.failure) for op in branch)
            leases = {put.lease for put in puts}
        else:
            return
        for key, lease in self.attached.items():
            if lease in leases and lease:
                yield key, b"", True

    def _execute(self, kind: str, request: Any) -> Any:
        if kind == "put":
            self._check_put(request)
            return self._in_revision(lambda: self._put(request))
        if kind == "delete_range":
            return self._in_revision(lambda: self._delete(request))
        if kind == "txn":
            return self._txn(request)
        if kind == "compaction":
            return self._compact(request.revision)
        if kind in ("lease_grant", "lease_revoke"):
            return self._lease(kind, request)
        if kind == "lease_checkpoint":
            self.rests.update(
                {point.ID: point.remaining_TTL for point in request.checkpoints if point.ID in self.leases}
            )
        elif kind == "alarm":
            self._alarm(request)
        elif kind.startswith("auth"):
            self.rights = self.rights.after(kind, request)
            if hasattr(request, "hashedPassword"):
                self.passwords.setdefault(request.name, []).append((len(self.applied) + 1, request.hashedPassword))
            elif kind == "auth_user_delete":
                self.passwords[request.name].append((len(self.applied) + 1, ""))
        return None

    def _compact(self, revision: int) -> None:
        if revision <= self.compacted:
            raise Refused(COMPACTED)
        if revision > self.revision:
            raise Refused(FUTURE)
        self.compacted = revision
        self.compactions.append(revision)

    def _lease(self, kind: str, request: Any) -> None:
        if kind == "lease_grant":
            if request.ID in self.leases:
                raise Refused(LEASE_EXISTS)
            self.leases[request.ID] = max(request.TTL, self._min_ttl_s)
            return
        if request.ID not in self.leases:
            raise Refused(NO_LEASE)
        del self.leases[request.ID]
        self.rests.pop(request.ID, None)
        keys = sorted(key for key, lease in self.attached.items() if lease == request.ID)
        self._in_revision(lambda: list(map(self._remove, keys)))

    def _alarm(self, request: AlarmRequest) -> None:
        raised = (request.memberID, request.alarm)
        if request.action == AlarmRequest.ACTIVATE:
            self.alarms.add(raised)
        elif request.action == AlarmRequest.DEACTIVATE:
            self.alarms.discard(raised)

    # --- writes ----------------------------------------------------------------------------------------------------

    def _in_revision(self, write: Callable[[], Any]) -> Any:
        self.changes[self.revision + 1] = []
        result = write()
        if self.changes[self.revision + 1]:
            self.revision += 1
        else:
            del self.changes[self.revision + 1]
        return result

    def _set(self, version: Version) -> None:
        before = self.get(version.key, self.revision)
        self.keys.setdefault(version.key, []).append(version)
        self.changes[self.revision + 1].append(Change(version, before))

    def _check_put(self, request: Any) -> None:
        if request.lease and request.lease not in self.leases:
            raise Refused(NO_LEASE)
        if (request.ignore_value or request.ignore_lease) and self.get(request.key) is None:
            raise Refused(NO_KEY)

    def _put(self, request: Any) -> PutResponse:
        old = self.get(request.key, self.revision + 1)
        value = old.value if old is not None and request.ignore_value else request.value
        lease = old.lease if old is not None and request.ignore_lease else request.lease
        main = self.revision + 1
        create, number = (main, 1) if old is None else (old.create, old.version + 1)
        self._set(Version(request.key, main, create, number, value, lease))
        self.attached.pop(request.key, None)
        if lease:
            self.attached[request.key] = lease
        if request.prev_kv and old is not None:
            return PutResponse(prev_kv=old.kv())
        return PutResponse()

    def _delete(self, request: Any) -> DeleteRangeResponse:
        found = self.find(request.key, request.range_end, self.revision + 1)
        for old in found:
            self._remove(old.key)
        previous = [old.kv() for old in found] if request.prev_kv else []
        return DeleteRangeResponse(deleted=len(found), prev_kvs=previous)

    def _remove(self, key: bytes) -> None:
        self._set(Version(key, self.revision + 1, 0, 0, b"", 0))
        self.attached.pop(key, None)

    def _txn(self, request: Any) -> TxnResponse:
        succeeded, ops = self._branch(request, self.revision)
        for op in ops:
            if op.HasField("request_put"):
                self._check_put(op.request_put)
        for op in ops:
            if op.HasField("request_range"):
                self.check_revision(op.request_range.revision)
        result: TxnResponse = self._in_revision(lambda: self._run(succeeded, ops))
        return result

    def _run(self, succeeded: bool, ops: Iterable[Any]) -> TxnResponse:
        response = TxnResponse(succeeded=succeeded)
        for op in ops:
            answer = response.responses.add()
            if op.HasField("request_put"):
                answer.response_put.CopyFrom(self._put(op.request_put))
            elif op.HasField("request_delete_range"):
                answer.response_delete_range.CopyFrom(self._delete(op.request_delete_range))
            else:
                answer.response_range.CopyFrom(self.range(op.request_range, self.revision + 1))
        return response

    def _branch(self, request: Any, revision: int) -> tuple[bool, Any]:
        succeeded = all(self._holds(compare, revision) for compare in request.compare)
        return succeeded, request.success if succeeded else request.failure

    def _holds(self, compare: Any, revision: int) -> bool:
        found = self.get(compare.key, revision)
        actual: Any
        if compare.target == Compare.VALUE:
            if found is None:
                return False
            actual, wanted = found.value, compare.value
        else:
            name = {Compare.VERSION: "version", Compare.CREATE: "create", Compare.MOD: "mod", Compare.LEASE: "lease"}
            wanted = getattr(compare, compare.WhichOneof("target_union"))
            actual = 0 if found is None else getattr(found, name[compare.target])
        return _ORDER[compare.result]((actual > wanted) - (actual < wanted))

    # --- reads -----------------------------------------------------------------------------------------------------

    def check_revision(self, revision: int) -> None:
        """Refuse what cannot be read now."""
        if revision > self.revision:
            raise Refused(FUTURE)
        if 0 < revision < self.compacted:
            raise Refused(COMPACTED)

    def get(self, key: bytes, revision: int | None = None) -> Version | None:
        """A key at a revision, by default the present one."""
        versions = self.keys.get(key)
        if not versions:
            return None
        if revision is None or versions[-1].mod <= revision:
            found = versions[-1]
        else:
            at = bisect_right(versions, revision, key=attrgetter("mod"))
            if not at:
                return None
            found = versions[at - 1]
        return found if found.version else None

    def find(self, key: bytes, end: bytes, revision: int) -> list[Version]:
        """Keys of a range at a revision."""
        if not end:
            found = self.get(key, revision)
            return [] if found is None else [found]
        names = sorted(name for name in self.keys if name >= key and (end == b"\0" or name < end))
        return [found for name in names if (found := self.get(name, revision)) is not None]

    def range(self, request: RangeRequest, revision: int) -> RangeResponse:
        """A Range as of a revision, its own if it names one."""
        found = self.find(request.key, request.range_end, request.revision or revision)
        response = RangeResponse(count=len(found))
        if request.count_only:
            return response
        if request.sort_order != RangeRequest.NONE:
            found.sort(key=_SORTED_BY[request.sort_target], reverse=request.sort_order == RangeRequest.DESCEND)
        if 0 < request.limit < len(found):
            response.more = True
            found = found[: request.limit]
        for version in found:
            kv = version.kv()
            if request.keys_only:
                kv.ClearField("value")
            response.kvs.append(kv)
        return response

    def answer_at(self, kind: str, request: Any, revision: int) -> Any:
        """What a request that changed nothing must have been answered at a revision; None if it would have written."""
        if kind == "range":
            return self.range(request, revision)
        if kind == "delete_range":
            return None if self.find(request.key, request.range_end, revision) else DeleteRangeResponse()
        succeeded, ops = self._branch(request, revision)
        response = TxnResponse(succeeded=succeeded)
        for op in ops:
            answer = response.responses.add()
            if op.HasField("request_range"):
                answer.response_range.CopyFrom(self.range(op.request_range, revision))
            elif op.HasField("request_delete_range"):
                wanted = op.request_delete_range
                if self.find(wanted.key, wanted.range_end, revision):
                    return None
                answer.response_delete_range.SetInParent()
            else:
                return None
        return response

    def events(self, key: bytes, end: bytes, first: int, last: int) -> list[tuple[int, list[Change]]]:
        """Events of a key range by revision."""
        found = []
        for revision in range(first, last + 1):
            inside = [change for change in self.changes.get(revision, ()) if _inside(change.version.key, key, end)]
            if inside:
                found.append((revision, inside))
        return found


def _inside(name: bytes, key: bytes, end: bytes) -> bool:
    return name == key if not end else name >= key and (end == b"\0" or name < end)


def _puts(request: Any) -> bool:
    """Whether a txn may grow the store, whichever branch it takes."""
    return any(op.HasField("request_put") for branch in (request.success, request.failure) for op in branch)
