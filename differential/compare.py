"""Whether two messages agree, field by field; the one table of what may differ, and why."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet


class Rule(Enum):
    """How a field is compared; fields without a row must be equal."""

    IGNORE = "not compared"
    PRESENCE = "both zero or both not"
    NEAR = "may differ by one"
    UNORDERED = "compared as a multiset"


@dataclass(frozen=True, slots=True)
class Row:
    """One field that is not compared for equality."""

    message: str
    field: str
    rule: Rule
    reason: str


TABLE = (
    Row("etcdserverpb.ResponseHeader", "raft_term", Rule.PRESENCE, "elections are a matter of timing"),
    Row("etcdserverpb.StatusResponse", "version", Rule.IGNORE, "the versions differ on purpose"),
    Row("etcdserverpb.StatusResponse", "dbSize", Rule.PRESENCE, "the storage engines differ"),
    Row("etcdserverpb.StatusResponse", "dbSizeInUse", Rule.PRESENCE, "the storage engines differ"),
    Row("etcdserverpb.StatusResponse", "raftIndex", Rule.PRESENCE, "start-up writes other entries"),
    Row(
        "etcdserverpb.StatusResponse",
        "raftAppliedIndex",
        Rule.PRESENCE,
        "start-up writes other entries",
    ),
    Row("etcdserverpb.StatusResponse", "raftTerm", Rule.PRESENCE, "elections are a matter of timing"),
    Row("etcdserverpb.StatusResponse", "storageVersion", Rule.IGNORE, "field since 3.6; 3.5.1 does not send it"),
    Row("etcdserverpb.StatusResponse", "dbSizeQuota", Rule.IGNORE, "field since 3.6; 3.5.1 does not send it"),
    Row("etcdserverpb.StatusResponse", "downgradeInfo", Rule.IGNORE, "field since 3.6; 3.5.1 does not send it"),
    Row("etcdserverpb.HashKVResponse", "hash_revision", Rule.IGNORE, "field since 3.6; 3.5.1 does not send it"),
    Row("etcdserverpb.SnapshotResponse", "version", Rule.IGNORE, "field since 3.6; 3.5.1 does not send it"),
    Row("etcdserverpb.Member", "clientURLs", Rule.PRESENCE, "the two listen on different ports"),
    Row("etcdserverpb.LeaseTimeToLiveResponse", "TTL", Rule.NEAR, "the two are asked at different instants"),
    Row("etcdserverpb.LeaseTimeToLiveResponse", "keys", Rule.UNORDERED, "etcd iterates over a map"),
    Row("etcdserverpb.LeaseLeasesResponse", "leases", Rule.UNORDERED, "ordered by expiry, where ties are possible"),
    Row("etcdserverpb.AuthenticateResponse", "token", Rule.PRESENCE, "tokens are random"),
    Row("etcdserverpb.AlarmResponse", "alarms", Rule.UNORDERED, "etcd iterates over a map"),
)

_RULES = {(row.message, row.field): row.rule for row in TABLE}

AVOIDED = {
    "range with an unknown sort_target": "kills etcd 3.5.1 (nil sorter); an error since 3.6",
    "range with an unknown sort_order": "accepted by 3.5.1, an error since 3.6",
    "watch with a negative start_revision": "3.5.1 sends a stray message, 3.6.6 cancels the watcher",
    "watch that starts exactly at the compacted revision": "whether a tombstone there is kept changed in 3.5.16",
    "HashKV of a revision that was compacted at": "an error in 3.5.1, answered from memory since 3.5.5",
    "txn that deletes up to a zero byte, then puts with ignore_value or ignore_lease": "kills etcd",
    "Compact at revision 0": "afterwards HashKV of revision 0 is answered from memory since 3.5.5",
    "watch with id -1": "3.5.1 takes it for the id of failed creations",
    "progress request on a stream without watchers": "answered by 3.5.1, not since 3.5.8",
    "progress request with a watcher of the future": "answered by 3.5.1, not since 3.5.8",
    "Hash": "covers buckets whose content depends on version and start-up",
    "RangeStream": "unknown to 3.5.1",
    "Alarm with an unknown action": "kills etcd 3.5.1 and 3.6",
    "lease ids and grants of zero": "the server draws the id",
    "leases shorter than the sequence": "expiry is a matter of timing; see scenarios",
    "ties in sorted ranges": "etcd's sort is not stable",
    "permission ranges that end before they start": "stored by 3.5.1, refused since 3.5.8",
    "RoleGet of root while there is such a role": "no permissions in 3.5.1, one for everything since 3.6",
    "leases, members, alarms and status asked for by nobody while auth is on": "allowed by 3.5.1, refused since 3.5.28",
    "txns inside txns while auth is on": "3.5.1 does not look at the rights they need",
    "leases put in a txn while auth is on": "keys attached to them are looked at since 3.5.30",
    "puts with prev_kv in a txn while auth is on": "3.5.1 does not ask for the right to read",
    "a token while auth is off": "an error in 3.5.1, ignored since 3.5.10",
    "maintenance by others than root while auth is on": "errors without their codes in 3.5",
    "watches that may not be": "all denied alike by 3.5.1, with the reason since 3.5.6",
    "wrong wire types in requests": "refused by gogo/protobuf, unknown fields for others",
}
"""What the generator never sends, because the two sides are allowed to differ there."""


def differences(left: Message, right: Message, where: str = "") -> list[str]:
    """Every field in which the two messages (of one type) disagree, as text; empty when they agree."""
    found: list[str] = []
    name = left.DESCRIPTOR.full_name
    for field in left.DESCRIPTOR.fields:
        rule = _RULES.get((name, field.name))
        if rule is Rule.IGNORE:
            continue
        place = f"{where}.{field.name}" if where else field.name
        if field.is_repeated:
            found += _repeated(field, list(getattr(left, field.name)), list(getattr(right, field.name)), rule, place)
        elif field.has_presence and left.HasField(field.name) != right.HasField(field.name):
            found.append(f"{place}: present {left.HasField(field.name)} and {right.HasField(field.name)}")
        else:
            found += _single(field, getattr(left, field.name), getattr(right, field.name), rule, place)
    unknown = [_unknown(message) for message in (left, right)]
    if unknown[0] != unknown[1]:
        found.append(f"{where or name}: unknown fields {unknown[0]} and {unknown[1]}")
    return found


def _unknown(message: Message) -> list[tuple[int, int, Any]]:
    return [(field.field_number, field.wire_type, field.data) for field in UnknownFieldSet(message)]


def _single(field: FieldDescriptor, left: Any, right: Any, rule: Rule | None, place: str) -> list[str]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return differences(left, right, place)
    if rule is Rule.PRESENCE:
        equal = bool(left) == bool(right)
    elif rule is Rule.NEAR:
        equal = abs(left - right) <= 1
    else:
        equal = left == right
    return [] if equal else [f"{place}: {left!r} and {right!r}"]


def _repeated(field: FieldDescriptor, left: list[Any], right: list[Any], rule: Rule | None, place: str) -> list[str]:
    if len(left) != len(right):
        return [f"{place}: {len(left)} and {len(right)} items"]
    if rule is Rule.UNORDERED:
        left, right = sorted(left, key=_order), sorted(right, key=_order)
    found: list[str] = []
    for at, (one, other) in enumerate(zip(left, right)):
        found += _single(field, one, other, rule, f"{place}[{at}]")
    return found


def _order(item: Any) -> Any:
    return item.SerializeToString(deterministic=True) if isinstance(item, Message) else item


def sorted_range_differences(request: Any, left: Any, right: Any) -> list[str]:
    """As `differences` for answers to a Range sorted by something else than the key.

    Items with equal sort values may come in any order, and if the answer is cut, any of the last group may be in it.
    """
    found = differences(_without_items(left), _without_items(right))
    if len(left.kvs) != len(right.kvs):
        return [*found, f"kvs: {len(left.kvs)} and {len(right.kvs)} items"]
    value_of = _SORT_VALUES[request.sort_target]
    if request.keys_only and request.sort_target == 4:
        return found if left.more else found + _as_sets(left.kvs, right.kvs)
    values = [[value_of(item) for item in answer.kvs] for answer in (left, right)]
    if values[0] != values[1]:
        return [*found, f"kvs: sort values {values[0]} and {values[1]}"]
    last = values[0][-1] if left.more and values[0] else None
    kept = [[item for item in answer.kvs if value_of(item) != last] for answer in (left, right)]
    return found + _as_sets(*kept)


_SORT_VALUES: dict[int, Any] = {
    1: lambda item: item.version,
    2: lambda item: item.create_revision,
    3: lambda item: item.mod_revision,
    4: lambda item: item.value,
}


def _without_items(answer: Any) -> Any:
    rest = type(answer)()
    rest.CopyFrom(answer)
    rest.ClearField("kvs")
    return rest


def _as_sets(left: Any, right: Any) -> list[str]:
    found: list[str] = []
    for one, other in zip(sorted(left, key=_order), sorted(right, key=_order)):
        found += differences(one, other, "kvs (in any order)")
    return found
