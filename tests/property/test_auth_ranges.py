"""Merged permissions against the plain reading of them: a range is covered when each of its keys is."""

from hypothesis import given
from hypothesis import strategies as st

from ratifyd.auth.records import Role
from ratifyd.auth.rules import Grants, is_valid_range
from ratifyd.proto.auth_pb2 import Permission

LETTERS = b"\0bc\xff"
KEYS = [bytes((first, *rest)) for first in LETTERS for rest in ((), *((second,) for second in LETTERS))]
POINTS = sorted({point for key in KEYS for point in (key, key + b"\0", key + b"\0\0")})
"""Enough keys to tell any two ranges apart whose ends are among KEYS: one at, and two behind, each of them."""
BEYOND = b"\xff\xff\xff"

keys = st.sampled_from(KEYS)
range_ends = st.one_of(st.just(b""), st.just(b"\0"), keys)
permissions = st.builds(
    Permission,
    permType=st.sampled_from((Permission.READ, Permission.WRITE, Permission.READWRITE, 7)),
    key=st.one_of(keys, st.just(b"")),
    range_end=range_ends,
)


def inside(point: bytes, key: bytes, range_end: bytes) -> bool:
    """Whether a range in its wire form holds a key."""
    if not range_end:
        return point == key
    return key <= point and (range_end == b"\0" or point < range_end)


def allowed(point: bytes, granted: list[Permission], kind: int) -> bool:
    return any(
        inside(point, permission.key, permission.range_end)
        for permission in granted
        if permission.permType in (kind, Permission.READWRITE) and permission.key
    )


@given(st.lists(permissions, max_size=8), keys, range_ends, st.integers(0, 2))
def test_covered_means_every_key(granted: list[Permission], key: bytes, range_end: bytes, split: int) -> None:
    roles = [Role("a", tuple(granted[:split])), Role("b", tuple(granted[split:]))]
    grants = Grants(roles)
    for kind, ranges in ((Permission.READ, grants.read), (Permission.WRITE, grants.write)):
        points = [point for point in (*POINTS, BEYOND) if inside(point, key, range_end)]
        # A range that holds no key passes when its start is covered.
        expected = all(allowed(point, granted, kind) for point in points or [key])
        assert ranges.covers(key, range_end) == expected
    assert not grants.everything


@given(st.lists(permissions, max_size=8))
def test_the_empty_key_is_never_covered(granted: list[Permission]) -> None:
    grants = Grants([Role("a", tuple(granted))])
    for range_end in (b"", b"\0", b"b"):
        assert not grants.read.covers(b"", range_end)


def test_ranges_that_may_be_granted() -> None:
    assert is_valid_range(b"a", b"")
    assert is_valid_range(b"a", b"b")
    assert is_valid_range(b"a", b"\0")
    assert is_valid_range(b"\0", b"\0")
    assert not is_valid_range(b"", b"")
    assert not is_valid_range(b"", b"\0")
    assert not is_valid_range(b"a", b"a")
    assert not is_valid_range(b"b", b"a")
