"""KV.Put and KV.DeleteRange."""

import pytest

from harness.outcomes import (
    EMPTY_KEY,
    KEY_NOT_FOUND,
    LEASE_NOT_FOUND,
    LEASE_PROVIDED,
    VALUE_PROVIDED,
    delete,
    failure,
    get,
    keys,
    put,
)
from harness.stubs import Client
from ratifyd.proto import rpc_pb2

_Put = rpc_pb2.PutRequest


def _lease_keys(client: Client, lease: int) -> list[bytes]:
    answer = client.lease.LeaseTimeToLive(rpc_pb2.LeaseTimeToLiveRequest(ID=lease, keys=True))
    return sorted(answer.keys)


def test_put_and_previous_value(client: Client, prefix: bytes) -> None:
    assert not put(client, prefix, b"1", prev_kv=True).HasField("prev_kv")
    answer = put(client, prefix, b"2", prev_kv=True)
    assert (answer.prev_kv.value, answer.prev_kv.version) == (b"1", 1)
    assert not put(client, prefix, b"3").HasField("prev_kv")


def test_malformed_puts(client: Client, prefix: bytes) -> None:
    for request, expected in (
        (_Put(), EMPTY_KEY),
        (_Put(value=b"v", lease=5), EMPTY_KEY),
        (_Put(key=prefix, value=b"v", ignore_value=True), VALUE_PROVIDED),
        (_Put(key=prefix, lease=7, ignore_lease=True), LEASE_PROVIDED),
        (_Put(key=prefix, value=b"v", lease=7, ignore_lease=True, ignore_value=True), VALUE_PROVIDED),
        (_Put(key=prefix, ignore_value=True), KEY_NOT_FOUND),
        (_Put(key=prefix, ignore_lease=True), KEY_NOT_FOUND),
        (_Put(key=prefix, lease=987654), LEASE_NOT_FOUND),
        (_Put(key=prefix, lease=987654, ignore_value=True), LEASE_NOT_FOUND),
    ):
        assert failure(client.kv.Put, request) == expected, request
    assert get(client, prefix).count == 0


def test_ignore_value_keeps_the_value_and_counts_as_a_write(client: Client, prefix: bytes) -> None:
    put(client, prefix, b"kept")
    revision = put(client, prefix, ignore_value=True).header.revision
    kv = get(client, prefix).kvs[0]
    assert (kv.value, kv.version, kv.mod_revision) == (b"kept", 2, revision)


def test_ignore_lease_keeps_the_lease(client: Client, prefix: bytes, new_lease) -> None:  # type: ignore[no-untyped-def]
    lease = new_lease()
    put(client, prefix, b"1", lease=lease)
    put(client, prefix, b"2", ignore_lease=True)
    kv = get(client, prefix).kvs[0]
    assert (kv.value, kv.lease) == (b"2", lease)
    assert _lease_keys(client, lease) == [prefix]


def test_a_put_without_lease_detaches(client: Client, prefix: bytes, new_lease) -> None:  # type: ignore[no-untyped-def]
    lease = new_lease()
    put(client, prefix, lease=lease)
    put(client, prefix)
    assert get(client, prefix).kvs[0].lease == 0
    assert _lease_keys(client, lease) == []
    client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease))
    assert get(client, prefix).count == 1


def test_a_put_with_another_lease_moves_the_key(client: Client, prefix: bytes, new_lease) -> None:  # type: ignore[no-untyped-def]
    one, other = new_lease(), new_lease()
    put(client, prefix, lease=one)
    put(client, prefix, lease=one)
    assert _lease_keys(client, one) == [prefix]
    put(client, prefix, lease=other)
    assert (_lease_keys(client, one), _lease_keys(client, other)) == ([], [prefix])


def test_empty_and_binary_values(client: Client, prefix: bytes) -> None:
    for value in (b"", bytes(range(256)), b"\xff" * 70_000):
        put(client, prefix, value)
        assert get(client, prefix).kvs[0].value == value


@pytest.mark.parametrize("key", [b"\x00", b"\xff", b"\xff\xff\xff", bytes(range(256)), b"k" * 50_000])
def test_any_bytes_make_a_key(client: Client, key: bytes) -> None:
    put(client, key, b"v")
    answer = get(client, key)
    assert (keys(answer), answer.kvs[0].value) == ([key], b"v")
    assert delete(client, key).deleted == 1


def test_delete_one_and_nothing(client: Client, prefix: bytes) -> None:
    revision = put(client, prefix, b"v").header.revision
    answer = delete(client, prefix)
    assert (answer.deleted, answer.header.revision, len(answer.prev_kvs)) == (1, revision + 1, 0)
    answer = delete(client, prefix)
    assert (answer.deleted, answer.header.revision) == (0, revision + 1)


def test_delete_a_range_with_previous_values(client: Client, prefix: bytes, end: bytes) -> None:
    names = [prefix + b"%d" % n for n in (3, 1, 2)]
    for name in names:
        put(client, name, b"v" + name)
    answer = delete(client, prefix, end, prev_kv=True)
    assert answer.deleted == 3
    assert [(kv.key, kv.value) for kv in answer.prev_kvs] == [(name, b"v" + name) for name in sorted(names)]
    assert get(client, prefix, end).count == 0


def test_delete_takes_the_same_ranges_as_range(client: Client, prefix: bytes) -> None:
    assert failure(client.kv.DeleteRange, rpc_pb2.DeleteRangeRequest()) == EMPTY_KEY
    assert failure(client.kv.DeleteRange, rpc_pb2.DeleteRangeRequest(range_end=b"z")) == EMPTY_KEY
    put(client, prefix + b"b")
    assert delete(client, prefix + b"c", prefix + b"a").deleted == 0
    assert delete(client, prefix + b"b", prefix + b"b").deleted == 0
    assert delete(client, prefix + b"a", prefix + b"c").deleted == 1


def test_delete_everything(fresh: Client) -> None:
    for n in range(30):
        put(fresh, b"%d" % n)
    assert delete(fresh, b"\0", b"\0").deleted == 30
    assert get(fresh, b"\0", b"\0").count == 0


def test_a_deletion_detaches_from_the_lease(client: Client, prefix: bytes, new_lease) -> None:  # type: ignore[no-untyped-def]
    lease = new_lease()
    put(client, prefix, lease=lease)
    delete(client, prefix)
    assert _lease_keys(client, lease) == []


def test_the_past_survives_a_deletion(client: Client, prefix: bytes) -> None:
    before = put(client, prefix, b"v").header.revision
    after = delete(client, prefix).header.revision
    assert get(client, prefix, revision=before).kvs[0].value == b"v"
    assert get(client, prefix, revision=after).count == 0
