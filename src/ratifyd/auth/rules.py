"""What the permissions of a user's roles add up to: merged key ranges, by kind of access (semantics 9.9-9.13)."""

from bisect import bisect_right
from collections.abc import Iterable

from ratifyd.auth.records import Role
from ratifyd.keys import KeyRange
from ratifyd.proto.auth_pb2 import Permission


class Ranges:
    """A set of keys as disjoint ranges in order, no two of which touch."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[KeyRange]) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes | None] = []
        ends = self._ends
        for start, end in sorted(ranges, key=lambda found: found.start):
            if ends and (ends[-1] is None or start <= ends[-1]):
                if ends[-1] is not None and (end is None or end > ends[-1]):
                    ends[-1] = end
            else:
                self._starts.append(start)
                ends.append(end)

    def covers(self, key: bytes, range_end: bytes) -> bool:
        """Whether a range, in its wire form, lies wholly inside; for one that holds no key, whether its start does."""
        at = bisect_right(self._starts, key) - 1
        if at < 0 or not key:
            return False
        end = self._ends[at]
        if end is None:
            return True
        if not range_end or (range_end <= key and range_end != b"\0"):
            return key < end
        return range_end != b"\0" and range_end <= end


class Grants:
    """What a user may read and write."""

    __slots__ = ("everything", "read", "write")

    def __init__(self, roles: Iterable[Role], *, everything: bool = False) -> None:
        self.everything = everything
        permissions = [permission for role in roles for permission in role.permissions]
        self.read = Ranges(_ranges(permissions, Permission.READ))
        self.write = Ranges(_ranges(permissions, Permission.WRITE))


def is_valid_range(key: bytes, range_end: bytes) -> bool:
    """Whether a permission may be granted on this range."""
    return bool(key) and (not range_end or range_end == b"\0" or key < range_end)


def _ranges(permissions: Iterable[Permission], kind: "Permission.Type") -> Iterable[KeyRange]:
    for permission in permissions:
        # Members up to 3.5.7 grant invalid ranges too; no key is in them.
        if permission.permType in (kind, Permission.READWRITE) and is_valid_range(permission.key, permission.range_end):
            yield KeyRange.parse(permission.key, permission.range_end)
