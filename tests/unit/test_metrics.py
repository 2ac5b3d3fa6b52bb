"""Exposition against etcd's names, types, labels and buckets; and the few moving parts behind it."""

import re
from collections import defaultdict
from dataclasses import fields

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ratifyd.metrics import (
    GRPC_CODES,
    MAX_VERSION_LENGTH,
    MAX_VERSIONS,
    OTHER_VERSION,
    ROWS,
    Histogram,
    Metrics,
    exponential,
    render,
)

# name, type, labels, buckets (count:first:last), as etcd 3.6 exports them.
ETCD = """
etcd_cluster_version gauge cluster_version -
etcd_debugging_auth_revision gauge - -
etcd_debugging_disk_backend_commit_rebalance_duration_seconds histogram - 14:0.001:8.192
etcd_debugging_disk_backend_commit_spill_duration_seconds histogram - 14:0.001:8.192
etcd_debugging_disk_backend_commit_write_duration_seconds histogram - 14:0.001:8.192
etcd_debugging_lease_granted_total counter - -
etcd_debugging_lease_renewed_total counter - -
etcd_debugging_lease_revoked_total counter - -
etcd_debugging_lease_ttl_total histogram - 24:1:8388608
etcd_debugging_mvcc_compact_revision gauge - -
etcd_debugging_mvcc_current_revision gauge - -
etcd_debugging_mvcc_db_compaction_keys_total counter - -
etcd_debugging_mvcc_db_compaction_last gauge - -
etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds histogram - 13:1:4096
etcd_debugging_mvcc_db_compaction_total_duration_milliseconds histogram - 14:100:819200
etcd_debugging_mvcc_events_total counter - -
etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds histogram - 14:0.5:4096
etcd_debugging_mvcc_keys_total gauge - -
etcd_debugging_mvcc_pending_events_total gauge - -
etcd_debugging_mvcc_range_total counter - -
etcd_debugging_mvcc_slow_watcher_total gauge - -
etcd_debugging_mvcc_total_put_size_in_bytes gauge - -
etcd_debugging_mvcc_watch_stream_total gauge - -
etcd_debugging_mvcc_watcher_total gauge - -
etcd_debugging_server_alarms gauge server_id,alarm_type -
etcd_debugging_server_lease_expired_total counter - -
etcd_debugging_snap_save_marshalling_duration_seconds histogram - 14:0.001:8.192
etcd_debugging_snap_save_total_duration_seconds histogram - 14:0.001:8.192
etcd_debugging_store_expires_total counter - -
etcd_debugging_store_reads_total counter action -
etcd_debugging_store_watch_requests_total counter - -
etcd_debugging_store_watchers gauge - -
etcd_debugging_store_writes_total counter action -
etcd_disk_backend_commit_duration_seconds histogram - 14:0.001:8.192
etcd_disk_backend_defrag_duration_seconds histogram - 13:0.1:409.6
etcd_disk_backend_snapshot_duration_seconds histogram - 17:0.01:655.36
etcd_disk_defrag_inflight gauge - -
etcd_disk_wal_fsync_duration_seconds histogram - 14:0.001:8.192
etcd_disk_wal_write_bytes_total gauge - -
etcd_disk_wal_write_duration_seconds histogram - 14:0.001:8.192
etcd_grpc_proxy_cache_hits_total gauge - -
etcd_grpc_proxy_cache_keys_total gauge - -
etcd_grpc_proxy_cache_misses_total gauge - -
etcd_grpc_proxy_events_coalescing_total counter - -
etcd_grpc_proxy_watchers_coalescing_total gauge - -
etcd_mvcc_db_open_read_transactions gauge - -
etcd_mvcc_db_total_size_in_bytes gauge - -
etcd_mvcc_db_total_size_in_use_in_bytes gauge - -
etcd_mvcc_delete_total counter - -
etcd_mvcc_hash_duration_seconds histogram - 15:0.01:163.84
etcd_mvcc_hash_rev_duration_seconds histogram - 15:0.01:163.84
etcd_mvcc_put_total counter - -
etcd_mvcc_range_total counter - -
etcd_mvcc_txn_total counter - -
etcd_network_active_peers gauge Local,Remote -
etcd_network_client_grpc_received_bytes_total counter - -
etcd_network_client_grpc_sent_bytes_total counter - -
etcd_network_disconnected_peers_total counter Local,Remote -
etcd_network_known_peers gauge Local,Remote -
etcd_network_peer_received_bytes_total counter From -
etcd_network_peer_received_failures_total counter From -
etcd_network_peer_round_trip_time_seconds histogram To 16:0.0001:3.2768
etcd_network_peer_sent_bytes_total counter To -
etcd_network_peer_sent_failures_total counter To -
etcd_network_server_stream_failures_total counter Type,API -
etcd_network_snapshot_receive_failures counter From -
etcd_network_snapshot_receive_inflights_total gauge From -
etcd_network_snapshot_receive_success counter From -
etcd_network_snapshot_receive_total_duration_seconds histogram From 10:0.1:51.2
etcd_network_snapshot_send_failures counter To -
etcd_network_snapshot_send_inflights_total gauge To -
etcd_network_snapshot_send_success counter To -
etcd_network_snapshot_send_total_duration_seconds histogram To 10:0.1:51.2
etcd_server_apply_duration_seconds histogram version,op,success 20:0.0001:52.4288
etcd_server_client_requests_total counter type,client_api_version -
etcd_server_feature_enabled gauge name,stage -
etcd_server_go_version gauge server_go_version -
etcd_server_has_leader gauge - -
etcd_server_health_failures counter - -
etcd_server_health_success counter - -
etcd_server_healthcheck gauge type,name -
etcd_server_healthchecks_total counter type,name,status -
etcd_server_heartbeat_send_failures_total counter - -
etcd_server_id gauge server_id -
etcd_server_is_leader gauge - -
etcd_server_is_learner gauge - -
etcd_server_leader_changes_seen_total counter - -
etcd_server_learner_promote_failures counter Reason -
etcd_server_learner_promote_successes counter - -
etcd_server_proposals_applied_total gauge - -
etcd_server_proposals_committed_total gauge - -
etcd_server_proposals_failed_total counter - -
etcd_server_proposals_pending gauge - -
etcd_server_quota_backend_bytes gauge - -
etcd_server_range_duration_seconds histogram success 20:0.0001:52.4288
etcd_server_read_indexes_failed_total counter - -
etcd_server_slow_apply_total counter - -
etcd_server_slow_read_indexes_total counter - -
etcd_server_snapshot_apply_in_progress_total gauge - -
etcd_server_version gauge server_version -
etcd_snap_db_fsync_duration_seconds histogram - 14:0.001:8.192
etcd_snap_db_save_total_duration_seconds histogram - 10:0.1:51.2
etcd_snap_fsync_duration_seconds histogram - 14:0.001:8.192
grpc_server_handled_total counter grpc_type,grpc_service,grpc_method,grpc_code -
grpc_server_handling_seconds histogram grpc_type,grpc_service,grpc_method 11:0.005:10
grpc_server_msg_received_total counter grpc_type,grpc_service,grpc_method -
grpc_server_msg_sent_total counter grpc_type,grpc_service,grpc_method -
grpc_server_started_total counter grpc_type,grpc_service,grpc_method -
os_fd_limit gauge - -
os_fd_used gauge - -
promhttp_metric_handler_requests_in_flight gauge - -
promhttp_metric_handler_requests_total counter code -
"""

SAMPLE = re.compile(r"^([a-zA-Z_:]+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')

Sample = tuple[dict[str, str], float]


class Page:
    """A rendered page: type by family, samples by name."""

    def __init__(self, text: bytes) -> None:
        self.lines = text.decode().splitlines()
        self.types = dict(line.split()[2:] for line in self.lines if line.startswith("# TYPE "))
        self.helps = [line.split()[2] for line in self.lines if line.startswith("# HELP ")]
        self.samples: dict[str, list[Sample]] = defaultdict(list)
        for line in self.lines:
            if not line.startswith("#"):
                match = SAMPLE.match(line)
                assert match, line
                name, labels, value = match.groups()
                self.samples[name].append((dict(LABEL.findall(labels or "")), float(value)))

    def value(self, name: str, **labels: str) -> float:
        """The one sample with exactly these labels."""
        (value,) = [value for own, value in self.samples[name] if own == labels]
        return value


def filled() -> Metrics:
    """Metrics in which every family has a sample."""
    metrics = Metrics()
    for declared in fields(metrics):
        if "row" not in declared.metadata:
            continue
        row = declared.metadata["row"]
        if not row.labels:
            continue
        key = tuple(f"value of {label}" for label in row.labels)
        value = getattr(metrics, declared.name)
        if callable(value):
            setattr(metrics, declared.name, lambda key=key: {key: 1})
        elif row.kind == "histogram":
            value[key].observe(0.25)
        else:
            value[key] += 1
    return metrics


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(filled()))


@pytest.mark.parametrize("line", ETCD.split("\n")[1:-1])
def test_family_equals_etcds(page: Page, line: str) -> None:
    name, kind, labels, buckets = line.split(" ")
    assert page.types[name] == kind
    expected = set() if labels == "-" else set(labels.split(","))
    if kind != "histogram":
        own, _ = page.samples[name][0]
        assert set(own) == expected
        return
    own, _ = page.samples[f"{name}_count"][0]
    assert set(own) == expected
    bounds = [labels["le"] for labels, _ in page.samples[f"{name}_bucket"] if own.items() <= labels.items()]
    count, first, last = buckets.split(":")
    assert len(bounds) == int(count) + 1
    assert float(bounds[0]) == float(first)
    assert float(bounds[-2]) == pytest.approx(float(last), rel=1e-9)
    assert bounds[-1] == "+Inf"


def test_there_are_no_other_families(page: Page) -> None:
    known = {line.split(" ")[0] for line in ETCD.split("\n")[1:-1]}
    assert {name for name in page.types if not name.startswith(("process_", "python_"))} == known
    assert {row.name for row in ROWS} <= known


def test_every_family_is_announced_once_and_nothing_is_called_created(page: Page) -> None:
    assert page.helps == list(page.types)
    assert not [line for line in page.lines if "_created" in line]
    assert all(name in page.types or re.sub("_(bucket|sum|count)$", "", name) in page.types for name in page.samples)


def test_the_page_parses() -> None:
    families = {family.name: family for family in text_string_to_metric_families(render(filled()).decode())}
    assert families["etcd_mvcc_put"].type == "counter"
    assert families["etcd_disk_wal_write_bytes_total"].type == "gauge"


def test_families_without_samples_are_left_out() -> None:
    page = Page(render(Metrics()))
    assert "etcd_network_peer_sent_bytes_total" not in page.types
    assert "etcd_server_apply_duration_seconds" not in page.types
    assert page.value("etcd_mvcc_put_total") == 0


def test_values_reach_the_page() -> None:
    metrics = Metrics()
    metrics.put_total = lambda: 3
    metrics.health_success += 2
    metrics.revision = lambda: 42
    metrics.cluster_version = lambda: {("3.6",): 1}
    metrics.peer_sent_bytes_total["ab12",] += 100
    metrics.proposals_failed = lambda: 7
    page = Page(render(metrics))
    assert page.value("etcd_mvcc_put_total") == 3
    assert page.value("etcd_server_health_success") == 2
    assert page.types["etcd_server_health_success"] == "counter"
    assert page.value("etcd_debugging_mvcc_current_revision") == 42
    assert page.value("etcd_cluster_version", cluster_version="3.6") == 1
    assert page.value("etcd_network_peer_sent_bytes_total", To="ab12") == 100
    assert page.value("etcd_server_proposals_failed_total") == 7
    assert page.types["etcd_server_proposals_failed_total"] == "counter"


def test_members_share_nothing() -> None:
    first, second = Metrics(), Metrics()
    first.wal_fsync_seconds.observe(1)
    first.peer_sent_bytes_total["ab12",] += 100
    first.rpcs[b"/etcdserverpb.KV/Put"].served += 1
    assert second.wal_fsync_seconds.count == 0
    assert not second.peer_sent_bytes_total
    assert second.rpcs[b"/etcdserverpb.KV/Put"].served == 0


def test_an_unknown_attribute_is_refused() -> None:
    with pytest.raises(AttributeError):
        Metrics().put_totl = 1  # type: ignore[attr-defined]


def test_histogram_bounds_are_inclusive_and_buckets_cumulative() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0.5, 1, 1.5, 4, 5):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1, 1]
    assert histogram.count == 5
    metrics = Metrics()
    for value in (0.0005, 0.001, 3, 100):
        metrics.wal_fsync_seconds.observe(value)
    page = Page(render(metrics))
    name = "etcd_disk_wal_fsync_duration_seconds"
    assert page.value(f"{name}_bucket", le="0.001") == 2
    assert page.value(f"{name}_bucket", le="4.096") == 3
    assert page.value(f"{name}_bucket", le="+Inf") == page.value(f"{name}_count") == 4
    assert page.value(f"{name}_sum") == pytest.approx(103.0015)


def test_bounds_are_spelled_as_go_spells_them(page: Page) -> None:
    bounds = [labels["le"] for labels, _ in page.samples["etcd_debugging_lease_ttl_total_bucket"]]
    assert bounds[:2] == ["1", "2"]
    assert bounds[19:21] == ["524288", "1.048576e+06"]


def test_exponential_bounds_double() -> None:
    assert exponential(0.5, 4) == (0.5, 1, 2, 4)


PUT = {"grpc_type": "unary", "grpc_service": "etcdserverpb.KV", "grpc_method": "Put"}
LOCK = {"grpc_type": "unary", "grpc_service": "v3lockpb.Lock", "grpc_method": "Lock"}


def test_grpc_rows_are_there_from_the_start_but_for_what_etcd_registers_late() -> None:
    page = Page(render(Metrics()))
    services = {labels["grpc_service"] for labels, _ in page.samples["grpc_server_started_total"]}
    assert services == {
        *(f"etcdserverpb.{name}" for name in ("KV", "Watch", "Lease", "Cluster", "Maintenance", "Auth")),
        "grpc.health.v1.Health",
    }
    codes = [
        labels["grpc_code"] for labels, _ in page.samples["grpc_server_handled_total"] if PUT.items() <= labels.items()
    ]
    assert codes == list(GRPC_CODES)


def test_a_served_call_counts_as_one_of_each() -> None:
    metrics = Metrics()
    put = metrics.rpcs[b"/etcdserverpb.KV/Put"]
    put.served += 5
    put.started += 1
    put.received += 1
    put.handled[GRPC_CODES.index("Unavailable")] += 1
    metrics.rpcs[b"/v3lockpb.Lock/Lock"].started += 1
    metrics.rpc_handling_seconds[put.key].observe(0.3)
    page = Page(render(metrics))
    assert page.value("grpc_server_started_total", **PUT) == 6
    assert page.value("grpc_server_msg_received_total", **PUT) == 6
    assert page.value("grpc_server_msg_sent_total", **PUT) == 5
    assert page.value("grpc_server_handled_total", **PUT, grpc_code="OK") == 5
    assert page.value("grpc_server_handled_total", **PUT, grpc_code="Unavailable") == 1
    assert page.value("grpc_server_started_total", **LOCK) == 1
    assert page.value("grpc_server_handling_seconds_count", **PUT) == 1


def test_process_metrics_and_descriptors_are_on_the_page(page: Page) -> None:
    assert page.value("process_resident_memory_bytes") > 0
    assert page.value("os_fd_used") == page.value("process_open_fds") > 0
    assert page.value("os_fd_limit") == page.value("process_max_fds") > 0
    assert page.types["process_cpu_seconds_total"] == "counter"


def test_clients_are_counted_by_version() -> None:
    metrics = Metrics()
    put, watch = metrics.rpcs[b"/etcdserverpb.KV/Put"], metrics.rpcs[b"/etcdserverpb.Watch/Watch"]
    put.served += 2
    put.of_version("3.5").served += 3
    put.of_version("3.5").started += 1
    watch.of_version("3.5").started += 1
    refused = put.of_version("3.4")
    refused.started += 1
    refused.early += 1
    page = Page(render(metrics))
    name = "etcd_server_client_requests_total"
    assert page.types[name] == "counter"
    assert {(own["type"], own["client_api_version"]): value for own, value in page.samples[name]} == {
        ("unary", "unknown"): 2,
        ("unary", "3.5"): 4,
        ("stream", "3.5"): 1,
    }
    assert page.value("grpc_server_started_total", **PUT) == 7


def test_made_up_versions_are_bounded() -> None:
    put = Metrics().rpcs[b"/etcdserverpb.KV/Put"]
    put.of_version("x" * (MAX_VERSION_LENGTH + 1)).served += 1
    assert list(put.versions) == [OTHER_VERSION]
    for number in range(2 * MAX_VERSIONS):
        put.of_version(str(number)).served += 1
    assert len(put.versions) == MAX_VERSIONS
    assert sum(own.served for own in put.all) == 2 * MAX_VERSIONS + 1


def test_rows_by_rpc_parse_as_the_others() -> None:
    text = render(Metrics()).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    handled = families["grpc_server_handled"]
    assert handled.type == "counter"
    assert {tuple(sorted(sample.labels)) for sample in handled.samples} == {
        ("grpc_code", "grpc_method", "grpc_service", "grpc_type")
    }
