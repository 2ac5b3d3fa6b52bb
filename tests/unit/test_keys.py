"""Key ranges: the wire's conventions, and the plain intervals they become."""

from itertools import product

from ratifyd.keys import KeyRange, prefix_end

KEYS = [b"", b"\0", b"a", b"a\0", b"aa", b"ab", b"b", b"b\xff", b"\xff", b"\xff\xff"]


def test_parsing_the_wire_form() -> None:
    assert KeyRange.parse(b"a", b"") == (b"a", b"a\0")
    assert KeyRange.parse(b"a", b"\0") == (b"a", None)
    assert KeyRange.parse(b"a", b"c") == (b"a", b"c")
    assert KeyRange.parse(b"\0", b"\0") == (b"\0", None)


def test_membership_is_the_interval() -> None:
    for start, end, key in product(KEYS, [*KEYS, None], KEYS):
        assert (key in KeyRange(start, end)) == (key >= start and (end is None or key < end))
    assert "a" not in KeyRange(b"a", None)


def test_points_hold_one_possible_key() -> None:
    for start, end in product(KEYS, [*KEYS, None]):
        keys = KeyRange(start, end)
        assert keys.is_point == (end == start + b"\0")
        assert keys.is_empty == (end is not None and end <= start)
        if keys.is_empty:
            assert not any(key in keys for key in KEYS)


def test_prefixes() -> None:
    for prefix in KEYS:
        keys = KeyRange.parse(prefix or b"\0", prefix_end(prefix))
        for key in KEYS[1:]:
            assert (key in keys) == key.startswith(prefix), (prefix, key)
    assert prefix_end(b"a\xff") == b"b"
    assert prefix_end(b"\xff\xff") == b"\0"
