"""Every metric, once: one row of `Metrics` gives attribute, exported name, labels, buckets and help.

One instance per member. Attributes are plain numbers, dicts and small slotted objects, changed in place by whoever
knows; `Reading`s are functions the composition root puts in, called when somebody scrapes. Names, types, labels and
buckets equal those of etcd 3.6 where the meaning is equal; a family without a single sample is left out, as etcd does.
Deliberately knows nothing of who counts what, or who asks.
"""

# Rows are field specifiers: called once, at definition.
# ruff: noqa: RUF009

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import partial
from itertools import accumulate
from resource import RLIM_INFINITY, RLIMIT_AS, getrlimit
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ratifyd.proto.services import METHODS, Method

Labels = tuple[str, ...]
"""Label values, in the order of the row's label names."""
Reading = Callable[[], float]
Readings = Callable[[], Mapping[Labels, float]]
Numbers = defaultdict[Labels, float]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

GRPC_CODES: Final = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)
"""Values of label grpc_code, by code."""

_LAZY_SERVICES: Final = (
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
UNKNOWN_VERSION: Final = "unknown"
"""Value of label client_api_version for clients that do not name theirs."""
OTHER_VERSION: Final = "other"
MAX_VERSIONS: Final = 100
MAX_VERSION_LENGTH: Final = 64
"""Their rows appear with the first call; those of all other services are there from the start."""


class Histogram:
    """Observations counted by upper bound (inclusive; one more count for those above), and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation, in the unit of the bounds."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_many(self, count: int, value: float) -> None:
        """Count several observations of the same value."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += count * value

    def observe_quick(self, count: int, total: float) -> None:
        """Count observations known to be within the lowest bound, by their sum."""
        self.counts[0] += count
        self.sum += total

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.counts)


Histograms = defaultdict[Labels, Histogram]


class Rpc:
    """Counters of one RPC method, and apart from it of clients that name their API version.

    `served` stands for a whole unary call that ended well: one of each kind.
    """

    __slots__ = ("_method", "early", "handled", "labels", "received", "sent", "served", "started", "versions")

    def __init__(self, method: Method) -> None:
        self._method = method
        self.labels = {"grpc_type": method.grpc_type, "grpc_service": method.service, "grpc_method": method.name}
        self.served = 0
        self.started = 0
        self.received = 0
        self.sent = 0
        self.early = 0
        """Calls that were refused before anybody looked at the client's version."""
        self.handled = [0] * len(GRPC_CODES)  # by code
        self.versions: dict[str, Rpc] = {}

    def of_version(self, version: str) -> "Rpc":
        """The counters for clients of one API version; all versions share one when clients make up too many."""
        if version not in self.versions and (len(self.versions) >= MAX_VERSIONS or len(version) > MAX_VERSION_LENGTH):
            version = OTHER_VERSION
        return self.versions.setdefault(version, Rpc(self._method))

    @property
    def all(self) -> "list[Rpc]":
        """These counters, and those by version."""
        return [self, *self.versions.values()]

    @property
    def label_text(self) -> str:
        """The labels as the text format has them, sorted by name. Names in a service definition need no escapes."""
        return ",".join(f'{name}="{value}"' for name, value in sorted(self.labels.items()))

    @property
    def key(self) -> Labels:
        """Label values of `Metrics.rpc_handling_seconds`."""
        return tuple(self.labels.values())


def exponential(start: float, count: int) -> tuple[float, ...]:
    """`count` bucket bounds, each twice the one before."""
    return tuple(start * 2**power for power in range(count))


# ---- Rows

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Row:
    """What the exposition knows of a metric."""

    kind: Kind
    name: str
    help: str
    labels: Labels = ()


def _row(kind: Kind, name: str, text: str, labels: Labels = ()) -> dict[str, Row]:
    return {"row": Row(kind, name, text, labels)}


def counter(name: str, text: str) -> int:
    """Declare a number that only grows."""
    return field(default=0, metadata=_row("counter", name, text))


def counters(name: str, text: str, *labels: str) -> Numbers:
    """Declare growing numbers by label values."""
    return field(default_factory=partial(defaultdict, int), metadata=_row("counter", name, text, labels))


def gauge(name: str, text: str) -> int:
    """Declare a number set or moved by its owner."""
    return field(default=0, metadata=_row("gauge", name, text))


def gauges(name: str, text: str, *labels: str) -> Numbers:
    """Declare numbers by label values, set or moved by their owner."""
    return field(default_factory=partial(defaultdict, int), metadata=_row("gauge", name, text, labels))


def nothing(kind: Kind, name: str, text: str, bounds: tuple[float, ...] = ()) -> object:
    """Declare what cannot happen here: a zero, or no observations, for dashboards that ask for the name."""
    empty = partial(Histogram, bounds) if kind == "histogram" else int
    return field(default_factory=empty, metadata=_row(kind, name, text))


def reading(name: str, text: str, kind: Kind = "gauge") -> Reading:
    """Declare a number that is asked for at a scrape."""
    return field(default=_zero, metadata=_row(kind, name, text))


def readings(name: str, text: str, *labels: str, kind: Kind = "gauge") -> Readings:
    """Declare numbers by label values that are asked for at a scrape."""
    return field(default=_nothing, metadata=_row(kind, name, text, labels))


def histogram(name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
    """Declare a distribution."""
    return field(default_factory=partial(Histogram, bounds), metadata=_row("histogram", name, text))


def histograms(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Histograms:
    """Declare distributions by label values."""

    def empty() -> Histograms:
        return defaultdict(partial(Histogram, bounds))

    return field(default_factory=empty, metadata=_row("histogram", name, text, labels))


def _zero() -> float:
    return 0.0


def _nothing() -> Mapping[Labels, float]:
    return {}


def _rpcs() -> dict[bytes, Rpc]:
    return {path: Rpc(method) for path, method in METHODS.items()}


_DISK: Final = exponential(0.001, 14)
_APPLY: Final = exponential(0.0001, 20)
_TRANSFER: Final = exponential(0.1, 10)
_RPC: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True, eq=False)
class Metrics:
    """The numbers of one member."""

    # Member
    has_leader: Reading = reading("etcd_server_has_leader", "1 if this member knows a leader.")
    is_leader: Reading = reading("etcd_server_is_leader", "1 if this member leads.")
    is_learner: Reading = reading("etcd_server_is_learner", "1 if this member does not vote.")
    leader_changes_seen_total: int = counter(
        "etcd_server_leader_changes_seen_total", "Changes of leader this member has seen."
    )
    heartbeat_send_failures_total: int = counter(
        "etcd_server_heartbeat_send_failures_total", "Heartbeats this leader sent late."
    )
    learner_promote_failures: Numbers = counters(
        "etcd_server_learner_promote_failures", "Promotions of learners that this leader refused.", "Reason"
    )
    learner_promote_successes: int = counter(
        "etcd_server_learner_promote_successes", "Learners promoted while this member led."
    )
    server_id: Numbers = gauges("etcd_server_id", "1; the label is the member id.", "server_id")
    server_version: Numbers = gauges(
        "etcd_server_version", "1; the label is the version of the server.", "server_version"
    )
    runtime_version: Numbers = gauges(
        "etcd_server_go_version", "1; the label is the version of the language's runtime.", "server_go_version"
    )
    cluster_version: Readings = readings(
        "etcd_cluster_version", "1; the label is the version the cluster has agreed on.", "cluster_version"
    )
    feature_enabled: Numbers = gauges(
        "etcd_server_feature_enabled", "1 for a feature that is switched on.", "name", "stage"
    )
    alarms: Readings = readings(
        "etcd_debugging_server_alarms", "1 for every alarm that is raised.", "server_id", "alarm_type"
    )
    quota_bytes: Reading = reading("etcd_server_quota_backend_bytes", "Bytes the backend may take.")

    # Proposals and reads
    proposals_committed: Reading = reading(
        "etcd_server_proposals_committed_total", "Index of the last committed entry."
    )
    proposals_applied: Reading = reading("etcd_server_proposals_applied_total", "Index of the last applied entry.")
    proposals_pending: Reading = reading("etcd_server_proposals_pending", "Proposals that wait for their outcome.")
    proposals_failed: Reading = reading("etcd_server_proposals_failed_total", "Proposals given up.", kind="counter")
    apply_seconds: Histograms = histograms(
        "etcd_server_apply_duration_seconds", "Time to apply an entry.", _APPLY, "version", "op", "success"
    )
    slow_apply_total: int = counter("etcd_server_slow_apply_total", "Entries that took too long to apply.")
    range_seconds: Histograms = histograms(
        "etcd_server_range_duration_seconds", "Time to read a range from the store.", _APPLY, "success"
    )
    slow_read_indexes_total: Reading = reading(
        "etcd_server_slow_read_indexes_total",
        "ReadIndex requests that were answered too late or never.",
        kind="counter",
    )
    read_indexes_failed_total: Reading = reading(
        "etcd_server_read_indexes_failed_total", "ReadIndex requests whose leader was lost.", kind="counter"
    )

    # Store
    range_total: Reading = reading("etcd_mvcc_range_total", "Ranges read.", kind="counter")
    old_range_total: Reading = reading(
        "etcd_debugging_mvcc_range_total", "Ranges read, by a name of etcd 3.5.", kind="counter"
    )
    put_total: Reading = reading("etcd_mvcc_put_total", "Keys put.", kind="counter")
    delete_total: Reading = reading("etcd_mvcc_delete_total", "Ranges deleted.", kind="counter")
    txn_total: Reading = reading("etcd_mvcc_txn_total", "Transactions with more than one operation.", kind="counter")
    put_bytes: Reading = reading("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values put.")
    keys: Reading = reading("etcd_debugging_mvcc_keys_total", "Keys in the index.")
    revision: Reading = reading("etcd_debugging_mvcc_current_revision", "Revision of the store.")
    compact_revision: Reading = reading("etcd_debugging_mvcc_compact_revision", "Revision of the last compaction.")
    auth_revision: Reading = reading("etcd_debugging_auth_revision", "Revision of the auth store.")
    index_compaction_pause_ms: Histogram = histogram(
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
        "Time a compaction of the index holds the loop.",
        exponential(0.5, 14),
    )
    compaction_pause_ms: Histogram = histogram(
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "Time a slice of a compaction holds the loop.",
        exponential(1, 13),
    )
    compaction_total_ms: Histogram = histogram(
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "Time a compaction takes from its first slice to its last.",
        exponential(100, 14),
    )
    compaction_last: float = gauge(
        "etcd_debugging_mvcc_db_compaction_last", "Unix time at which the last compaction ended."
    )
    compaction_keys_total: Reading = reading(
        "etcd_debugging_mvcc_db_compaction_keys_total", "Rows removed by compactions.", kind="counter"
    )
    hash_seconds: Histogram = histogram(
        "etcd_mvcc_hash_duration_seconds", "Time to hash the backend.", exponential(0.01, 15)
    )
    hash_revision_seconds: Histogram = histogram(
        "etcd_mvcc_hash_rev_duration_seconds", "Time to hash the keys up to a revision.", exponential(0.01, 15)
    )

    # Watch
    mvcc_events_total: int = counter("etcd_debugging_mvcc_events_total", "Events sent to watchers.")
    pending_events: Reading = reading("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent.")
    watch_streams: Reading = reading("etcd_debugging_mvcc_watch_stream_total", "Open watch streams.")
    watchers: Reading = reading("etcd_debugging_mvcc_watcher_total", "Watchers.")
    slow_watchers: Reading = reading("etcd_debugging_mvcc_slow_watcher_total", "Watchers that lag behind.")

    # Lease
    lease_granted_total: int = counter("etcd_debugging_lease_granted_total", "Leases granted.")
    lease_revoked_total: int = counter("etcd_debugging_lease_revoked_total", "Leases revoked.")
    lease_renewed_total: Reading = reading(
        "etcd_debugging_lease_renewed_total", "Leases renewed by this leader.", kind="counter"
    )
    lease_expired_total: Reading = reading(
        "etcd_debugging_server_lease_expired_total", "Leases expired by this leader.", kind="counter"
    )
    lease_ttl_seconds: Histogram = histogram(
        "etcd_debugging_lease_ttl_total", "Time to live of granted leases, in seconds.", exponential(1, 24)
    )

    # Disk
    wal_fsync_seconds: Histogram = histogram("etcd_disk_wal_fsync_duration_seconds", "Time to sync the WAL.", _DISK)
    wal_write_seconds: Histogram = histogram(
        "etcd_disk_wal_write_duration_seconds", "Time to write to the WAL, syncs left out.", _DISK
    )
    wal_write_bytes: int = gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the WAL.")
    backend_commit_seconds: Histogram = histogram(
        "etcd_disk_backend_commit_duration_seconds", "Time to commit a batch to the backend.", _DISK
    )
    backend_write_seconds: Histogram = histogram(
        "etcd_debugging_disk_backend_commit_write_duration_seconds", "Time to write and sync a batch of changes.", _DISK
    )
    backend_rebalance_seconds: object = nothing(
        "histogram",
        "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
        "No observations: LMDB keeps its tree balanced as it goes.",
        _DISK,
    )
    backend_spill_seconds: object = nothing(
        "histogram",
        "etcd_debugging_disk_backend_commit_spill_duration_seconds",
        "No observations: LMDB has no such phase.",
        _DISK,
    )
    backend_snapshot_seconds: Histogram = histogram(
        "etcd_disk_backend_snapshot_duration_seconds", "Time to send the backend as a file.", exponential(0.01, 17)
    )
    backend_defrag_seconds: Histogram = histogram(
        "etcd_disk_backend_defrag_duration_seconds", "Time to defragment the backend.", exponential(0.1, 13)
    )
    defrag_inflight: int = gauge("etcd_disk_defrag_inflight", "Defragmentations of the backend under way.")
    backend_size_bytes: Reading = reading("etcd_mvcc_db_total_size_in_bytes", "Bytes the backend has allocated.")
    backend_in_use_bytes: Reading = reading("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes the backend has in use.")
    backend_open_reads: Reading = reading(
        "etcd_mvcc_db_open_read_transactions", "Open read transactions of the backend."
    )

    # Raft snapshots
    snapshot_marshal_seconds: Histogram = histogram(
        "etcd_debugging_snap_save_marshalling_duration_seconds", "Time to encode a raft snapshot.", _DISK
    )
    snapshot_save_seconds: Histogram = histogram(
        "etcd_debugging_snap_save_total_duration_seconds", "Time to save a raft snapshot.", _DISK
    )
    snapshot_fsync_seconds: Histogram = histogram(
        "etcd_snap_fsync_duration_seconds", "Time to sync the file of a raft snapshot.", _DISK
    )
    snapshot_db_fsync_seconds: Histogram = histogram(
        "etcd_snap_db_fsync_duration_seconds", "Time to sync a received backend.", _DISK
    )
    snapshot_db_save_seconds: Histogram = histogram(
        "etcd_snap_db_save_total_duration_seconds", "Time to receive and save a backend.", _TRANSFER
    )
    snapshot_apply_in_progress: Reading = reading(
        "etcd_server_snapshot_apply_in_progress_total", "1 while a received snapshot is being installed."
    )

    # Peers
    known_peers: Readings = readings("etcd_network_known_peers", "1 for every other member.", "Local", "Remote")
    active_peers: Numbers = gauges("etcd_network_active_peers", "1 for a peer with an open stream.", "Local", "Remote")
    disconnected_peers_total: Numbers = counters(
        "etcd_network_disconnected_peers_total", "Streams to a peer that broke.", "Local", "Remote"
    )
    peer_sent_bytes_total: Numbers = counters("etcd_network_peer_sent_bytes_total", "Bytes sent to a peer.", "To")
    peer_received_bytes_total: Numbers = counters(
        "etcd_network_peer_received_bytes_total", "Bytes received from a peer.", "From"
    )
    peer_sent_failures_total: Numbers = counters(
        "etcd_network_peer_sent_failures_total", "Messages that could not be sent to a peer.", "To"
    )
    peer_received_failures_total: Numbers = counters(
        "etcd_network_peer_received_failures_total", "Messages from a peer that could not be read.", "From"
    )
    peer_round_trip_seconds: Histograms = histograms(
        "etcd_network_peer_round_trip_time_seconds", "Round trip time of probes.", exponential(0.0001, 16), "To"
    )
    snapshot_send_success: Numbers = counters("etcd_network_snapshot_send_success", "Snapshots a peer took.", "To")
    snapshot_send_failures: Numbers = counters(
        "etcd_network_snapshot_send_failures", "Snapshots that did not reach a peer.", "To"
    )
    snapshot_send_inflights: Numbers = gauges(
        "etcd_network_snapshot_send_inflights_total", "Snapshots on their way to a peer.", "To"
    )
    snapshot_send_seconds: Histograms = histograms(
        "etcd_network_snapshot_send_total_duration_seconds", "Time to send a snapshot.", _TRANSFER, "To"
    )
    snapshot_receive_success: Numbers = counters(
        "etcd_network_snapshot_receive_success", "Snapshots received from a peer.", "From"
    )
    snapshot_receive_failures: Numbers = counters(
        "etcd_network_snapshot_receive_failures", "Snapshots from a peer that could not be taken.", "From"
    )
    snapshot_receive_inflights: Numbers = gauges(
        "etcd_network_snapshot_receive_inflights_total", "Snapshots on their way from a peer.", "From"
    )
    snapshot_receive_seconds: Histograms = histograms(
        "etcd_network_snapshot_receive_total_duration_seconds", "Time to receive a snapshot.", _TRANSFER, "From"
    )

    # Clients
    client_received_bytes_total: int = counter(
        "etcd_network_client_grpc_received_bytes_total", "Bytes of messages received from clients."
    )
    client_sent_bytes_total: int = counter(
        "etcd_network_client_grpc_sent_bytes_total", "Bytes of messages sent to clients."
    )
    client_requests_total: Readings = readings(
        "etcd_server_client_requests_total",
        "Requests by the API version of the client.",
        "type",
        "client_api_version",
        kind="counter",
    )
    stream_failures_total: Numbers = counters(
        "etcd_network_server_stream_failures_total", "Streams that ended by an error.", "Type", "API"
    )
    rpc_handling_seconds: Histograms = histograms(
        "grpc_server_handling_seconds", "Time to answer a call.", _RPC, "grpc_type", "grpc_service", "grpc_method"
    )
    health_success: int = counter("etcd_server_health_success", "Answers of /health that were good.")
    health_failures: int = counter("etcd_server_health_failures", "Answers of /health that were bad.")
    healthcheck: Numbers = gauges(
        "etcd_server_healthcheck", "1 for a check whose last result was good.", "type", "name"
    )
    healthchecks_total: Numbers = counters(
        "etcd_server_healthchecks_total", "Results of checks.", "type", "name", "status"
    )

    scrapes: int = gauge("promhttp_metric_handler_requests_in_flight", "Scrapes being answered.")
    scrapes_total: Numbers = counters("promhttp_metric_handler_requests_total", "Scrapes by HTTP status.", "code")

    # What etcd has and this server has not
    v2_expires: object = nothing("counter", "etcd_debugging_store_expires_total", "0: there is no v2 store.")
    v2_reads: Numbers = counters("etcd_debugging_store_reads_total", "0: there is no v2 store.", "action")
    v2_writes: Numbers = counters("etcd_debugging_store_writes_total", "0: there is no v2 store.", "action")
    v2_watch_requests: object = nothing(
        "counter", "etcd_debugging_store_watch_requests_total", "0: there is no v2 store."
    )
    v2_watchers: object = nothing("gauge", "etcd_debugging_store_watchers", "0: there is no v2 store.")
    proxy_cache_hits: object = nothing("gauge", "etcd_grpc_proxy_cache_hits_total", "0: this is no proxy.")
    proxy_cache_keys: object = nothing("gauge", "etcd_grpc_proxy_cache_keys_total", "0: this is no proxy.")
    proxy_cache_misses: object = nothing("gauge", "etcd_grpc_proxy_cache_misses_total", "0: this is no proxy.")
    proxy_events: object = nothing("counter", "etcd_grpc_proxy_events_coalescing_total", "0: this is no proxy.")
    proxy_watchers: object = nothing("gauge", "etcd_grpc_proxy_watchers_coalescing_total", "0: this is no proxy.")

    rpcs: dict[bytes, Rpc] = field(default_factory=_rpcs)
    """By path: the grpc_server_*_total counters."""

    def __post_init__(self) -> None:
        self.client_requests_total = self._client_requests
        self.scrapes_total.update({(code,): 0 for code in ("200", "500", "503")})
        self.v2_reads["getRecursive",] = 0
        self.v2_writes.update({("create",): 0, ("set",): 0})

    def time_calls(self) -> None:
        """Show the durations of calls from the start (--metrics=extensive)."""
        for rpc in self.rpcs.values():
            if rpc.labels["grpc_service"] not in _LAZY_SERVICES:
                self.rpc_handling_seconds[rpc.key]

    def _client_requests(self) -> dict[Labels, float]:
        counts: Numbers = defaultdict(int)
        for rpc in self.rpcs.values():
            kind = "unary" if rpc.labels["grpc_type"] == "unary" else "stream"
            for version, own in ((UNKNOWN_VERSION, rpc), *rpc.versions.items()):
                counts[kind, version] += own.started + own.served - own.early
        return {labels: count for labels, count in counts.items() if count}


# ---- Exposition


class MetricsCollector(Collector):
    """The families of one member but those by RPC, and those of its process, in prometheus_client's terms."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Every family that has samples."""
        metrics = self._metrics
        for declared in fields(metrics):
            if "row" in declared.metadata:
                family = _family(declared, getattr(metrics, declared.name))
                if family.samples:
                    yield family
        yield from _process_families()


def render(metrics: Metrics) -> bytes:
    """Everything in Prometheus' text format 0.0.4."""
    registry = CollectorRegistry()
    registry.register(MetricsCollector(metrics))
    text = generate_latest(registry)
    for name in _COUNTERS_WITHOUT_SUFFIX:
        # prometheus_client gives every counter the suffix of OpenMetrics; etcd's name wins.
        plain = name.encode()
        text = text.replace(b"# HELP %b_total " % plain, b"# HELP %b " % plain)
        text = text.replace(b"# TYPE %b_total " % plain, b"# TYPE %b " % plain)
    return text + "".join(_rpc_lines(metrics.rpcs.values())).encode()


def _family(declared: Field[Any], value: Any) -> Metric:
    row: Row = declared.metadata["row"]
    family = _metric(row.kind, row.name, row.help)
    if callable(value):
        value = value()
    items = value.items() if row.labels else (((), value),)
    for label_values, number in items:
        labels = dict(zip(row.labels, label_values))
        if row.kind == "histogram":
            _add_histogram(family, row.name, labels, number)
        else:
            family.add_sample(row.name, labels, number)
    return family


def _metric(kind: Kind, name: str, text: str) -> Metric:
    return Metric(name.removesuffix("_total") if kind == "counter" else name, text, kind)


def _add_histogram(family: Metric, name: str, labels: dict[str, str], value: Histogram) -> None:
    total = 0
    for bound, total in zip((*value.bounds, float("inf")), accumulate(value.counts)):
        # As Go prints it: 1, not 1.0.
        le = floatToGoString(bound).removesuffix(".0")  # type: ignore[no-untyped-call]
        family.add_sample(f"{name}_bucket", labels | {"le": le}, total)
    family.add_sample(f"{name}_sum", labels, value.sum)
    family.add_sample(f"{name}_count", labels, total)


def _rpc_lines(rpcs: Iterable[Rpc]) -> Iterator[str]:
    """The text of the families by RPC: four fifths of all samples, so they skip the library's way through objects."""
    shown = [
        (rpc.label_text, rpc.all)
        for rpc in rpcs
        if rpc.labels["grpc_service"] not in _LAZY_SERVICES or any(own.served or own.started for own in rpc.all)
    ]
    for name, text, attribute in (
        ("grpc_server_started_total", "Calls that began.", "started"),
        ("grpc_server_msg_received_total", "Messages received in calls.", "received"),
        ("grpc_server_msg_sent_total", "Messages sent in calls.", "sent"),
    ):
        yield f"# HELP {name} {text}\n# TYPE {name} counter\n"
        for labels, counters in shown:
            yield f"{name}{{{labels}}} {sum(getattr(own, attribute) + own.served for own in counters)}\n"
    name = "grpc_server_handled_total"
    yield f"# HELP {name} Calls that ended, by code.\n# TYPE {name} counter\n"
    for labels, counters in shown:
        counts = [sum(handled) for handled in zip(*(own.handled for own in counters))]
        counts[0] += sum(own.served for own in counters)
        for code, count in zip(GRPC_CODES, counts):
            yield f'{name}{{grpc_code="{code}",{labels}}} {count}\n'


def _process_families() -> Iterator[Metric]:
    values: dict[str, float] = {}
    for family in ProcessCollector(registry=None).collect():
        values[family.name] = family.samples[0].value
        yield family
    for name, text, source in (
        ("os_fd_used", "Open file descriptors.", "process_open_fds"),
        ("os_fd_limit", "File descriptors that may be open.", "process_max_fds"),
    ):
        if source in values:
            yield _single(name, text, values[source])
    limit, _ = getrlimit(RLIMIT_AS)
    name, text = "process_virtual_memory_max_bytes", "Virtual memory the process may have."
    yield _single(name, text, float(limit) if limit != RLIM_INFINITY else 2.0**64)
    yield from PlatformCollector(registry=None).collect()
    yield from GCCollector(registry=CollectorRegistry()).collect()


def _single(name: str, text: str, value: float) -> Metric:
    family = _metric("gauge", name, text)
    family.add_sample(name, {}, value)
    return family


ROWS: Final[tuple[Row, ...]] = tuple(
    declared.metadata["row"] for declared in fields(Metrics) if "row" in declared.metadata
)
"""Every row, for generated documentation."""
_COUNTERS_WITHOUT_SUFFIX: Final = tuple(
    row.name for row in ROWS if row.kind == "counter" and not row.name.endswith("_total")
)
