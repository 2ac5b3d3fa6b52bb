"""KV.Compact, and what is left of the past afterwards."""

from harness.outcomes import COMPACTED, FUTURE_REVISION, delete, failure, get, op_put, put, txn
from harness.stubs import Client
from ratifyd.proto import rpc_pb2


def _compact(client: Client, revision: int, *, physical: bool = False) -> rpc_pb2.CompactionResponse:
    answer: rpc_pb2.CompactionResponse = client.kv.Compact(
        rpc_pb2.CompactionRequest(revision=revision, physical=physical)
    )
    return answer


def _refused(client: Client, revision: int) -> tuple[str, str]:
    return failure(client.kv.Compact, rpc_pb2.CompactionRequest(revision=revision))


def test_a_new_store_can_be_compacted_at_zero_once(fresh: Client) -> None:
    assert _refused(fresh, -1) == COMPACTED
    assert _compact(fresh, 0).header.revision == 1
    assert _refused(fresh, 0) == COMPACTED
    assert _refused(fresh, -1) == COMPACTED


def test_bounds(fresh: Client) -> None:
    for _ in range(5):
        put(fresh, b"k")
    assert _refused(fresh, 7) == FUTURE_REVISION
    _compact(fresh, 3)
    for revision in (3, 2, 0, -2):
        assert _refused(fresh, revision) == COMPACTED
    assert _compact(fresh, 6, physical=True).header.revision == 6
    assert get(fresh, b"k").kvs[0].version == 5


def test_what_is_readable_afterwards(fresh: Client) -> None:
    put(fresh, b"a", b"1")
    put(fresh, b"b", b"1")
    delete(fresh, b"b")
    put(fresh, b"a", b"2")
    put(fresh, b"c", b"1")
    for physical, revision in ((False, 4), (True, 5)):
        _compact(fresh, revision, physical=physical)
        past = rpc_pb2.RangeRequest(key=b"a", revision=revision - 1)
        assert failure(fresh.kv.Range, past) == COMPACTED
    at_five = get(fresh, b"\0", b"\0", revision=5)
    assert [(kv.key, kv.value, kv.mod_revision) for kv in at_five.kvs] == [(b"a", b"2", 5)]
    latest = get(fresh, b"\0", b"\0")
    assert [(kv.key, kv.create_revision, kv.version) for kv in latest.kvs] == [(b"a", 2, 2), (b"c", 6, 1)]


def test_many_revisions(fresh: Client) -> None:
    """More than one batch of the background removal."""
    for n in range(25):
        txn(fresh, [op_put(b"k%03d" % m, b"%d" % n) for m in range(100)])
    _compact(fresh, 20, physical=True)
    answer = get(fresh, b"k", b"l", revision=20)
    assert {(kv.value, kv.version) for kv in answer.kvs} == {(b"18", 19)}
    assert get(fresh, b"k", b"l").count == 100


def test_a_deleted_key_comes_back_with_version_one(fresh: Client) -> None:
    put(fresh, b"k")
    delete(fresh, b"k")
    _compact(fresh, 3, physical=True)
    put(fresh, b"k")
    kv = get(fresh, b"k").kvs[0]
    assert (kv.create_revision, kv.mod_revision, kv.version) == (4, 4, 1)


def test_compaction_survives_a_kill(start_server) -> None:  # type: ignore[no-untyped-def]
    server, client = start_server()
    for n in range(6):
        put(client, b"k", b"%d" % n)
    _compact(client, 5, physical=True)
    server.restart(hard=True)
    client.kv.Range(rpc_pb2.RangeRequest(key=b"k"), wait_for_ready=True, timeout=15)
    assert failure(client.kv.Range, rpc_pb2.RangeRequest(key=b"k", revision=4)) == COMPACTED
    assert get(client, b"k", revision=5).kvs[0].value == b"3"
    assert _refused(client, 5) == COMPACTED
    assert put(client, b"k").header.revision == 8
