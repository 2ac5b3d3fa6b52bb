"""Rows kept as fields of answers: always what is stored, never more than may be."""

from random import Random

from ratifyd.mvcc.fields import _ROW_BYTES, MAX_SEEN, FieldCache
from ratifyd.proto import fast

SIZE = 50
LIMIT = 20 * (SIZE + 2 + _ROW_BYTES)
"""Room for ten rows in each of two generations."""


class Rows:
    """Rows by number, and which were read."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.salt = b"-"

    def __call__(self, rows: list[bytes]) -> list[bytes]:
        self.read += rows
        return [self.value(row) for row in rows]

    def value(self, row: bytes) -> bytes:
        return (row + self.salt).ljust(SIZE, b".")


def names(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


def test_what_was_read_twice_is_not_read_again() -> None:
    rows = Rows()
    cache = FieldCache(rows, LIMIT)
    wanted = names(1, 2, 3)
    expected = fast.kv_fields([rows.value(row) for row in wanted])
    for _ in range(4):
        assert cache.get_many(wanted) == expected
    assert rows.read == wanted + wanted
    assert cache.get_many(names(3, 4, 1))[::2] == [expected[2], expected[0]]
    assert rows.read[6:] == names(4)


def test_what_is_read_once_leaves_nothing() -> None:
    cache = FieldCache(Rows(), LIMIT)
    for number in range(3 * MAX_SEEN):
        cache.get_many(names(number))
    assert not cache._young and not cache._old and len(cache._seen) <= MAX_SEEN


def test_what_is_asked_for_stays_and_the_rest_goes() -> None:
    rows = Rows()
    cache = FieldCache(rows, LIMIT)
    for number in range(1000):
        for _ in range(2):
            cache.get_many(names(7_000, number))
            assert len(cache._young) + len(cache._old) <= 20
    assert rows.read.count(b"7000") == 2
    assert set(rows.read) == {b"7000", *names(*range(1000))}


def test_a_range_larger_than_a_generation_is_answered_and_not_kept() -> None:
    rows = Rows()
    cache = FieldCache(rows, LIMIT)
    large = names(*range(100))
    for _ in range(3):
        assert cache.get_many(large) == fast.kv_fields([rows.value(row) for row in large])
    assert not cache._young and not cache._old
    assert len(rows.read) == 300


def test_another_backend_has_other_rows() -> None:
    rows = Rows()
    cache = FieldCache(rows, LIMIT)
    for _ in range(3):
        cache.get_many(names(1))
    rows.salt = b"+"
    cache.clear()
    assert cache.get_many(names(1)) == fast.kv_fields([rows.value(b"1")])


def test_any_mixture_of_old_and_new_is_in_order() -> None:
    rows, random = Rows(), Random(5)
    cache = FieldCache(rows, LIMIT)
    for _ in range(500):
        wanted = names(*(random.randrange(40) for _ in range(random.randrange(12))))
        assert cache.get_many(wanted) == fast.kv_fields([rows.value(row) for row in wanted])
