"""KV.Range."""

import pytest

from harness.outcomes import COMPACTED, EMPTY_KEY, FUTURE_REVISION, failure, get, keys, put
from harness.stubs import Client
from ratifyd.proto import rpc_pb2

_Range = rpc_pb2.RangeRequest


@pytest.fixture
def five(client: Client, prefix: bytes) -> list[bytes]:
    """Five keys whose value, version, create and mod order all differ from the key order."""
    names = [prefix + name for name in (b"a", b"b", b"c", b"d", b"e")]
    for name, value in ((names[2], b"5"), (names[0], b"4"), (names[4], b"3"), (names[1], b"2"), (names[3], b"1")):
        put(client, name, value)
    for name, times in ((names[4], 1), (names[0], 2), (names[1], 3), (names[3], 4)):
        for _ in range(times):
            put(client, name, ignore_value=True)
    return names


def test_empty_key_is_refused(client: Client) -> None:
    assert failure(client.kv.Range, _Range()) == EMPTY_KEY
    assert failure(client.kv.Range, _Range(range_end=b"\0")) == EMPTY_KEY


def test_missing_key_is_no_error(client: Client, prefix: bytes) -> None:
    answer = get(client, prefix)
    assert (len(answer.kvs), answer.count, answer.more) == (0, 0, False)


def test_half_open_ranges(client: Client, prefix: bytes, end: bytes, five: list[bytes]) -> None:
    assert keys(get(client, prefix, end)) == five
    assert keys(get(client, five[1], five[3])) == five[1:3]
    assert keys(get(client, five[1], five[1] + b"\0")) == [five[1]]
    assert keys(get(client, five[1], five[1])) == []
    assert keys(get(client, five[3], five[1])) == []


def test_zero_byte_as_range_end_means_everything_from_the_key_on(fresh: Client) -> None:
    for key in (b"\x00", b"a", b"b", b"\xff\xff"):
        put(fresh, key)
    assert keys(get(fresh, b"b", b"\0")) == [b"b", b"\xff\xff"]
    assert keys(get(fresh, b"\0", b"\0")) == [b"\x00", b"a", b"b", b"\xff\xff"]
    # Not to be taken for the single zero byte: this one ends before "\0\0".
    assert keys(get(fresh, b"\0", b"\0\0")) == [b"\x00"]


def test_reading_the_past(client: Client, prefix: bytes) -> None:
    revisions = [put(client, prefix, b"%d" % n).header.revision for n in range(3)]
    for n, revision in enumerate(revisions):
        kv = get(client, prefix, revision=revision).kvs[0]
        assert (kv.value, kv.version) == (b"%d" % n, n + 1)
    assert get(client, prefix, revision=revisions[0] - 1).count == 0
    assert get(client, prefix, revision=-5).kvs[0].value == b"2"
    assert failure(client.kv.Range, _Range(key=prefix, revision=revisions[-1] + 1)) == FUTURE_REVISION


def test_reading_around_the_compacted_revision(fresh: Client) -> None:
    for n in range(4):
        put(fresh, b"k", b"%d" % n)
    fresh.kv.Compact(rpc_pb2.CompactionRequest(revision=4))
    assert failure(fresh.kv.Range, _Range(key=b"k", revision=3)) == COMPACTED
    assert get(fresh, b"k", revision=4).kvs[0].value == b"2"
    assert get(fresh, b"k", revision=5).kvs[0].value == b"3"


def test_limit_and_more(client: Client, prefix: bytes, end: bytes, five: list[bytes]) -> None:
    for limit, more in ((1, True), (4, True), (5, False), (6, False)):
        answer = get(client, prefix, end, limit=limit)
        assert (keys(answer), answer.more, answer.count) == (five[:limit], more, 5)
    for limit in (0, -3):
        answer = get(client, prefix, end, limit=limit)
        assert (len(answer.kvs), answer.more) == (5, False)


def test_count_only(client: Client, prefix: bytes, end: bytes, five: list[bytes]) -> None:
    answer = get(client, prefix, end, count_only=True, limit=2)
    assert (len(answer.kvs), answer.count, answer.more) == (0, 5, False)
    filtered = get(client, prefix, end, count_only=True, min_mod_revision=10**9)
    assert filtered.count == 5
    assert get(client, five[0], count_only=True).count == 1


def test_keys_only(client: Client, prefix: bytes, end: bytes, five: list[bytes]) -> None:
    answer = get(client, prefix, end, keys_only=True)
    assert keys(answer) == five
    assert all(kv.value == b"" and kv.version and kv.mod_revision for kv in answer.kvs)


def test_keys_only_keeps_the_lease(client: Client, prefix: bytes, new_lease) -> None:  # type: ignore[no-untyped-def]
    lease = new_lease()
    put(client, prefix, b"v", lease=lease)
    assert get(client, prefix, keys_only=True).kvs[0].lease == lease


@pytest.mark.parametrize(
    ("target", "order"),
    [("KEY", "abcde"), ("VERSION", "ceabd"), ("CREATE", "caebd"), ("MOD", "ceabd"), ("VALUE", "dbeac")],
)
def test_sorting(client: Client, prefix: bytes, end: bytes, five: list[bytes], target: str, order: str) -> None:
    expected = [prefix + letter.encode() for letter in order]
    ascending = get(client, prefix, end, sort_order=_Range.ASCEND, sort_target=target)
    assert keys(ascending) == expected
    descending = get(client, prefix, end, sort_order=_Range.DESCEND, sort_target=target)
    assert keys(descending) == expected[::-1]
    cut = get(client, prefix, end, sort_order=_Range.DESCEND, sort_target=target, limit=2)
    assert (keys(cut), cut.more, cut.count) == (expected[::-1][:2], True, 5)


def test_a_target_without_an_order_sorts_what_the_limit_left(
    client: Client, prefix: bytes, end: bytes, five: list[bytes]
) -> None:
    """The store reads limit + 1 keys in key order before anything is sorted."""
    answer = get(client, prefix, end, sort_target=_Range.VALUE, limit=2)
    assert keys(answer) == [five[1], five[0]]
    assert (answer.more, answer.count) == (True, 5)


def test_sorting_keys_only_by_value_sorts_by_the_real_values(
    client: Client, prefix: bytes, end: bytes, five: list[bytes]
) -> None:
    answer = get(client, prefix, end, keys_only=True, sort_order=_Range.ASCEND, sort_target=_Range.VALUE)
    assert [key[-1:] for key in keys(answer)] == [b"d", b"b", b"e", b"a", b"c"]
    assert not any(kv.value for kv in answer.kvs)


def test_revision_filters_are_inclusive_and_do_not_change_the_count(client: Client, prefix: bytes, end: bytes) -> None:
    names = [prefix + b"%d" % n for n in range(4)]
    first = [put(client, name).header.revision for name in names]
    second = put(client, names[0]).header.revision
    for field, bound, expected in (
        ("min_mod_revision", second, names[:1]),
        ("max_mod_revision", first[2], names[1:3]),
        ("min_create_revision", first[2], names[2:]),
        ("max_create_revision", first[1], names[:2]),
    ):
        answer = get(client, prefix, end, **{field: bound})
        assert (keys(answer), answer.count) == (expected, 4), field
    both = get(client, prefix, end, min_create_revision=first[1], max_create_revision=first[2], limit=1)
    assert (keys(both), both.more, both.count) == (names[1:2], True, 4)


def test_serializable_reads_see_the_write_before(client: Client, prefix: bytes) -> None:
    put(client, prefix, b"v")
    assert get(client, prefix, serializable=True).kvs[0].value == b"v"


@pytest.mark.only("ratifyd")
def test_unknown_sort_options_are_refused(client: Client, prefix: bytes) -> None:
    """Since 3.6; 3.5.1 accepts the one and dies of the other."""
    expected = ("INVALID_ARGUMENT", "etcdserver: invalid sort option")
    for fields in ({"sort_order": 7}, {"sort_target": 9}):
        assert failure(client.kv.Range, _Range(key=prefix, **fields)) == expected


def test_large_answers_arrive_whole(client: Client, prefix: bytes, end: bytes) -> None:
    for n in range(6):
        put(client, prefix + b"%d" % n, bytes([n]) * 1_000_000)
    answer = get(client, prefix, end)
    assert [len(kv.value) for kv in answer.kvs] == [1_000_000] * 6
    assert all(set(kv.value) == {n} for n, kv in enumerate(answer.kvs))
