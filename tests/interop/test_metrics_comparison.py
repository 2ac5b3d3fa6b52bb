"""The metrics pages of a real etcd 3.5.1 and of ratifyd after the same traffic: names, types, labels, values."""

import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from differential.pairs import start_pair
from harness.servers import EtcdServer, free_port
from harness.stubs import Client, status_of
from harness.watch import WatchStream
from ratifyd.proto import rpc_pb2 as pb

Page = dict[str, Metric]
Values = dict[tuple[tuple[str, str], ...], float]

ONLY_ETCD = ("go_",)
"""Name prefixes of what describes Go's runtime."""
ONLY_RATIFYD = {
    # newer than etcd 3.5.1
    "etcd_disk_wal_write_duration_seconds",
    "etcd_server_feature_enabled",
    "etcd_server_range_duration_seconds",
    # Python's runtime
    "python_info",
    "python_gc_collections",
    "python_gc_objects_collected",
    "python_gc_objects_uncollectable",
}
NEWER_METHODS = {"RangeStream", "List"}
"""Methods of KV and Health that etcd 3.5.1 has not."""
DETERMINATE = (
    "etcd_mvcc_put",
    "etcd_mvcc_range",
    "etcd_mvcc_delete",
    "etcd_mvcc_txn",
    "etcd_debugging_mvcc_range",
    "etcd_debugging_mvcc_total_put_size_in_bytes",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_events",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_debugging_mvcc_watch_stream_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_mvcc_pending_events_total",
    "etcd_debugging_mvcc_db_compaction_keys",
    "etcd_debugging_lease_granted",
    "etcd_debugging_lease_revoked",
    "etcd_debugging_lease_renewed",
    "etcd_debugging_lease_ttl_total",
    "etcd_debugging_server_lease_expired",
    "etcd_disk_backend_defrag_duration_seconds",
    "etcd_disk_backend_snapshot_duration_seconds",
    "etcd_mvcc_hash_duration_seconds",
    "etcd_mvcc_hash_rev_duration_seconds",
    "etcd_network_client_grpc_received_bytes",
    "etcd_network_server_stream_failures",
    "etcd_server_client_requests",
    "etcd_server_health_success",
    "etcd_server_health_failures",
    "etcd_server_proposals_failed",
    "etcd_server_proposals_pending",
    "etcd_server_slow_apply",
    "etcd_server_slow_read_indexes",
    "etcd_server_read_indexes_failed",
    "etcd_server_quota_backend_bytes",
    "grpc_server_started",
    "grpc_server_handled",
    "grpc_server_msg_received",
    "grpc_server_msg_sent",
    "grpc_server_handling_seconds",
)
"""Families whose samples the traffic decides; of histograms, the counts."""


class Member:
    """One server under test, with a page of its own for metrics."""

    def __init__(self, server: EtcdServer, metrics_port: int) -> None:
        self.server = server
        self.metrics_port = metrics_port
        self.before: Page = {}
        self.after: Page = {}
        self.outcomes: list[Any] = []

    def scrape(self) -> Page:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return {family.name: family for family in text_string_to_metric_families(text)}


@pytest.fixture(scope="module")
def members() -> Iterator[tuple[Member, Member]]:
    """etcd and ratifyd, each before and after the same traffic."""
    made = []
    for port, server in ((free_port(), side) for side in start_pair("etcd", "ratifyd")):
        server.flags += ["--metrics=extensive", f"--listen-metrics-urls=http://127.0.0.1:{port}"]
        server.restart()
        made.append(Member(server, port))
    left, right = made
    for member in made:
        member.before = member.scrape()
        with Client(member.server.client_endpoint) as client:
            member.outcomes = _traffic(client)
        urllib.request.urlopen(f"{member.server.client_url}/health", timeout=10).read()
        member.after = member.scrape()
    yield left, right
    for member in made:
        member.server.stop()


def _traffic(client: Client) -> list[Any]:
    """A bit of everything; the answers' codes."""
    outcomes: list[Any] = []

    def call(method: Any, request: Any, **options: Any) -> Any:
        try:
            answer = method(request, timeout=10, **options)
            outcomes.append("OK")
        except grpc.RpcError as error:
            answer = None
            outcomes.append(status_of(error))
        return answer

    kv, lease, maintenance = client.kv, client.lease, client.maintenance
    stream = WatchStream(client)
    stream.create(b"k", b"l")
    for number in range(5):
        call(kv.Put, pb.PutRequest(key=b"k%d" % number, value=b"x" * number), metadata=[("client-api-version", "3.5")])
    for _ in range(5):
        stream.take()
    call(kv.Put, pb.PutRequest(key=b"k1", prev_kv=True))
    call(kv.Put, pb.PutRequest(key=b"k1", ignore_value=True, prev_kv=True))
    call(kv.Put, pb.PutRequest(key=b"missing", ignore_value=True))
    call(kv.Put, pb.PutRequest(key=b"k1", lease=12345))
    call(kv.Put, pb.PutRequest())
    for _ in range(7):
        call(kv.Range, pb.RangeRequest(key=b"k1"))
    call(kv.Range, pb.RangeRequest(key=b"k", range_end=b"l", serializable=True))
    call(kv.Range, pb.RangeRequest(key=b"k1", limit=1))
    call(kv.Range, pb.RangeRequest(key=b"k1", revision=9999))
    call(kv.Range, pb.RangeRequest(key=b"a", range_end=b"z", count_only=True))
    _transactions(call, kv)
    call(kv.DeleteRange, pb.DeleteRangeRequest(key=b"k2", prev_kv=True))
    call(kv.DeleteRange, pb.DeleteRangeRequest(key=b"nothing"))
    call(lease.LeaseGrant, pb.LeaseGrantRequest(TTL=60, ID=77))
    call(lease.LeaseGrant, pb.LeaseGrantRequest(TTL=60, ID=77))
    for name in (b"l1", b"l2"):
        call(kv.Put, pb.PutRequest(key=name, lease=77))
    for answer in lease.LeaseKeepAlive(iter([pb.LeaseKeepAliveRequest(ID=77)] * 3), timeout=10):
        outcomes.append(answer.TTL)
    call(lease.LeaseTimeToLive, pb.LeaseTimeToLiveRequest(ID=77, keys=True))
    call(lease.LeaseLeases, pb.LeaseLeasesRequest())
    call(lease.LeaseRevoke, pb.LeaseRevokeRequest(ID=77))
    call(lease.LeaseRevoke, pb.LeaseRevokeRequest(ID=77))
    call(kv.Compact, pb.CompactionRequest(revision=6, physical=True))
    call(kv.Compact, pb.CompactionRequest(revision=6))
    call(client.cluster.MemberList, pb.MemberListRequest())
    call(maintenance.Status, pb.StatusRequest())
    call(maintenance.Hash, pb.HashRequest())
    call(maintenance.HashKV, pb.HashKVRequest())
    call(maintenance.Alarm, pb.AlarmRequest())
    call(maintenance.Defragment, pb.DefragmentRequest())
    stream.call.cancel()
    return outcomes


def _transactions(call: Any, kv: Any) -> None:
    def put(key: bytes) -> pb.RequestOp:
        return pb.RequestOp(request_put=pb.PutRequest(key=key, value=b"v"))

    def read(key: bytes) -> pb.RequestOp:
        return pb.RequestOp(request_range=pb.RangeRequest(key=key))

    exists = pb.Compare(target=pb.Compare.CREATE, result=pb.Compare.GREATER, key=b"k1", create_revision=0)
    absent = pb.Compare(target=pb.Compare.CREATE, result=pb.Compare.EQUAL, key=b"k1", create_revision=0)
    nested = pb.RequestOp(request_txn=pb.TxnRequest(compare=[exists, exists], success=[put(b"n1"), read(b"n1")]))
    delete = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"n1", prev_kv=True))
    keep = pb.RequestOp(request_put=pb.PutRequest(key=b"k1", ignore_value=True))
    lost = pb.RequestOp(request_put=pb.PutRequest(key=b"lost", ignore_value=True))
    call(kv.Txn, pb.TxnRequest(compare=[exists], success=[put(b"t1")]))
    call(kv.Txn, pb.TxnRequest(compare=[exists, exists], success=[put(b"t1"), put(b"t2")]))
    call(kv.Txn, pb.TxnRequest(compare=[absent, exists], success=[put(b"t1")], failure=[read(b"t1"), delete]))
    call(kv.Txn, pb.TxnRequest(success=[read(b"t1"), nested, delete]))
    call(kv.Txn, pb.TxnRequest(success=[read(b"t1"), read(b"t2")]))
    call(kv.Txn, pb.TxnRequest(compare=[exists], success=[read(b"t1")]))
    call(kv.Txn, pb.TxnRequest(success=[keep]))
    call(kv.Txn, pb.TxnRequest(compare=[exists], success=[lost]))
    call(kv.Txn, pb.TxnRequest())


def test_the_traffic_was_the_same(members: tuple[Member, Member]) -> None:
    left, right = members
    assert left.outcomes == right.outcomes


def test_names_and_types(members: tuple[Member, Member]) -> None:
    left, right = (member.after for member in members)
    missing = {name for name in left if name not in right and not name.startswith(ONLY_ETCD)}
    assert not missing
    assert {name for name in right if name not in left} == ONLY_RATIFYD
    assert {name: left[name].type for name in left if name in right} == {
        name: right[name].type for name in left if name in right
    }


def test_labels_and_buckets(members: tuple[Member, Member]) -> None:
    left, right = (member.after for member in members)
    for name in left.keys() & right.keys():
        assert _shape(left[name]) == _shape(right[name]), name


def _shape(family: Metric) -> tuple[set[frozenset[str]], set[str]]:
    """Label names, and the bounds of buckets."""
    labels = {frozenset(sample.labels) for sample in family.samples}
    return labels, {sample.labels["le"] for sample in family.samples if "le" in sample.labels}


@pytest.mark.parametrize("name", DETERMINATE)
def test_the_traffic_is_counted_alike(members: tuple[Member, Member], name: str) -> None:
    left, right = ((_values(member.before, name), _values(member.after, name)) for member in members)
    if name in ("etcd_debugging_mvcc_current_revision", "etcd_debugging_mvcc_compact_revision"):
        assert left == right
    assert _grown(*left) == _grown(*right)


def _values(page: Page, name: str) -> Values:
    if name not in page:
        return {}
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for sample in page[name].samples
        if not sample.name.endswith(("_bucket", "_sum")) and sample.labels.get("grpc_method") not in NEWER_METHODS
    }


def _grown(before: Values, after: Values) -> Values:
    grown = {labels: value - before.get(labels, 0) for labels, value in after.items()}
    return {labels: value for labels, value in grown.items() if value}


def test_entries_are_counted_by_operation(members: tuple[Member, Member]) -> None:
    """But for the members' own: etcd 3.5 writes them in the form of its v2 API."""
    name = "etcd_server_apply_duration_seconds"
    left, right = (_grown(_values(each.before, name), _values(each.after, name)) for each in members)
    assert left == right
    assert {dict(labels)["op"] for labels in left} >= {"Put", "DeleteRange", "Txn", "Compaction", "LeaseGrant"}


def test_the_port_for_metrics_serves_health_and_no_clients(members: tuple[Member, Member]) -> None:
    for member in members:
        with urllib.request.urlopen(f"http://127.0.0.1:{member.metrics_port}/health", timeout=10) as answer:
            assert b'"health":"true"' in answer.read()
        with pytest.raises(grpc.RpcError), Client(f"127.0.0.1:{member.metrics_port}") as client:
            client.kv.Range(pb.RangeRequest(key=b"k"), timeout=2)
