"""Flags that are not options of their own: former spellings of options, and names that are accepted and ignored.

etcd 3.6 accepts every `--experimental-` flag of 3.5 beside the name that replaced it, and a few names of etcd 0.x and
of its test harness. One flag removed in 3.6 is still accepted because the test suites of etcd 3.4 and 3.5 pass it.
"""

from functools import cache
from typing import NamedTuple

from ratifyd.config.table import flag_to_env, options
from ratifyd.config.values import BOOL, TEXT, Kind

IGNORED_FLAGS = (
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
    "test.coverprofile",
    "test.outputdir",
)

IGNORED = TEXT._replace(name="anything")
"""Kind of the ignored flags: any text, or none."""

REMOVED_FLAGS: dict[str, Kind] = {"enable-v2": BOOL}

_FEATURE_FLAGS = {
    "experimental-initial-corrupt-check": "InitialCorruptCheck",
    "experimental-compact-hash-check-enabled": "CompactHashCheck",
    "experimental-enable-lease-checkpoint": "LeaseCheckpoint",
    "experimental-enable-lease-checkpoint-persist": "LeaseCheckpointPersist",
    "experimental-txn-mode-write-with-shared-buffer": "TxnModeWriteWithSharedBuffer",
    "experimental-stop-grpc-service-on-defrag": "StopGRPCServiceOnDefrag",
}
_RENAMED = (
    "corrupt-check-time",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "watch-progress-notify-interval",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "downgrade-check-time",
    "memory-mlock",
    "bootstrap-defrag-threshold-megabytes",
    "snapshot-catchup-entries",
    "peer-skip-client-san-verification",
    "enable-distributed-tracing",
    "distributed-tracing-address",
    "distributed-tracing-service-name",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
)
_KEYS = {"experimental-snapshot-catchup-entries": "experimental-snapshot-catch-up-entries"}
"""etcd's file key differs from the flag here."""


class Former(NamedTuple):
    """An old spelling and what took its place: another option, or a feature gate."""

    flag: str
    env: str
    key: str
    kind: Kind
    successor: str
    feature: str

    @property
    def replacement(self) -> str:
        """What to write instead, without the dashes."""
        return f"feature-gates={self.feature}=true" if self.feature else self.successor


@cache
def formers() -> tuple[Former, ...]:
    """All former spellings."""
    kinds = {row.flag: row.kind for row in options()}
    renamed = [
        Former(flag, flag_to_env(flag), _KEYS.get(flag, flag), kinds[name], name, "")
        for name in _RENAMED
        for flag in (f"experimental-{name}",)
    ]
    features = [
        Former(flag, flag_to_env(flag), flag, BOOL, "feature-gates", feature)
        for flag, feature in _FEATURE_FLAGS.items()
    ]
    return (*renamed, *features)
