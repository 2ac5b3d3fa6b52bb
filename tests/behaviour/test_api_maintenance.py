"""The Maintenance and Cluster services, alarms, the health service, and what does not exist."""

import hashlib
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from harness.outcomes import (
    COMPACTED,
    EMPTY_KEY,
    FUTURE_REVISION,
    delete,
    failure,
    get,
    op_delete,
    op_put,
    op_range,
    put,
    txn,
    txn_request,
)
from harness.servers import EtcdServer
from harness.stubs import Client, status_of
from harness.watch import WatchStream
from ratifyd.proto import health_pb2, rpc_pb2

_Alarm = rpc_pb2.AlarmRequest
_NO_SPACE = ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded")
_CORRUPT = ("DATA_LOSS", "etcdserver: corrupt cluster")


def _hash_kv(client: Client, revision: int = 0) -> rpc_pb2.HashKVResponse:
    answer: rpc_pb2.HashKVResponse = client.maintenance.HashKV(rpc_pb2.HashKVRequest(revision=revision))
    return answer


def _alarm(client: Client, action: Any, alarm: Any, member: int = 0) -> list[tuple[int, int]]:
    answer = client.maintenance.Alarm(_Alarm(action=action, alarm=alarm, memberID=member))
    assert answer.header.cluster_id
    return sorted((each.memberID, each.alarm) for each in answer.alarms)


def test_status(server: EtcdServer, client: Client, prefix: bytes) -> None:
    put(client, prefix)
    status = client.maintenance.Status(rpc_pb2.StatusRequest())
    assert status.leader == status.header.member_id
    assert status.raftTerm == status.header.raft_term
    assert status.raftIndex >= status.raftAppliedIndex > 0
    assert status.dbSize >= status.dbSizeInUse > 0
    assert status.version.count(".") == 2
    assert list(status.errors) == [] and not status.isLearner


@pytest.mark.only("ratifyd")
def test_status_since_3_6(client: Client) -> None:
    status = client.maintenance.Status(rpc_pb2.StatusRequest())
    assert status.storageVersion == "3.6.0"
    assert status.dbSizeQuota == 2_147_483_648
    assert status.HasField("downgradeInfo") and not status.downgradeInfo.enabled


@pytest.mark.only("ratifyd")
def test_a_quota_that_is_off_is_shown_as_given(start_server: Callable[..., Any]) -> None:
    _, client = start_server("--quota-backend-bytes=-1")
    assert client.maintenance.Status(rpc_pb2.StatusRequest()).dbSizeQuota == -1


@pytest.mark.only("ratifyd")
def test_downgrade(fresh: Client) -> None:
    """As from 3.6 on: down one version at a time, one job at a time, and nothing to cancel is no error."""
    validate, enable, cancel = (getattr(rpc_pb2.DowngradeRequest, name) for name in ("VALIDATE", "ENABLE", "CANCEL"))

    def ask(action: Any, version: str = "") -> str:
        answer = fresh.maintenance.Downgrade(rpc_pb2.DowngradeRequest(action=action, version=version))
        assert answer.header.member_id
        return str(answer.version)

    def refused(action: Any, version: str) -> tuple[str, str]:
        return failure(fresh.maintenance.Downgrade, rpc_pb2.DowngradeRequest(action=action, version=version))

    assert ask(cancel) == "3.6"
    for version in ("x", "3." + "5" * 5000, "3.5.99999999999999999999", "3.5-rc", "3.5.0-!", "v3.5.0+x"):
        assert refused(validate, version) == ("INVALID_ARGUMENT", "etcdserver: wrong downgrade target version format")
    for version in ("3.4", "3.6", "4.5"):
        assert refused(enable, version) == ("INVALID_ARGUMENT", "etcdserver: invalid downgrade target version")
    assert {ask(validate, version) for version in ("3.5", "3.5.0", "3.5.0-rc.1", "3.5.0+x", "3.5.1-a+b")} == {"3.6"}
    ask(enable, "3.5")
    status = fresh.maintenance.Status(rpc_pb2.StatusRequest())
    assert status.downgradeInfo.enabled and status.downgradeInfo.targetVersion == "3.5.0"
    ask(cancel)
    assert not fresh.maintenance.Status(rpc_pb2.StatusRequest()).downgradeInfo.enabled
    unknown = ("UNKNOWN", "etcdserver: unknown method")
    assert refused(7, "3.5") == unknown


@pytest.mark.only("ratifyd")
def test_an_unknown_alarm_action(fresh: Client) -> None:
    """etcd applies it and dies answering."""
    assert failure(fresh.maintenance.Alarm, _Alarm(action=9)) == ("UNKNOWN", "etcdserver: unknown method")
    assert put(fresh, b"k").header.revision


def test_hash_kv_depends_on_the_content_only(fresh: Client, start_server: Callable[..., Any]) -> None:
    empty = _hash_kv(fresh)
    assert empty.compact_revision == -1
    other = start_server()[1]
    for client in (fresh, other):
        for n in range(5):
            put(client, b"k%d" % n, b"v")
        delete(client, b"k2")
    assert _hash_kv(fresh).hash == _hash_kv(other).hash != empty.hash
    assert _hash_kv(fresh, 4).hash != _hash_kv(fresh).hash
    put(fresh, b"more")
    assert _hash_kv(fresh, 7).hash == _hash_kv(other).hash


def test_hash_kv_bounds(fresh: Client) -> None:
    for n in range(5):
        put(fresh, b"k", b"%d" % n)
    before = _hash_kv(fresh, 6).hash
    assert failure(fresh.maintenance.HashKV, rpc_pb2.HashKVRequest(revision=7)) == FUTURE_REVISION
    fresh.kv.Compact(rpc_pb2.CompactionRequest(revision=4, physical=True))
    assert failure(fresh.maintenance.HashKV, rpc_pb2.HashKVRequest(revision=3)) == COMPACTED
    assert _hash_kv(fresh, 5).compact_revision == 4
    assert _hash_kv(fresh, 6).hash != before


@pytest.mark.only("ratifyd")
def test_hash_kv_of_the_compacted_revision(fresh: Client) -> None:
    """Since 3.5.5; it is the hash the compaction computed, with the compacted revision before."""
    for n in range(5):
        put(fresh, b"k", b"%d" % n)
    fresh.kv.Compact(rpc_pb2.CompactionRequest(revision=3, physical=True))
    before = _hash_kv(fresh, 5)
    fresh.kv.Compact(rpc_pb2.CompactionRequest(revision=5, physical=True))
    after = _hash_kv(fresh, 5)
    assert (after.hash, after.compact_revision, after.hash_revision) == (before.hash, 3, 5)


def test_hash_kv_survives_a_restart(start_server: Callable[..., Any]) -> None:
    server, client = start_server()
    for n in range(20):
        put(client, b"k%d" % (n % 4), b"%d" % n)
    client.kv.Compact(rpc_pb2.CompactionRequest(revision=10, physical=True))
    before = _hash_kv(client).hash
    server.restart(hard=True)
    client.kv.Range(rpc_pb2.RangeRequest(key=b"k"), wait_for_ready=True, timeout=15)
    assert _hash_kv(client).hash == before


def test_hash(client: Client) -> None:
    answer = client.maintenance.Hash(rpc_pb2.HashRequest())
    assert answer.hash and answer.header.revision


def test_snapshot_is_a_file_and_its_digest(client: Client, prefix: bytes) -> None:
    put(client, prefix, b"snapshot me " * 1000)
    messages = list(client.maintenance.Snapshot(rpc_pb2.SnapshotRequest()))
    data = b"".join(message.blob for message in messages[:-1])
    assert messages[-1].blob == hashlib.sha256(data).digest()
    assert len(data) % 512 == 0 and b"snapshot me" in data
    assert int.from_bytes(data[16:20], "little") == 0xED0CDAED
    assert [message.remaining_bytes for message in messages[-2:]] == [0, 0]
    assert messages[0].remaining_bytes == len(data) - len(messages[0].blob)


def test_defragment_keeps_everything(client: Client, prefix: bytes) -> None:
    revision = put(client, prefix, b"v").header.revision
    before = _hash_kv(client, revision).hash
    assert client.maintenance.Defragment(rpc_pb2.DefragmentRequest()) == rpc_pb2.DefragmentResponse()
    assert get(client, prefix).kvs[0].value == b"v"
    assert _hash_kv(client, revision).hash == before


def test_member_list(server: EtcdServer, client: Client) -> None:
    for linearizable in (False, True):
        answer = client.cluster.MemberList(rpc_pb2.MemberListRequest(linearizable=linearizable))
        assert [(member.name, list(member.peerURLs), list(member.clientURLs)) for member in answer.members] == [
            ("default", [server.peer_url], [server.client_url])
        ]
        assert answer.header.member_id == answer.members[0].ID
        assert not answer.members[0].isLearner


def test_moving_the_leader_of_one(client: Client) -> None:
    leader = client.maintenance.Status(rpc_pb2.StatusRequest()).leader
    moved = client.maintenance.MoveLeader(rpc_pb2.MoveLeaderRequest(targetID=leader))
    assert moved == rpc_pb2.MoveLeaderResponse()
    expected = ("FAILED_PRECONDITION", "etcdserver: bad leader transferee")
    assert failure(client.maintenance.MoveLeader, rpc_pb2.MoveLeaderRequest(targetID=1)) == expected


def test_malformed_member_changes(server: EtcdServer, client: Client) -> None:
    bad_urls = ("INVALID_ARGUMENT", "etcdserver: given member URLs are invalid")
    for urls in ([], ["nonsense"], ["http://127.0.0.1"]):
        assert failure(client.cluster.MemberAdd, rpc_pb2.MemberAddRequest(peerURLs=urls)) == bad_urls
    not_found = ("NOT_FOUND", "etcdserver: member not found")
    assert failure(client.cluster.MemberUpdate, rpc_pb2.MemberUpdateRequest(ID=5, peerURLs=["http://a:1"])) == not_found
    assert failure(client.cluster.MemberPromote, rpc_pb2.MemberPromoteRequest(ID=5)) == not_found


def test_alarm_lifecycle(fresh: Client) -> None:
    get_, on, off = _Alarm.GET, _Alarm.ACTIVATE, _Alarm.DEACTIVATE
    none, no_space, corrupt = rpc_pb2.NONE, rpc_pb2.NOSPACE, rpc_pb2.CORRUPT
    assert _alarm(fresh, get_, none) == []
    assert _alarm(fresh, on, none, 5) == []
    assert _alarm(fresh, off, no_space, 5) == []
    assert _alarm(fresh, on, no_space, 5) == [(5, no_space)]
    assert _alarm(fresh, on, no_space, 5) == [(5, no_space)]
    assert _alarm(fresh, on, corrupt, 6) == [(6, corrupt)]
    assert _alarm(fresh, get_, none) == [(5, no_space), (6, corrupt)]
    assert _alarm(fresh, get_, corrupt, 5) == [(6, corrupt)]
    errors = sorted(text.strip() for text in fresh.maintenance.Status(rpc_pb2.StatusRequest()).errors)
    assert errors == ["memberID:5 alarm:NOSPACE", "memberID:6 alarm:CORRUPT"]
    assert _alarm(fresh, off, no_space, 6) == []
    assert _alarm(fresh, off, no_space, 5) == [(5, no_space)]
    assert _alarm(fresh, off, corrupt, 6) == [(6, corrupt)]
    assert _alarm(fresh, get_, none) == []


def test_what_no_space_refuses(fresh: Client) -> None:
    put(fresh, b"k", b"v")
    fresh.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=600, ID=9))
    _alarm(fresh, _Alarm.ACTIVATE, rpc_pb2.NOSPACE, 5)
    assert failure(fresh.kv.Put, rpc_pb2.PutRequest(key=b"k")) == _NO_SPACE
    assert failure(fresh.kv.Txn, txn_request([op_put(b"k")])) == _NO_SPACE
    assert failure(fresh.lease.LeaseGrant, rpc_pb2.LeaseGrantRequest(TTL=600)) == _NO_SPACE
    assert get(fresh, b"k").count == 1
    assert txn(fresh, [op_range(b"k")]).succeeded
    assert txn(fresh, [op_delete(b"none"), op_range(b"k")]).succeeded
    assert delete(fresh, b"k").deleted == 1
    fresh.kv.Compact(rpc_pb2.CompactionRequest(revision=3))
    fresh.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=9))
    _alarm(fresh, _Alarm.DEACTIVATE, rpc_pb2.NOSPACE, 5)
    put(fresh, b"k")


def test_what_corrupt_refuses(fresh: Client) -> None:
    put(fresh, b"k", b"v")
    _alarm(fresh, _Alarm.ACTIVATE, rpc_pb2.CORRUPT, 5)
    assert failure(fresh.kv.Put, rpc_pb2.PutRequest(key=b"k")) == _CORRUPT
    assert failure(fresh.kv.DeleteRange, rpc_pb2.DeleteRangeRequest(key=b"k")) == _CORRUPT
    assert failure(fresh.kv.Txn, txn_request([op_put(b"k")])) == _CORRUPT
    assert failure(fresh.kv.Compact, rpc_pb2.CompactionRequest(revision=2)) == _CORRUPT
    assert failure(fresh.lease.LeaseGrant, rpc_pb2.LeaseGrantRequest(TTL=600)) == _CORRUPT
    assert failure(fresh.lease.LeaseRevoke, rpc_pb2.LeaseRevokeRequest(ID=1)) == _CORRUPT
    assert get(fresh, b"k").count == 1
    assert txn(fresh, [op_range(b"k")]).succeeded
    _alarm(fresh, _Alarm.DEACTIVATE, rpc_pb2.CORRUPT, 5)
    put(fresh, b"k")


def test_the_quota_raises_the_alarm(start_server: Callable[..., Any]) -> None:
    _, client = start_server("--quota-backend-bytes=2000000")
    # The size is that of the file, so it is known after a commit only.
    refused = None
    until = time.monotonic() + 10
    while refused is None and time.monotonic() < until:
        try:
            put(client, b"k%d" % (get(client, b"k", b"l").count), b"x" * 100_000)
        except grpc.RpcError as error:
            refused = status_of(error)
    assert refused == _NO_SPACE
    assert get(client, b"k", b"l").count > 2
    member = client.maintenance.Status(rpc_pb2.StatusRequest()).header.member_id
    assert _alarm(client, _Alarm.GET, rpc_pb2.NONE) == [(member, rpc_pb2.NOSPACE)]
    # The quota gate comes before everything else, so even a malformed put gets this answer.
    assert failure(client.kv.Put, rpc_pb2.PutRequest()) in (_NO_SPACE, EMPTY_KEY)
    assert delete(client, b"k", b"l").deleted > 0
    revision = get(client, b"k").header.revision
    client.kv.Compact(rpc_pb2.CompactionRequest(revision=revision, physical=True))
    client.maintenance.Defragment(rpc_pb2.DefragmentRequest())
    _alarm(client, _Alarm.DEACTIVATE, rpc_pb2.NOSPACE, member)
    put(client, b"k", b"v")


def test_request_too_large(client: Client, prefix: bytes) -> None:
    """The limit is on the raft request, a little larger than the value; gRPC's own limit lies 512 KiB higher."""
    too_large = ("INVALID_ARGUMENT", "etcdserver: request is too large")
    put(client, prefix, b"x" * 1_572_000)
    for size in (1_572_864, 1_900_000):
        assert failure(client.kv.Put, rpc_pb2.PutRequest(key=prefix, value=b"x" * size)) == too_large
    big = txn_request([op_put(prefix + b"1", b"x" * 800_000), op_put(prefix + b"2", b"x" * 800_000)])
    assert failure(client.kv.Txn, big) == too_large
    assert get(client, prefix).kvs[0].version == 1


def test_message_larger_than_the_transport_takes(client: Client, prefix: bytes) -> None:
    request = rpc_pb2.PutRequest(key=prefix, value=b"x" * 2_097_152)
    size = request.ByteSize()
    expected = ("RESOURCE_EXHAUSTED", f"grpc: received message larger than max ({size} vs. 2097152)")
    assert failure(client.kv.Put, request) == expected
    put(client, prefix)


def test_the_limits_follow_the_flag(start_server: Callable[..., Any]) -> None:
    _, client = start_server("--max-request-bytes=1000")
    put(client, b"k", b"x" * 900)
    too_large = ("INVALID_ARGUMENT", "etcdserver: request is too large")
    assert failure(client.kv.Put, rpc_pb2.PutRequest(key=b"k", value=b"x" * 1000)) == too_large
    request = rpc_pb2.PutRequest(key=b"k", value=b"x" * 530_000)
    expected = f"grpc: received message larger than max ({request.ByteSize()} vs. 525288)"
    assert failure(client.kv.Put, request) == ("RESOURCE_EXHAUSTED", expected)


def test_health_check(client: Client) -> None:
    answer = client.health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    expected = ("NOT_FOUND", "unknown service")
    assert failure(client.health.Check, health_pb2.HealthCheckRequest(service="nonsense")) == expected


def test_health_watch(client: Client) -> None:
    for service, status in (("", health_pb2.HealthCheckResponse.SERVING), ("x", 3)):
        call = client.health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert next(call).status == status
        call.cancel()


@pytest.mark.only("ratifyd")  # the flag came with etcd 3.5.14
@pytest.mark.parametrize(
    ("flags", "seen"),
    [
        ((), ["SERVING"]),
        (("--feature-gates=StopGRPCServiceOnDefrag=true",), ["SERVING", "NOT_SERVING", "SERVING"]),
        (("--experimental-stop-grpc-service-on-defrag",), ["SERVING", "NOT_SERVING", "SERVING"]),
    ],
)
def test_health_while_defragmenting(start_server: Callable[..., Any], flags: tuple[str, ...], seen: list[str]) -> None:
    _, client = start_server(*flags)
    call = client.health.Watch(health_pb2.HealthCheckRequest(), timeout=10)
    first = next(call)
    client.maintenance.Defragment(rpc_pb2.DefragmentRequest())
    statuses = [first, *(next(call) for _ in seen[1:])]
    assert [health_pb2.HealthCheckResponse.ServingStatus.Name(each.status) for each in statuses] == seen
    assert client.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    call.cancel()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etcdserverpb.KV/Nothing", "unknown method Nothing for service etcdserverpb.KV"),
        ("/etcdserverpb.KV/put", "unknown method put for service etcdserverpb.KV"),
        ("/etcdserverpb.Nothing/Put", "unknown service etcdserverpb.Nothing"),
        ("/KV/Put", "unknown service KV"),
        ("/grpc.reflection.v2.ServerReflection/Info", "unknown service grpc.reflection.v2.ServerReflection"),
    ],
)
def test_what_does_not_exist(client: Client, path: str, text: str) -> None:
    assert failure(client.raw, path, b"") == ("UNIMPLEMENTED", text)
    assert failure(client.raw, path, b"some bytes") == ("UNIMPLEMENTED", text)


def test_malformed_messages_fail_alone(client: Client, prefix: bytes, stream: WatchStream) -> None:
    stream.create(prefix)
    assert failure(client.raw, "/etcdserverpb.KV/Put", b"\x0a\x7fcut")[0] == "INTERNAL"
    put(client, prefix)
    assert len(stream.events(1)) == 1


def test_unknown_fields_are_skipped(client: Client, prefix: bytes) -> None:
    request = rpc_pb2.PutRequest(key=prefix, value=b"v").SerializeToString() + b"\xa2\x06\x03abc"
    client.raw("/etcdserverpb.KV/Put", request)
    assert get(client, prefix).kvs[0].value == b"v"


def test_metadata_without_meaning_is_ignored(client: Client, prefix: bytes) -> None:
    metadata = (("x-anything", "value"), ("some-bin", b"\x00\xff"))
    client.kv.Put(rpc_pb2.PutRequest(key=prefix), metadata=metadata)
    hasleader = (("hasleader", "true"),)
    assert client.kv.Range(rpc_pb2.RangeRequest(key=prefix), metadata=hasleader).count == 1
