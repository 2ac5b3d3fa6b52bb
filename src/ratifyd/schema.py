"""Buckets of the backend and the codecs of their keys: etcd's names and bytes (etcd 3.5 server/storage/schema).

Deliberately knows nothing of what the values mean.
"""

from struct import Struct

KEY = b"key"
META = b"meta"
LEASE = b"lease"
ALARM = b"alarm"
AUTH = b"auth"
AUTH_USERS = b"authUsers"
AUTH_ROLES = b"authRoles"
CLUSTER = b"cluster"
MEMBERS = b"members"
MEMBERS_REMOVED = b"members_removed"

BUCKETS = (ALARM, AUTH, AUTH_ROLES, AUTH_USERS, CLUSTER, KEY, LEASE, MEMBERS, MEMBERS_REMOVED, META)
"""All buckets, in name order: the order in which Maintenance.Hash walks them."""

CONSISTENT_INDEX = b"consistent_index"
TERM = b"term"
CONF_STATE = b"confState"
SCHEDULED_COMPACT = b"scheduledCompactRev"
FINISHED_COMPACT = b"finishedCompactRev"
STORAGE_VERSION = b"storageVersion"
AUTH_ENABLED = b"authEnabled"
AUTH_REVISION = b"authRevision"
CLUSTER_VERSION = b"clusterVersion"
DOWNGRADE = b"downgrade"

REVISION_BYTES = 17
TOMBSTONE_MARK = b"t"

_revision = Struct(">QcQ")
_u64 = Struct(">Q")


def encode_revision(main: int, sub: int) -> bytes:
    """17-byte key of a revision in bucket `key`: main, '_', sub, big endian."""
    return _revision.pack(main, b"_", sub)


def encode_tombstone(main: int, sub: int) -> bytes:
    """18-byte key of a deletion in bucket `key`: a revision and 't'."""
    return _revision.pack(main, b"_", sub) + TOMBSTONE_MARK


def decode_revision(key: bytes) -> tuple[int, int]:
    """(main, sub) of a revision or tombstone key."""
    main, _, sub = _revision.unpack_from(key)
    return main, sub


def is_revision(key: bytes) -> bool:
    """Whether a key of bucket `key` has the form of a revision or of a tombstone."""
    return key[8:9] == b"_" and (len(key) == REVISION_BYTES or key[REVISION_BYTES:] == TOMBSTONE_MARK)


def is_tombstone(key: bytes) -> bool:
    """Whether a key of bucket `key` records a deletion."""
    return len(key) == REVISION_BYTES + 1


def encode_u64(value: int) -> bytes:
    """8 bytes, big endian; negative lease ids become their two's complement."""
    return _u64.pack(value & 0xFFFFFFFFFFFFFFFF)


def decode_u64(data: bytes) -> int:
    """The unsigned integer of 8 big-endian bytes."""
    value: int = _u64.unpack(data)[0]
    return value


def encode_lease_id(lease_id: int) -> bytes:
    """Key of a lease in bucket `lease`."""
    return _u64.pack(lease_id & 0xFFFFFFFFFFFFFFFF)
