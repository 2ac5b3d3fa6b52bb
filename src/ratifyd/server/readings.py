"""What a scrape asks a member for, connected to the metrics table (names and meanings: etcd 3.6)."""

from sys import implementation, version

from ratifyd.config.features import feature_states
from ratifyd.membership import hex_id
from ratifyd.metrics import Metrics
from ratifyd.proto.rpc_pb2 import CORRUPT, NOSPACE
from ratifyd.server.server import Server
from ratifyd.version import ETCD_VERSION

_ALARM_NAMES: dict[int, str] = {NOSPACE: "NOSPACE", CORRUPT: "CORRUPT"}


def connect(metrics: Metrics, server: Server) -> None:
    """Have the readings of `metrics` answered by `server`."""
    raft, state, store, hub = server.node.raft, server.state, server.store, server.state.hub
    metrics.server_id[(hex_id(server.member_id),)] = 1
    metrics.server_version[(ETCD_VERSION,)] = 1
    metrics.runtime_version[(f"{implementation.name}{version.split()[0]}",)] = 1
    for name, (stage, enabled) in feature_states(server.config.feature_gates).items():
        metrics.feature_enabled[(name, stage.upper())] = int(enabled)
    if server.config.metrics == "extensive":
        metrics.time_calls()
    metrics.has_leader = lambda: float(raft.leader_id != 0)
    metrics.is_leader = lambda: float(server.is_leader)
    metrics.is_learner = lambda: float(server.members.local is not None and server.members.local.is_learner)
    metrics.cluster_version = lambda: _cluster_version(server)
    metrics.alarms = lambda: {(hex_id(member), _ALARM_NAMES.get(kind, str(kind))): 1.0 for member, kind in state.alarms}
    metrics.quota_bytes = lambda: server.quota.limit_bytes
    metrics.proposals_committed = lambda: raft.log.committed
    metrics.proposals_applied = lambda: server.node.applied
    metrics.proposals_pending = lambda: server.proposals.pending
    metrics.proposals_failed = lambda: server.proposals.failed_total
    counts, reads, leasing = store.counts, server.reads, server.leasing
    metrics.range_total = metrics.old_range_total = lambda: counts.ranges + counts.gets
    metrics.put_total = lambda: counts.puts
    metrics.delete_total = lambda: counts.deletes
    metrics.txn_total = lambda: counts.txns
    metrics.put_bytes = lambda: counts.put_bytes
    metrics.slow_read_indexes_total = lambda: reads.slow_total
    metrics.read_indexes_failed_total = lambda: reads.failed_total
    metrics.lease_renewed_total = lambda: leasing.renewed_total
    metrics.lease_expired_total = lambda: leasing.expired_total
    metrics.compaction_keys_total = lambda: store.rows_compacted
    metrics.snapshot_apply_in_progress = lambda: float(server.node.installing)
    metrics.keys = lambda: store.key_count
    metrics.revision = lambda: store.revision
    metrics.compact_revision = lambda: store.compacted
    metrics.auth_revision = lambda: state.auth.revision
    metrics.watch_streams = lambda: server.watch_streams
    metrics.watchers = lambda: hub.watcher_count
    metrics.slow_watchers = lambda: hub.lagging_count
    metrics.backend_size_bytes = server.backend.size
    metrics.backend_in_use_bytes = server.backend.size_in_use


def _cluster_version(server: Server) -> dict[tuple[str, ...], float]:
    version = server.members.cluster_version
    return {(version.rpartition(".")[0],): 1.0} if version else {}
