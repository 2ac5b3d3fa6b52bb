"""Response headers and how revisions count."""

from harness.outcomes import delete, failure, get, op_delete, op_put, op_range, op_txn, put, txn
from harness.stubs import Client
from ratifyd.proto import rpc_pb2


def test_a_new_server_is_at_revision_one_and_the_first_write_makes_two(fresh: Client) -> None:
    assert get(fresh, b"a").header.revision == 1
    assert put(fresh, b"a").header.revision == 2
    assert put(fresh, b"a").header.revision == 3
    assert get(fresh, b"a").header.revision == 3


def test_the_header_has_all_four_fields(client: Client, prefix: bytes) -> None:
    header = put(client, prefix).header
    assert header.cluster_id and header.member_id and header.revision and header.raft_term
    again = get(client, prefix).header
    assert again == header


def test_one_request_is_one_revision_however_many_keys_it_touches(client: Client, prefix: bytes, end: bytes) -> None:
    before = put(client, prefix + b"x").header.revision
    answer = txn(client, [op_put(prefix + b"%d" % n) for n in range(20)])
    assert answer.header.revision == before + 1
    assert {kv.mod_revision for kv in get(client, prefix, end).kvs} == {before, before + 1}
    assert delete(client, prefix, end).header.revision == before + 2


def test_writes_without_effect_leave_the_revision_alone(client: Client, prefix: bytes) -> None:
    before = put(client, prefix).header.revision
    assert delete(client, prefix + b"absent").header.revision == before
    assert txn(client, [op_delete(prefix + b"absent")]).header.revision == before
    assert put(client, prefix).header.revision == before + 1


def test_a_failed_write_leaves_the_revision_alone(client: Client, prefix: bytes) -> None:
    before = put(client, prefix).header.revision
    failure(client.kv.Put, rpc_pb2.PutRequest(key=prefix, lease=123456))
    assert get(client, prefix).header.revision == before


def test_a_read_shows_the_current_revision_even_of_the_past(client: Client, prefix: bytes) -> None:
    old = put(client, prefix, b"1").header.revision
    now = put(client, prefix, b"2").header.revision
    answer = get(client, prefix, revision=old)
    assert (answer.kvs[0].value, answer.header.revision) == (b"1", now)


def test_headers_inside_a_txn_carry_only_a_revision(client: Client, prefix: bytes) -> None:
    before = put(client, prefix).header.revision
    answer = txn(client, [op_range(prefix), op_put(prefix + b"1"), op_range(prefix), op_delete(prefix), op_txn()])
    inner = [
        answer.responses[0].response_range.header,
        answer.responses[1].response_put.header,
        answer.responses[2].response_range.header,
        answer.responses[3].response_delete_range.header,
    ]
    assert [header.revision for header in inner] == [before, before + 1, before + 1, before + 1]
    assert all(not (header.cluster_id or header.member_id or header.raft_term) for header in inner)
    nested = answer.responses[4].response_txn
    assert nested.HasField("header") and nested.header == rpc_pb2.ResponseHeader()


def test_cluster_answers_have_no_revision(client: Client) -> None:
    header = client.cluster.MemberList(rpc_pb2.MemberListRequest()).header
    assert header.cluster_id and header.member_id and header.raft_term
    assert header.revision == 0


def test_defragment_answers_without_a_header(client: Client) -> None:
    assert not client.maintenance.Defragment(rpc_pb2.DefragmentRequest()).HasField("header")


def test_hash_kv_shows_the_current_revision_not_the_hashed_one(client: Client, prefix: bytes) -> None:
    old = put(client, prefix).header.revision
    now = put(client, prefix).header.revision
    assert client.maintenance.HashKV(rpc_pb2.HashKVRequest(revision=old)).header.revision == now


def test_version_and_create_revision_start_again_after_a_deletion(client: Client, prefix: bytes) -> None:
    created = put(client, prefix, b"1").header.revision
    put(client, prefix, b"2")
    kv = get(client, prefix).kvs[0]
    assert (kv.create_revision, kv.mod_revision, kv.version) == (created, created + 1, 2)
    delete(client, prefix)
    again = put(client, prefix, b"3").header.revision
    kv = get(client, prefix).kvs[0]
    assert (kv.create_revision, kv.mod_revision, kv.version, kv.lease) == (again, again, 1, 0)
