"""Every option of a member, once: one frozen dataclass, one row per option, in the order of the help text.

A row gives default, help and type; flag, environment variable and file key follow from the field name unless the row
says otherwise (`_ms` and `_s` at its end are units, not part of the flag). Flags, variables, file keys, messages,
help, shell completion and the reference page are loops over these rows. Names, defaults and meanings are etcd 3.6's.
A `Config` holds effective values: a zero that stands for a default is already replaced, names are derived.
"""

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from ratifyd.config.features import GATES, effective_features
from ratifyd.config.values import (
    BOOL,
    DURATION,
    INT,
    ORIGINS,
    OUTPUTS,
    PATH,
    TEXT,
    UINT,
    UINT32,
    URLS,
    WORDS,
    Kind,
    choice,
    parse_duration_ns,
    parse_urls,
)

DEFAULT_NAME = "default"
DEFAULT_PEER_URLS = ("http://localhost:2380",)
DEFAULT_CLIENT_URLS = ("http://localhost:2379",)
GROUPS: Mapping[str, str] = {
    "member": "Member",
    "limits": "Limits",
    "clustering": "Clustering",
    "compaction": "Compaction",
    "security": "Security",
    "auth": "Auth",
    "monitoring": "Monitoring",
    "logging": "Logging",
    "checks": "Consistency checks and features",
    "tracing": "Distributed tracing",
    "discovery": "Discovery",
    "unsafe": "Unsafe",
}
_KEY = "ratifyd"
_UNITS = ("_ms", "_s")
_TLS: Mapping[str, Any] = {"group": "security", "available": False}
_DISCOVERY: Mapping[str, Any] = {"group": "discovery", "available": False}
_TRACING: Mapping[str, Any] = {"group": "tracing", "available": False}


class Option(NamedTuple):
    """A row of the table, completed from its field name."""

    field: str
    flag: str
    env: str
    key: str | None
    """Dotted path in a configuration file; None where etcd has none."""
    kind: Kind
    default: Any
    help: str
    group: str
    stage: str
    """`stable`, `deprecated` or `no effect`: accepted for etcd's sake."""
    available: bool
    """False: known, but only its default value is accepted by this version."""
    zero: Any
    """What a zero stands for; None where zero is a value like any other."""
    low: int | None
    high: int | None


def option(
    default: Any,
    text: str,
    kind: Kind = TEXT,
    *,
    group: str = "member",
    flag: str = "",
    key: str | None = "",
    stage: str = "stable",
    available: bool = True,
    zero: Any = None,
    low: int | None = None,
    high: int | None = None,
) -> Any:
    """A row of the table; see `Option` for the columns."""
    row = (flag, key, kind, default, text, group, stage, available, zero, low, high)
    return dataclasses.field(default=default, metadata={_KEY: row})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one member. Build it from flags with `parse`, or directly and then call `check_config`."""

    name: str = option(DEFAULT_NAME, "Human-readable name of this member; its key in --initial-cluster.")
    data_dir: str = option("", "Directory of this member's data; ${name}.etcd when empty.", PATH)
    wal_dir: str = option("", "Directory of the write-ahead log, when it is not to live in the data directory.", PATH)
    listen_peer_urls: tuple[str, ...] = option(DEFAULT_PEER_URLS, "Where to listen for other members.", URLS)
    listen_client_urls: tuple[str, ...] = option(DEFAULT_CLIENT_URLS, "Where to listen for clients.", URLS)
    listen_client_http_urls: tuple[str, ...] = option(
        (), "Where to listen for HTTP clients only; --listen-client-urls then speaks gRPC only.", URLS, available=False
    )
    snapshot_count: int = option(
        10_000, "Applied entries after which the raft log is cut behind a snapshot.", UINT, zero=10_000
    )
    snapshot_catchup_entries: int = option(
        5_000, "Entries kept in the raft log behind a snapshot, for slow followers.", UINT
    )
    heartbeat_interval_ms: int = option(100, "Milliseconds between heartbeats of the leader.", UINT)
    election_timeout_ms: int = option(
        1000, "Milliseconds without a leader before an election; 5 to 10 heartbeat intervals.", UINT
    )
    initial_election_tick_advance: bool = option(
        True, "Skip most of the first election timeout after start, so that a leader is found sooner.", BOOL
    )
    max_snapshots: int = option(5, "Snapshot files to keep; 0 keeps all.", UINT, stage="deprecated")
    max_wals: int = option(5, "Log files to keep; 0 keeps all.", UINT)
    backend_batch_interval_s: float = option(
        0.0, "Longest time before buffered writes go to the database file.", DURATION, zero=0.1
    )
    backend_batch_limit: int = option(0, "Most buffered writes before they go to the database file.", INT, zero=10_000)
    backend_bbolt_freelist_type: str = option("map", "Kind of free list of a bbolt file.", stage="no effect")
    memory_mlock: bool = option(False, "Keep the pages of the database file in memory.", BOOL, available=False)
    bootstrap_defrag_threshold_megabytes: int = option(
        0, "Defragment at start if that frees at least this many megabytes; 0 never does.", UINT, available=False
    )
    socket_reuse_port: bool = option(
        False, "Let several processes listen on the same port (SO_REUSEPORT).", BOOL, key="socket-options.reuse-port"
    )
    socket_reuse_address: bool = option(
        False, "Let a port in TIME_WAIT be bound (SO_REUSEADDR).", BOOL, key="socket-options.reuse-address"
    )
    raft_read_timeout_s: float = option(
        5.0, "Read timeout of connections between members; at least 5s.", DURATION, key=None
    )
    raft_write_timeout_s: float = option(
        5.0, "Write timeout of connections between members; at least 5s.", DURATION, key=None
    )
    enable_grpc_gateway: bool = option(True, "Serve the JSON gateway under /v3/.", BOOL)

    quota_backend_bytes: int = option(
        0,
        "Size of the database file above which writes are refused; negative means no limit.",
        INT,
        group="limits",
        zero=2_147_483_648,
    )
    max_txn_ops: int = option(
        128, "Most compares, and most operations per branch, of a transaction.", UINT, group="limits"
    )
    max_request_bytes: int = option(1_572_864, "Largest request the server accepts.", UINT, group="limits")
    max_concurrent_streams: int = option(
        4_294_967_295,
        "Streams a client may have open on one connection; 0 is no limit.",
        UINT32,
        group="limits",
        zero=4_294_967_295,
    )
    grpc_keepalive_min_time_s: float = option(
        5.0, "Clients that ping more often than this are disconnected; 0 means 5m.", DURATION, group="limits"
    )
    grpc_keepalive_interval_s: float = option(
        7200.0, "How often the server pings an idle client; 0 means the defaults.", DURATION, group="limits"
    )
    grpc_keepalive_timeout_s: float = option(
        20.0,
        "How long an unanswered ping is waited for before the connection is closed; 0 means the defaults.",
        DURATION,
        group="limits",
    )
    warning_apply_duration_s: float = option(
        0.1, "Applying an entry for longer than this is logged as slow.", DURATION, group="limits"
    )
    warning_unary_request_duration_s: float = option(
        0.3, "Unary requests longer than this are logged as slow.", DURATION, group="limits", zero=0.3
    )
    watch_progress_notify_interval_s: float = option(
        0.0, "Period of progress notifications of watchers that asked for them.", DURATION, group="limits", zero=600.0
    )

    initial_advertise_peer_urls: tuple[str, ...] = option(
        DEFAULT_PEER_URLS, "Peer URLs of this member, as told to the other members.", URLS, group="clustering"
    )
    advertise_client_urls: tuple[str, ...] = option(
        DEFAULT_CLIENT_URLS,
        "Client URLs of this member, as told to clients; needed with --listen-client-urls.",
        URLS,
        group="clustering",
    )
    initial_cluster: str = option(
        "",
        "Members of a new cluster, name=peer-url,...; a name may repeat. Only this member when empty.",
        group="clustering",
    )
    initial_cluster_state: str = option(
        "new",
        "Whether the cluster is to be made or to be joined; ignored once there is data.",
        choice("new", "existing"),
        group="clustering",
    )
    initial_cluster_token: str = option(
        "etcd-cluster", "Part of what member and cluster IDs are made from: one token per cluster.", group="clustering"
    )
    strict_reconfig_check: bool = option(
        True, "Refuse membership changes that would cost the quorum.", BOOL, group="clustering"
    )
    pre_vote: bool = option(
        True,
        "Ask for votes before raising the term, so that a returning member disturbs nobody.",
        BOOL,
        group="clustering",
    )
    max_learners: int = option(1, "Most learners the cluster may have.", INT, group="clustering", low=1)
    downgrade_check_time_s: float = option(
        5.0, "Time between two looks at the state of a downgrade.", DURATION, group="clustering"
    )

    auto_compaction_mode: str = option(
        "periodic",
        "What the retention counts: time (periodic) or revisions (revision).",
        choice("periodic", "revision"),
        group="compaction",
    )
    auto_compaction_retention: str = option(
        "0",
        "History to keep: hours or a duration such as 30m, or a number of revisions; 0 keeps all.",
        group="compaction",
    )
    compaction_batch_limit: int = option(
        0, "Most revisions removed in one step of a compaction.", INT, group="compaction", zero=1000
    )
    compaction_sleep_interval_s: float = option(
        0.0, "Pause between two steps of a compaction.", DURATION, group="compaction", zero=0.01
    )

    cert_file: str = option(
        "", "Certificate shown to clients.", PATH, key="client-transport-security.cert-file", **_TLS
    )
    key_file: str = option("", "Private key of --cert-file.", PATH, key="client-transport-security.key-file", **_TLS)
    client_cert_auth: bool = option(
        False, "Demand certificates from clients.", BOOL, key="client-transport-security.client-cert-auth", **_TLS
    )
    trusted_ca_file: str = option(
        "",
        "Authorities whose client certificates are trusted.",
        PATH,
        key="client-transport-security.trusted-ca-file",
        **_TLS,
    )
    auto_tls: bool = option(
        False,
        "Use TLS for clients with a certificate made at start.",
        BOOL,
        key="client-transport-security.auto-tls",
        **_TLS,
    )
    client_cert_file: str = option(
        "",
        "Certificate for calls to ourselves, when it is not --cert-file.",
        PATH,
        key="client-transport-security.client-cert-file",
        **_TLS,
    )
    client_key_file: str = option(
        "", "Private key of --client-cert-file.", PATH, key="client-transport-security.client-key-file", **_TLS
    )
    client_crl_file: str = option("", "Revoked client certificates.", PATH, key=None, **_TLS)
    client_cert_allowed_hostname: tuple[str, ...] = option(
        (),
        "Host names of which a client certificate must carry one.",
        WORDS,
        key="client-transport-security.allowed-hostname",
        **_TLS,
    )
    peer_cert_file: str = option(
        "", "Certificate shown to other members.", PATH, key="peer-transport-security.cert-file", **_TLS
    )
    peer_key_file: str = option(
        "", "Private key of --peer-cert-file.", PATH, key="peer-transport-security.key-file", **_TLS
    )
    peer_client_cert_auth: bool = option(
        False,
        "Demand certificates from other members.",
        BOOL,
        key="peer-transport-security.client-cert-auth",
        **_TLS,
    )
    peer_trusted_ca_file: str = option(
        "",
        "Authorities whose member certificates are trusted.",
        PATH,
        key="peer-transport-security.trusted-ca-file",
        **_TLS,
    )
    peer_auto_tls: bool = option(
        False,
        "Use TLS between members with a certificate made at start.",
        BOOL,
        key="peer-transport-security.auto-tls",
        **_TLS,
    )
    peer_client_cert_file: str = option(
        "",
        "Certificate for calls to other members, when it is not --peer-cert-file.",
        PATH,
        key="peer-transport-security.client-cert-file",
        **_TLS,
    )
    peer_client_key_file: str = option(
        "", "Private key of --peer-client-cert-file.", PATH, key="peer-transport-security.client-key-file", **_TLS
    )
    peer_crl_file: str = option("", "Revoked member certificates.", PATH, key=None, **_TLS)
    peer_cert_allowed_cn: tuple[str, ...] = option(
        (),
        "Common names of which a member certificate must carry one.",
        WORDS,
        key="peer-transport-security.allowed-cn",
        **_TLS,
    )
    peer_cert_allowed_hostname: tuple[str, ...] = option(
        (),
        "Host names of which a member certificate must carry one.",
        WORDS,
        key="peer-transport-security.allowed-hostname",
        **_TLS,
    )
    peer_skip_client_san_verification: bool = option(
        False,
        "Do not compare the address of a member with the names in its certificate.",
        BOOL,
        key="peer-transport-security.skip-client-san-verification",
        **_TLS,
    )
    self_signed_cert_validity: int = option(1, "Years for which certificates made at start are valid.", UINT, **_TLS)
    cipher_suites: tuple[str, ...] = option((), "TLS 1.2 cipher suites to offer, by preference.", WORDS, **_TLS)
    tls_min_version: str = option("TLS1.2", "Oldest TLS version.", choice("TLS1.2", "TLS1.3"), **_TLS)
    tls_max_version: str = option(
        "", "Newest TLS version; no limit when empty.", choice("", "TLS1.2", "TLS1.3"), **_TLS
    )
    cors: tuple[str, ...] = option(
        ("*",), "Origins whose scripts may call the HTTP API; * allows all.", ORIGINS, group="security"
    )
    host_whitelist: tuple[str, ...] = option(
        ("*",), "Host names HTTP clients may ask for without TLS; * allows all.", WORDS, group="security"
    )

    auth_token: str = option(
        "simple", "Kind of the tokens given to authenticated users, and its settings.", group="auth"
    )
    auth_token_ttl_s: int = option(300, "Seconds after which an unused simple token ends.", UINT, group="auth")
    bcrypt_cost: int = option(10, "Cost of password hashes, as a power of two.", UINT, group="auth", low=4, high=31)

    enable_pprof: bool = option(
        False, "Serve profiles of the running server under /debug/pprof/.", BOOL, group="monitoring"
    )
    metrics: str = option(
        "basic",
        "Detail of the exported metrics: extensive adds the durations of calls.",
        choice("basic", "extensive"),
        group="monitoring",
    )
    listen_metrics_urls: tuple[str, ...] = option(
        (), "Where else to serve metrics and health.", URLS, group="monitoring"
    )

    logger: str = option("zap", "Format family of the log; only zap is known.", group="logging", stage="no effect")
    log_outputs: tuple[str, ...] = option(
        ("default",), "Where to log: stderr, stdout, default (stderr) or file paths.", OUTPUTS, group="logging"
    )
    log_level: str = option(
        "info", "Lowest level that is logged: debug, info, warn, error, panic or fatal.", group="logging"
    )
    log_format: str = option("json", "Form of a log line.", choice("json", "console"), group="logging")
    enable_log_rotation: bool = option(
        False, "Rotate the log file, of which there must then be one.", BOOL, group="logging", available=False
    )
    log_rotation_config_json: str = option(
        '{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}',
        "Sizes and ages for --enable-log-rotation.",
        group="logging",
        available=False,
    )

    feature_gates: str = option(
        "", "Features to switch, Name=true,Name=false; see the list of features.", GATES, group="checks"
    )
    corrupt_check_time_s: float = option(
        0.0,
        "How often the leader compares its data with the other members'; 0 never does.",
        DURATION,
        group="checks",
    )
    compact_hash_check_time_s: float = option(
        60.0,
        "How often the leader compares hashes of compactions (feature CompactHashCheck).",
        DURATION,
        group="checks",
    )
    v2_deprecation: str = option(
        "write-only",
        "Stage of the removal of etcd's version 2 store, which this server never had.",
        choice("write-only", "write-only-skip-check", "write-only-drop-data", "gone"),
        group="checks",
        stage="deprecated",
    )

    enable_distributed_tracing: bool = option(False, "Send OpenTelemetry traces.", BOOL, **_TRACING)
    distributed_tracing_address: str = option("localhost:4317", "Address of the trace collector.", **_TRACING)
    distributed_tracing_service_name: str = option("etcd", "Name of the service in traces.", **_TRACING)
    distributed_tracing_instance_id: str = option("", "Identity of this member in traces.", **_TRACING)
    distributed_tracing_sampling_rate: int = option(0, "Traces kept of a million.", INT, high=1_000_000, **_TRACING)

    discovery: str = option("", "URL of a version 2 discovery service.", **_DISCOVERY)
    discovery_proxy: str = option("", "HTTP proxy on the way to the discovery service.", **_DISCOVERY)
    discovery_fallback: str = option(
        "exit", "What to do when discovery fails.", choice("exit", "proxy"), key=None, group="discovery"
    )
    discovery_srv: str = option("", "DNS domain whose SRV records name the members.", **_DISCOVERY)
    discovery_srv_name: str = option("", "Suffix of the service name in those records.", **_DISCOVERY)
    discovery_token: str = option(
        "", "Token of the cluster at the discovery service.", key="discovery-config.token", **_DISCOVERY
    )
    discovery_endpoints: tuple[str, ...] = option(
        (), "Endpoints of an etcd cluster that serves discovery.", WORDS, key="discovery-config.endpoints", **_DISCOVERY
    )
    discovery_dial_timeout_s: float = option(
        2.0, "Time to connect to the discovery service.", DURATION, key="discovery-config.dial-timeout", **_DISCOVERY
    )
    discovery_request_timeout_s: float = option(
        5.0, "Time for one request to it.", DURATION, key="discovery-config.request-timeout", **_DISCOVERY
    )
    discovery_keepalive_time_s: float = option(
        2.0, "Period of pings to it.", DURATION, key="discovery-config.keepalive-time", **_DISCOVERY
    )
    discovery_keepalive_timeout_s: float = option(
        6.0, "Time for it to answer a ping.", DURATION, key="discovery-config.keepalive-timeout", **_DISCOVERY
    )
    discovery_insecure_transport: bool = option(
        True, "Talk to it without TLS.", BOOL, key="discovery-config.secure.insecure-transport", **_DISCOVERY
    )
    discovery_insecure_skip_tls_verify: bool = option(
        False,
        "Do not check its certificate.",
        BOOL,
        key="discovery-config.secure.insecure-skip-tls-verify",
        **_DISCOVERY,
    )
    discovery_cert: str = option("", "Certificate shown to it.", PATH, key="discovery-config.secure.cert", **_DISCOVERY)
    discovery_key: str = option(
        "", "Private key of --discovery-cert.", PATH, key="discovery-config.secure.key", **_DISCOVERY
    )
    discovery_cacert: str = option(
        "", "Authorities trusted for its certificate.", PATH, key="discovery-config.secure.cacert", **_DISCOVERY
    )
    discovery_user: str = option(
        "", "User at the discovery service, name[:password].", key="discovery-config.auth.username", **_DISCOVERY
    )
    discovery_password: str = option("", "Password of that user.", key="discovery-config.auth.password", **_DISCOVERY)

    force_new_cluster: bool = option(
        False, "Make this member, with its data, the only one of its cluster.", BOOL, group="unsafe"
    )
    unsafe_no_fsync: bool = option(False, "Never sync files: a crash loses data.", BOOL, group="unsafe")

    def __post_init__(self) -> None:
        fill = object.__setattr__
        for row in _rows_with_zero():
            if getattr(self, row.field) == 0:
                fill(self, row.field, row.zero)
        fill(self, "raft_read_timeout_s", max(self.raft_read_timeout_s, 5.0))
        fill(self, "raft_write_timeout_s", max(self.raft_write_timeout_s, 5.0))
        if not self.data_dir:
            fill(self, "data_dir", f"{self.name}.etcd")
        if not self.initial_cluster:
            name = self.name or DEFAULT_NAME
            fill(self, "initial_cluster", ",".join(f"{name}={url}" for url in self.initial_advertise_peer_urls))

    @property
    def election_ticks(self) -> int:
        """Election timeout in heartbeats."""
        return self.election_timeout_ms // self.heartbeat_interval_ms

    @property
    def min_ping_interval_s(self) -> float:
        """`grpc_keepalive_min_time_s` as grpc-go understands what etcd hands it: 5 minutes unless positive."""
        return self.grpc_keepalive_min_time_s if self.grpc_keepalive_min_time_s > 0 else 300.0

    @property
    def keepalive_s(self) -> tuple[float, float]:
        """Silence before the server pings a client, and its wait for the answer; etcd sets both or neither.

        Not under a second, as grpc-go.
        """
        interval_s, timeout_s = self.grpc_keepalive_interval_s, self.grpc_keepalive_timeout_s
        return (max(interval_s, 1.0), timeout_s) if interval_s > 0 and timeout_s > 0 else (7200.0, 20.0)

    @property
    def wal_path(self) -> str:
        """Directory of the write-ahead log."""
        return self.wal_dir or f"{self.data_dir}/member/wal"

    @property
    def initial_members(self) -> dict[str, tuple[str, ...]]:
        """`initial_cluster` by member name, URLs sorted; ValueError with etcd's text when one is malformed."""
        return parse_initial_cluster(self.initial_cluster)

    @property
    def retention_s(self) -> float:
        """History that periodic compaction keeps, in seconds; 0 when it is off or the mode is another."""
        if self.auto_compaction_mode != "periodic":
            return 0.0
        text = self.auto_compaction_retention
        return int(text) * 3600.0 if text.isdecimal() else parse_duration_ns(text) / 1e9

    @property
    def retention_revisions(self) -> int:
        """History that compaction by revisions keeps; 0 when it is off or the mode is another."""
        return int(self.auto_compaction_retention) if self.auto_compaction_mode == "revision" else 0

    @property
    def features(self) -> Mapping[str, bool]:
        """Every feature gate with its value; ValueError with etcd's text when `feature_gates` is malformed."""
        return effective_features(self.feature_gates)


def parse_initial_cluster(text: str) -> dict[str, tuple[str, ...]]:
    """Read name=url,name=url,...; a name may occur several times. ValueError carries etcd's text for a bad URL."""
    urls: dict[str, list[str]] = {}
    for item in text.split(","):
        name, _, url = item.partition("=")
        if item:
            urls.setdefault(name, []).append(url)
    return {name: parse_urls(",".join(values)) for name, values in urls.items()}


@cache
def options() -> tuple[Option, ...]:
    """All rows, in the order of the help text."""
    rows = []
    for field in dataclasses.fields(Config):
        flag, key, *rest = field.metadata[_KEY]
        if not flag:
            unit = next((unit for unit in _UNITS if field.name.endswith(unit)), "")
            flag = field.name.removesuffix(unit).replace("_", "-")
        rows.append(Option(field.name, flag, flag_to_env(flag), flag if key == "" else key, *rest))
    order = list(GROUPS)
    return tuple(sorted(rows, key=lambda row: order.index(row.group)))


@cache
def _rows_with_zero() -> tuple[Option, ...]:
    return tuple(row for row in options() if row.zero is not None)


def flag_to_env(flag: str) -> str:
    """The environment variable of a flag."""
    return "ETCD_" + flag.upper().replace("-", "_")
