"""Draw one operation after the other from a seed: few keys, so that collisions are frequent, and every kind of mistake.

What is never drawn, and why, stands in `compare.AVOIDED`. The draw depends on the seed and on the left side's answers
(revisions), so a seed reproduces a sequence as long as the left side answers the same.
"""

import random
from collections.abc import Callable, Collection, Iterator

from google.protobuf.message import Message

from differential.operations import KEEPALIVE_PATH, WATCH_PATH, Kind, Operation
from differential.runner import COMPACT_PATH, GRANT_PATH, HASH_PATH, RANGE_PATH, REVOKE_PATH, Session
from ratifyd.proto import auth_pb2, election_pb2, lock_pb2, rpc_pb2

KEYS = [b"a", b"a/1", b"a/2", b"a0", b"b", b"b\x00", b"c", b"d/x", b"\x00", b"\xff", b"\xff\xff", "ключ".encode()]
RANGE_ENDS = [b"\x00", b"b", b"a0", b"c", b"d0", b"\xff", b"a", b"\x01", b"zz"]
LEASES = [1, 2, 3, 4, 5, 6, -7, 7_000_000_000, 2**63 - 1]
LOCK_LEASES = [11, 12]
"""Apart from the others, as etcd now and then renews the lease of who locks, and so changes its time to live."""
STREAMS = 3
WATCHERS_A_STREAM = 5
_LARGE_TTL = 100_000

_ELECTION = "/v3electionpb.Election/"
_Range = rpc_pb2.RangeRequest
_Compare = rpc_pb2.Compare


Family = Callable[[Session], Operation]


class Generator:
    """`next` draws an operation that suits the session's present state."""

    def __init__(self, seed: int, without: Collection[str] = ()) -> None:
        """`without` names families to leave out: put, range, txn, auth, watch_create, ..."""
        self.random = random.Random(seed)
        self._counter = 0
        kept = [(weight, family) for weight, family in self._table() if family.__name__.lstrip("_") not in without]
        self._weights = [weight for weight, _ in kept]
        self._families = [family for _, family in kept]

    def _table(self) -> list[tuple[float, Family]]:
        """Families of operations and how often each is drawn."""
        return [
            (24, self._put),
            (20, self._range),
            (9, self._delete),
            (16, self._txn),
            (0.5, self._compact),
            (4, self._grant),
            (3, self._revoke),
            (3, self._time_to_live),
            (3, self._keepalive),
            (1, self._leases),
            (3, self._watch_create),
            (1.5, self._watch_cancel),
            (1, self._watch_progress),
            (0.2, self._watch_nothing),
            (1.5, self._lock),
            (2, self._election),
            (0.2, self._watch_reopen),
            (1.5, self._hash_kv),
            (0.5, self._member_list),
            (0.5, self._status),
            (0.5, self._alarms),
            (1, self._bad_call),
            (1, self._malformed),
            (0.1, self._oversized),
            (3, self._auth),
        ]

    def next(self, session: Session) -> Operation:
        """The next operation."""
        return self.random.choices(self._families, self._weights)[0](session)

    # Ingredients

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _key(self) -> bytes:
        return b"" if self._chance(0.01) else self.random.choice(KEYS)

    def _range_end(self, key: bytes) -> bytes:
        kind = self.random.random()
        if kind < 0.55:
            return b""
        if kind < 0.65:
            return b"\x00"
        if kind < 0.75:
            return key + b"\x00"
        if kind < 0.80:
            return key
        return self.random.choice(RANGE_ENDS)

    def _value(self) -> bytes:
        self._counter += 1
        if self._chance(0.05):
            return b""
        if self._chance(0.05):
            return self.random.randbytes(self.random.choice([1, 100, 5000]))
        return b"v%d" % (self._counter % 50 if self._chance(0.3) else self._counter)

    def _lease(self) -> int:
        return self.random.choice(LEASES)

    def _revision(self, session: Session, *, latest: float = 0.5) -> int:
        """0 mostly, else around the compacted and the current revision, negative included."""
        if self._chance(latest):
            return 0
        kind = self.random.random()
        if kind < 0.6:
            return self.random.randint(max(session.compacted, 1), session.revision)
        if kind < 0.75:
            return session.compacted + self.random.randint(-1, 1)
        if kind < 0.9:
            return session.revision + self.random.randint(-1, 2)
        return self.random.choice([-1, -100, 1, 10**12])

    # KV

    def _put_request(self) -> rpc_pb2.PutRequest:
        request = rpc_pb2.PutRequest(key=self._key(), value=self._value())
        if self._chance(0.25):
            request.lease = self._lease()
        request.prev_kv = self._chance(0.3)
        if self._chance(0.08):
            request.ignore_value = True
            if self._chance(0.8):
                request.value = b""
        if self._chance(0.08):
            request.ignore_lease = True
            if self._chance(0.8):
                request.lease = 0
        return request

    def _put(self, session: Session) -> Operation:
        return _unary("/etcdserverpb.KV/Put", self._put_request())

    def _range_request(self, session: Session, *, inside: bool = False) -> rpc_pb2.RangeRequest:
        key = self._key()
        request = _Range(key=key, range_end=self._range_end(key), revision=self._revision(session, latest=0.7))
        if self._chance(0.3):
            request.limit = self.random.choice([1, 2, 3, 5, -1, 100])
        request.serializable = self._chance(0.3)
        request.keys_only = self._chance(0.15)
        request.count_only = self._chance(0.1)
        if self._chance(0.3):
            request.sort_order = self.random.randrange(3)
            request.sort_target = _Range.KEY if inside else self.random.randrange(5)
        if self._chance(0.15):
            field = self.random.choice(
                ["min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"]
            )
            setattr(request, field, self._revision(session, latest=0))
        return request

    def _range(self, session: Session) -> Operation:
        return _unary(RANGE_PATH, self._range_request(session))

    def _delete_request(self) -> rpc_pb2.DeleteRangeRequest:
        key = self._key()
        range_end = self._range_end(key) if self._chance(0.5) else b""
        return rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=self._chance(0.4))

    def _delete(self, session: Session) -> Operation:
        return _unary("/etcdserverpb.KV/DeleteRange", self._delete_request())

    def _compare(self, session: Session) -> rpc_pb2.Compare:
        compare = _Compare(key=self._key(), result=self.random.randrange(4), target=self.random.randrange(5))
        if self._chance(0.25):
            compare.range_end = self._range_end(compare.key)
        union = compare.target if self._chance(0.95) else self.random.randrange(5)
        if self._chance(0.02):
            compare.result = 7
        if self._chance(0.02):
            compare.target = 9
        if union == _Compare.VERSION:
            compare.version = self.random.randint(-1, 4)
        elif union == _Compare.CREATE:
            compare.create_revision = self._revision(session)
        elif union == _Compare.MOD:
            compare.mod_revision = self._revision(session)
        elif union == _Compare.VALUE:
            compare.value = self._value()
        else:
            compare.lease = self._lease() if self._chance(0.7) else 0
        return compare

    def _request_op(self, session: Session, depth: int) -> rpc_pb2.RequestOp:
        kind = self.random.random()
        if kind < 0.35:
            return rpc_pb2.RequestOp(request_range=self._range_request(session, inside=True))
        if kind < 0.75:
            return rpc_pb2.RequestOp(request_put=self._put_request())
        if kind < 0.9:
            return rpc_pb2.RequestOp(request_delete_range=self._delete_request())
        if kind < 0.99 and depth < 3:
            return rpc_pb2.RequestOp(request_txn=self._txn_request(session, depth + 1))
        if kind > 0.995:
            return rpc_pb2.RequestOp()
        return rpc_pb2.RequestOp(request_range=_Range(key=self.random.choice(KEYS)))

    def _branch(self, session: Session, depth: int) -> list[rpc_pb2.RequestOp]:
        return [self._request_op(session, depth) for _ in range(self.random.choice([0, 1, 1, 2, 3, 4]))]

    def _txn_request(self, session: Session, depth: int = 0) -> rpc_pb2.TxnRequest:
        compares = [self._compare(session) for _ in range(self.random.choice([0, 1, 1, 2]))]
        request = rpc_pb2.TxnRequest(
            compare=compares, success=self._branch(session, depth), failure=self._branch(session, depth)
        )
        if self._chance(0.8):
            _drop_duplicate_puts(request)
        if depth == 0 and _has_open_deletion(request):
            _drop_ignoring_puts(request)
        if self._chance(0.02):
            extra = rpc_pb2.RequestOp(request_range=_Range(key=b"a"))
            request.success.extend([extra] * self.random.choice([60, 120, 127, 130]))
        return request

    def _txn(self, session: Session) -> Operation:
        return _unary("/etcdserverpb.KV/Txn", self._txn_request(session))

    def _compact(self, session: Session) -> Operation:
        revision = self._revision(session, latest=0) or 1
        return _unary(COMPACT_PATH, rpc_pb2.CompactionRequest(revision=revision, physical=self._chance(0.5)))

    def _hash_kv(self, session: Session) -> Operation:
        revision = self._revision(session)
        return _unary(HASH_PATH, rpc_pb2.HashKVRequest(revision=0 if revision in session.compactions else revision))

    # Leases

    def _grant(self, session: Session) -> Operation:
        ttl = self.random.choice([_LARGE_TTL, _LARGE_TTL * 10, 9_000_000_000, 9_000_000_001])
        lease = self.random.choice(LOCK_LEASES) if self._chance(0.2) else self._lease()
        return _unary(GRANT_PATH, rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=lease))

    def _revoke(self, session: Session) -> Operation:
        lease = 0 if self._chance(0.05) else self.random.choice(LEASES + LOCK_LEASES)
        return _unary(REVOKE_PATH, rpc_pb2.LeaseRevokeRequest(ID=lease))

    def _time_to_live(self, session: Session) -> Operation:
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=self._lease(), keys=self._chance(0.6))
        return _unary("/etcdserverpb.Lease/LeaseTimeToLive", request)

    def _keepalive(self, session: Session) -> Operation:
        request = rpc_pb2.LeaseKeepAliveRequest(ID=0 if self._chance(0.05) else self._lease())
        return Operation(Kind.KEEPALIVE, KEEPALIVE_PATH, request.SerializeToString())

    def _leases(self, session: Session) -> Operation:
        return _unary("/etcdserverpb.Lease/LeaseLeases", rpc_pb2.LeaseLeasesRequest())

    # Locks and elections. Each lease has a lock and an election of its own: with two candidates somebody would wait.

    def _lock(self, session: Session) -> Operation:
        lease = self.random.choice(LOCK_LEASES)
        if self._chance(0.6):
            return _unary("/v3lockpb.Lock/Lock", lock_pb2.LockRequest(name=b"lock%d" % lease, lease=lease))
        key = self._key() if self._chance(0.3) else b"lock%d/%x" % (lease, lease)
        return _unary("/v3lockpb.Lock/Unlock", lock_pb2.UnlockRequest(key=key))

    def _election(self, session: Session) -> Operation:
        lease = self.random.choice(LOCK_LEASES)
        name = b"vote%d" % lease
        kind = self.random.random()
        if kind < 0.4:
            value = self.random.choice([b"", b"one", b"two"])
            return _unary(_ELECTION + "Campaign", election_pb2.CampaignRequest(name=name, lease=lease, value=value))
        if kind < 0.6:
            # Under "a", "b" and so on there may be keys of other families.
            name = name if self._chance(0.5) else self.random.choice(KEYS)
            return _unary(_ELECTION + "Leader", election_pb2.LeaderRequest(name=name))
        key = self._key() if self._chance(0.2) else name + b"/%x" % lease
        revision = 0 if self._chance(0.4) else self._revision(session, latest=0)
        leader = election_pb2.LeaderKey(name=name, key=key, rev=revision, lease=lease)
        if kind < 0.8:
            proclaim = election_pb2.ProclaimRequest(leader=leader, value=self._value())
            return _unary(_ELECTION + "Proclaim", proclaim)
        resign = election_pb2.ResignRequest(leader=None if self._chance(0.1) else leader)
        return _unary(_ELECTION + "Resign", resign)

    # Watch

    def _watch_create(self, session: Session) -> Operation:
        stream = self.random.randrange(STREAMS)
        if len(session.watching.watchers(stream)) >= WATCHERS_A_STREAM:
            return self._watch_cancel(session)
        key = self._key()
        create = rpc_pb2.WatchCreateRequest(
            key=key, range_end=self._range_end(key), start_revision=self._start(session)
        )
        create.prev_kv = self._chance(0.4)
        create.fragment = self._chance(0.2)
        create.progress_notify = self._chance(0.2)
        if self._chance(0.3):
            create.filters.extend(self.random.choices([0, 1, 0, 1, 5], k=self.random.choice([1, 2])))
        if self._chance(0.5):
            create.watch_id = self.random.choice([1, 2, 3, 10, -5, 2**62])
        return _watch(stream, rpc_pb2.WatchRequest(create_request=create))

    def _start(self, session: Session) -> int:
        start = max(0, self._revision(session, latest=0.6))
        return start + 1 if start == session.compacted else start

    def _watch_cancel(self, session: Session) -> Operation:
        watchers = session.watching.watchers()
        if watchers and self._chance(0.8):
            watcher = self.random.choice(watchers)
            stream, watch_id = watcher.stream, watcher.watch_id
        else:
            stream, watch_id = self.random.randrange(STREAMS), self.random.choice([0, 1, 99, -3])
        return _watch(stream, rpc_pb2.WatchRequest(cancel_request=rpc_pb2.WatchCancelRequest(watch_id=watch_id)))

    def _watch_progress(self, session: Session) -> Operation:
        for stream in range(STREAMS):
            watchers = [each for each in session.watching.watchers(stream) if not each.ended]
            present = all(each.start_revision <= session.revision + 1 and not each.compacted for each in watchers)
            if watchers and present:
                return _watch(stream, rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))
        return self._watch_create(session)

    def _watch_nothing(self, session: Session) -> Operation:
        return _watch(self.random.randrange(STREAMS), rpc_pb2.WatchRequest())

    def _watch_reopen(self, session: Session) -> Operation:
        return Operation(Kind.REOPEN, WATCH_PATH, stream=self.random.randrange(STREAMS))

    # Everything else

    def _member_list(self, session: Session) -> Operation:
        return _unary("/etcdserverpb.Cluster/MemberList", rpc_pb2.MemberListRequest(linearizable=self._chance(0.5)))

    def _status(self, session: Session) -> Operation:
        return _unary("/etcdserverpb.Maintenance/Status", rpc_pb2.StatusRequest())

    def _alarms(self, session: Session) -> Operation:
        alarm = self.random.choice(list(rpc_pb2.AlarmType.values()))
        member_id = self.random.choice([0, 1])
        request = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET, alarm=alarm, memberID=member_id)
        return _unary("/etcdserverpb.Maintenance/Alarm", request)

    def _bad_call(self, session: Session) -> Operation:
        path = self.random.choice(
            ["/etcdserverpb.KV/Nothing", "/etcdserverpb.Nothing/Put", "/a.b/C", "/etcdserverpb.kv/Put", "/KV/Put"]
        )
        return Operation(Kind.UNARY, path, self.random.randbytes(self.random.choice([0, 3])))

    def _malformed(self, session: Session) -> Operation:
        good = self.random.choice([self._put, self._range, self._delete, self._txn, self._revoke])(session)
        if self._chance(0.5):
            unknown_field = b"\xa2\x06\x03abc"  # field 100, three bytes: readers skip what they do not know
            return Operation(Kind.UNARY, good.path, good.request + unknown_field)
        return Operation(Kind.UNARY, good.path, good.request + b"\x0a\x7fcut", loose_text=True)

    def _oversized(self, session: Session) -> Operation:
        size = self.random.choice([1_572_864, 1_600_000, 2_097_152, 2_500_000])
        return _unary("/etcdserverpb.KV/Put", rpc_pb2.PutRequest(key=b"a", value=bytes(size)))

    def _auth(self, session: Session) -> Operation:
        """Users and roles while auth is off; passwords only now and then, since hashing them takes time."""
        user, role = self.random.choice(["", "u1", "u2", "root"]), self.random.choice(["", "r1", "r2", "root"])
        options = auth_pb2.UserAddOptions(no_password=self._chance(0.9))
        key = self.random.choice(KEYS)
        range_end = self.random.choice([b"", b"\x00"])
        kind = self.random.choice(list(auth_pb2.Permission.Type.values()))
        permission = auth_pb2.Permission(permType=kind, key=key, range_end=range_end)
        requests = {
            "UserAdd": rpc_pb2.AuthUserAddRequest(name=user, password="p", options=options),
            "UserGet": rpc_pb2.AuthUserGetRequest(name=user),
            "UserList": rpc_pb2.AuthUserListRequest(),
            "UserDelete": rpc_pb2.AuthUserDeleteRequest(name=user),
            "UserGrantRole": rpc_pb2.AuthUserGrantRoleRequest(user=user, role=role),
            "UserRevokeRole": rpc_pb2.AuthUserRevokeRoleRequest(name=user, role=role),
            "RoleAdd": rpc_pb2.AuthRoleAddRequest(name=role),
            "RoleGet": rpc_pb2.AuthRoleGetRequest(role="r1" if role == "root" else role),
            "RoleList": rpc_pb2.AuthRoleListRequest(),
            "RoleDelete": rpc_pb2.AuthRoleDeleteRequest(role=role),
            "RoleGrantPermission": rpc_pb2.AuthRoleGrantPermissionRequest(name=role, perm=permission),
            "RoleRevokePermission": rpc_pb2.AuthRoleRevokePermissionRequest(
                role=role, key=key, range_end=permission.range_end
            ),
            "AuthStatus": rpc_pb2.AuthStatusRequest(),
            "AuthDisable": rpc_pb2.AuthDisableRequest(),
        }
        name = self.random.choice(list(requests))
        return _unary(f"/etcdserverpb.Auth/{name}", requests[name])


def _unary(path: str, request: Message) -> Operation:
    return Operation(Kind.UNARY, path, request.SerializeToString())


def _watch(stream: int, request: rpc_pb2.WatchRequest) -> Operation:
    return Operation(Kind.WATCH, WATCH_PATH, request.SerializeToString(), stream)


def _drop_duplicate_puts(request: rpc_pb2.TxnRequest) -> None:
    """Keep the first put of each key in a branch, so that most transactions get past the duplicate check."""
    for branch in (request.success, request.failure):
        seen: set[bytes] = set()
        for at in range(len(branch) - 1, -1, -1):
            if branch[at].WhichOneof("request") == "request_put":
                key = branch[at].request_put.key
                if key in seen:
                    del branch[at]
                seen.add(key)


def _branches(request: rpc_pb2.TxnRequest) -> Iterator[rpc_pb2.RequestOp]:
    """Every operation of both branches, nested ones included."""
    for operation in (*request.success, *request.failure):
        yield operation
        if operation.HasField("request_txn"):
            yield from _branches(operation.request_txn)


def _has_open_deletion(request: rpc_pb2.TxnRequest) -> bool:
    return any(operation.request_delete_range.range_end == b"\0" for operation in _branches(request))


def _drop_ignoring_puts(request: rpc_pb2.TxnRequest) -> None:
    """Nothing may rely on a key that an open-ended deletion before it can remove."""
    for operation in _branches(request):
        if operation.HasField("request_put"):
            operation.request_put.ignore_value = operation.request_put.ignore_lease = False
