"""Key ranges, parsed once at the edge and used by mvcc, leases, auth and watch matching.

etcd's wire convention (an empty `range_end` for one key, a single zero byte for "to the end") stops here: further in
there is only a half-open interval, whose end may be absent.
"""

from typing import NamedTuple


class KeyRange(NamedTuple):
    """Keys k with `start <= k < end`; `end` None means no upper bound. One key is [key, key + b"\\0")."""

    start: bytes
    end: bytes | None

    @classmethod
    def parse(cls, key: bytes, range_end: bytes) -> "KeyRange":
        """Read the wire form of a range (etcd RangeRequest.key and range_end)."""
        if not range_end:
            return cls(key, key + b"\0")
        if range_end == b"\0":
            return cls(key, None)
        return cls(key, range_end)

    @property
    def is_point(self) -> bool:
        """Whether the range holds exactly one possible key."""
        return self.end is not None and len(self.end) == len(self.start) + 1 and self.end == self.start + b"\0"

    @property
    def is_empty(self) -> bool:
        """Whether no key can be inside."""
        return self.end is not None and self.end <= self.start

    def __contains__(self, key: object) -> bool:
        return isinstance(key, bytes) and self.start <= key and (self.end is None or key < self.end)


def prefix_end(prefix: bytes) -> bytes:
    """Wire `range_end` of all keys with this prefix (etcd clientv3 GetPrefixRangeEnd); b"\\0" when without bound."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return b"\0"
    return stripped[:-1] + bytes((stripped[-1] + 1,))
