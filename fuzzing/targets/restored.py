"""Rows of a backend as damage made them: refused when the state is read, or a state that can be worked with."""

import json
from collections.abc import Callable
from typing import Any

from fuzzing.mutate import plain, protobuf, split_fields
from fuzzing.target import Target
from fuzzing.targets.replicated import backend_in_memory
from ratifyd import schema
from ratifyd.apply.entries import apply_entry
from ratifyd.apply.ranges import range_body
from ratifyd.apply.requests import ROWS
from ratifyd.apply.state import State
from ratifyd.auth.identity import raw_name
from ratifyd.auth.records import Role, User
from ratifyd.embed.etcd import _restore as restore
from ratifyd.membership import Member, Membership
from ratifyd.mvcc.hash import finish
from ratifyd.proto import fast
from ratifyd.proto.auth_pb2 import Permission
from ratifyd.proto.kv_pb2 import KeyValue
from ratifyd.proto.lease_pb2 import Lease
from ratifyd.proto.rpc_pb2 import AlarmMember, Compare, RangeRequest
from ratifyd.storage.lmdbcheck import BackendDamaged
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.recover import DataDir

_NUMBERS = {name: 1 + number for number, name in enumerate(schema.BUCKETS)}
_REQUESTS: dict[str, Any] = {row.field: row for row in ROWS}
MOST_KEYS = 4
"""Keys of the state that are written to."""


def _content() -> list[tuple[bytes, bytes, bytes]]:
    """Rows of every kind: (bucket, key, value)."""
    found: list[tuple[bytes, bytes, bytes]] = []
    for main in range(2, 400, 33):
        value = b"v" * (main % 50)
        found.append((schema.KEY, schema.encode_revision(main, 0), fast.key_value(b"k%d" % main, main, main, 1, value)))
    for number, lease in enumerate((0, 7, 7)):
        data = fast.key_value(b"often", 500, 500 + number, 1 + number, b"value", lease)
        found.append((schema.KEY, schema.encode_revision(500 + number, 0), data))
    leased = fast.key_value(b"gone", 510, 510, 1, b"value", 7)
    found.append((schema.KEY, schema.encode_revision(510, 1), leased))
    found.append((schema.KEY, schema.encode_tombstone(511, 0), fast.tombstone(b"gone")))
    for lease in (7, -8):
        row = Lease(ID=lease, TTL=60, RemainingTTL=30).SerializeToString()
        found.append((schema.LEASE, schema.encode_lease_id(lease), row))
    permission = Permission(permType=Permission.READWRITE, key=b"a", range_end=b"z")
    member = Member(1, ("http://a:1",), "a", ("http://b:1",))
    found += [
        (schema.ALARM, AlarmMember(memberID=1, alarm=9).SerializeToString(), b""),  # type: ignore[arg-type]
        (schema.AUTH, schema.AUTH_ENABLED, b"\x00"),
        (schema.AUTH, schema.AUTH_REVISION, schema.encode_u64(5)),
        (schema.AUTH_ROLES, b"role", Role("role", (permission,)).encode()),
        (schema.AUTH_USERS, b"user", User("user", b"hash", ("role",), False).encode()),
        (schema.CLUSTER, schema.CLUSTER_VERSION, b"3.5.0"),
        (schema.CLUSTER, schema.DOWNGRADE, json.dumps({"target-version": "3.4.0", "enabled": True}).encode()),
        (schema.MEMBERS, b"0000000000000001", member.to_json()),
        (schema.MEMBERS_REMOVED, b"0000000000000002", b"removed"),
        (schema.META, schema.CONSISTENT_INDEX, schema.encode_u64(9)),
        (schema.META, schema.TERM, schema.encode_u64(2)),
        (schema.META, schema.CONF_STATE, b'{"voters":[1],"auto_leave":false}'),
        (schema.META, schema.FINISHED_COMPACT, schema.encode_revision(100, 0)),
        (schema.META, schema.SCHEDULED_COMPACT, schema.encode_revision(200, 0)),
    ]
    return found


def _encode(rows: list[tuple[bytes, bytes, bytes]]) -> bytes:
    """As a message, which mutators know: a field for each row, of its bucket's number, with a key and a value in it."""
    return b"".join(
        fast.length_prefixed(_NUMBERS[bucket], fast.length_prefixed(1, key) + fast.length_prefixed(2, value))
        for bucket, key, value in rows
    )


def _seeds() -> list[bytes]:
    rows = _content()
    found = [_encode(rows), _encode([row for row in rows if row[0] == schema.KEY])]
    found += [_encode([row for row in rows if row[0] != bucket]) for bucket in schema.BUCKETS]
    return [*found, *(_encode(rows[at : at + 3]) for at in range(0, len(rows), 3))]


def _filled(data: bytes) -> MemoryBackend:
    backend = backend_in_memory()
    for tag, content in split_fields(data) or ():
        row = dict(split_fields(content) or ()) if tag & 7 == 2 else {}
        if 0 < tag >> 3 <= len(schema.BUCKETS) and 0x0A in row:
            backend.write({schema.BUCKETS[(tag >> 3) - 1]: {row[0x0A]: row.get(0x12, b"")}})
    return backend


def _restored(backend: MemoryBackend) -> State:
    """The state that a start reads from its backend. Raises BackendDamaged."""
    state = State(backend, Membership(1, 1), min_ttl_s=2)
    steps = restore(state, DataDir("d"))
    try:
        while True:
            steps.send(None)
    except StopIteration:
        return state


def _restore(data: bytes) -> None:
    backend = _filled(data)
    state = _restored(backend)
    _read(state)
    _write(state)
    _read(state)
    assert state.seal(lambda error: None)
    revision = state.store.revision
    again = _restored(backend)
    assert again.store.revision == revision, "another start finds another revision"


def _read(state: State) -> None:
    store = state.store
    everything = {"key": b"\0", "range_end": b"\0"}
    for more in ({}, {"sort_target": RangeRequest.VALUE, "sort_order": RangeRequest.DESCEND}, {"limit": 1}):
        range_body(store, RangeRequest(**everything, **more))  # type: ignore[arg-type]
    for revision in {max(1, store.compacted, store.revision - 1), max(1, store.compacted), store.revision}:
        range_body(store, RangeRequest(**everything, revision=revision))  # type: ignore[arg-type]
    finish(store.hash_kv())
    finish(store.hash())
    members = state.members
    assert [Member.from_json(member.to_json()) for member in members.sorted()] == members.sorted()


def _write(state: State) -> None:
    store = state.store
    kvs = [KeyValue.FromString(kv) for kv in _live(state)[:MOST_KEYS]]
    for kv in [*kvs, KeyValue(key=b"new")]:
        _apply(state, "put", key=kv.key, value=b"another", prev_kv=True)
        _apply(state, "put", key=kv.key, ignore_value=True, ignore_lease=True)
        compares = [Compare(key=kv.key, target=target, result=Compare.LESS) for target in range(5)]  # type: ignore[arg-type]
        for compare in compares:
            _apply(state, "txn", compare=[compare])
    _apply(state, "put", key=b"new", value=b"value")
    for lease in list(state.leases.leases)[:MOST_KEYS]:
        _apply(state, "lease_revoke", ID=lease)
    for name in list(state.auth.users)[:MOST_KEYS]:
        _apply(state, "auth_user_get", name=raw_name(name))
    _apply(state, "compaction", revision=store.revision - 1)
    while store.compaction_step():
        pass
    _apply(state, "delete_range", key=b"\0", range_end=b"\0", prev_kv=True)


def _live(state: State) -> list[bytes]:
    return fast_items(range_body(state.store, RangeRequest(key=b"\0", range_end=b"\0")))


def fast_items(body: bytes) -> list[bytes]:
    """The KeyValues of an encoded RangeResponse."""
    return [content for tag, content in split_fields(body) or () if tag == 0x12]


def _apply(state: State, field: str, **fields: Any) -> None:
    """Have a request applied as it comes from the log; it may be refused."""
    row = _REQUESTS[field]
    body = row.message(**fields).SerializeToString()
    entry = fast.internal_raft_request(row.tag, body, fast.request_header(1 << 40))
    found = apply_entry(state, state.consistent_index + 1, state.term, entry, {})
    assert found is not None
    state.warnings.clear()


def _same(run: Callable[[bytes], object]) -> Callable[[], Callable[[bytes], object]]:
    return lambda: run


TARGETS = (
    Target("restore", _seeds, _same(_restore), (BackendDamaged,), (plain, protobuf, protobuf, protobuf), sample=300),
)
