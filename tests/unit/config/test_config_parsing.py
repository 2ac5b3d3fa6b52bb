"""Flags, environment and file. Texts and exit behaviour were compared with etcd 3.5.1 and read from 3.6."""

import dataclasses
import json
from collections.abc import Mapping

import pytest

from ratifyd.config import (
    Config,
    ConfigError,
    HelpWanted,
    UsageError,
    VersionWanted,
    check_bootstrap,
    check_config,
    options,
    own_urls_differ,
    parse,
)
from ratifyd.config.legacy import IGNORED_FLAGS, formers


def settings(*argv: str, **environ: str) -> Config:
    return parse(argv, environ).config


def from_file(document: Mapping[str, object], *argv: str, **environ: str) -> Config:
    return parse(["--config-file=f", *argv], environ, read_file=lambda path: document).config


def messages(*argv: str, **environ: str) -> list[str]:
    return [notice.message for notice in parse(argv, environ).notices]


def refusal(*argv: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(argv, environ)
    assert caught.value.hint
    return caught.value.message


def test_defaults_are_valid_and_effective() -> None:
    config = settings()
    assert config == Config()
    assert (config.name, config.data_dir, config.wal_path) == ("default", "default.etcd", "default.etcd/member/wal")
    assert config.initial_members == {"default": ("http://localhost:2380",)}
    assert (config.quota_backend_bytes, config.backend_batch_limit, config.backend_batch_interval_s) == (
        2 << 30,
        10_000,
        0.1,
    )
    assert (config.compaction_batch_limit, config.compaction_sleep_interval_s) == (1000, 0.01)
    assert config.watch_progress_notify_interval_s == 600
    assert config.election_ticks == 10


def test_flag_syntax() -> None:
    config = settings(
        "-name", "a", "--data-dir=/d=e", "--pre-vote=false", "-unsafe-no-fsync", "--snapshot-count", "7", "--"
    )
    assert (config.name, config.data_dir, config.pre_vote, config.unsafe_no_fsync) == ("a", "/d=e", False, True)
    assert config.snapshot_count == 7
    assert settings("--name=a", "--name=b").name == "b"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--bogus"], "flag provided but not defined: -bogus"),
        (["---x"], "bad flag syntax: ---x"),
        (["--=x"], "bad flag syntax: --=x"),
        (["--name"], "flag needs an argument: -name"),
        (["--snapshot-count=x"], 'invalid value "x" for flag -snapshot-count: parse error'),
        (["--heartbeat-interval=-3"], 'invalid value "-3" for flag -heartbeat-interval: parse error'),
        (["--backend-batch-interval=5"], 'invalid value "5" for flag -backend-batch-interval: parse error'),
        (["--pre-vote=maybe"], 'invalid boolean value "maybe" for -pre-vote: parse error'),
        (["--initial-cluster-state=foo"], 'invalid value "foo" for flag -initial-cluster-state: invalid value'),
        (
            ["--listen-client-urls=http://foo"],
            'invalid value "http://foo" for flag -listen-client-urls: URL address does not have the form "host:port": '
            "http://foo",
        ),
        (["--quota-backend-bytes=9223372036854775808"],
         'invalid value "9223372036854775808" for flag -quota-backend-bytes: value out of range'),
        (["--feature-gates=A=true"],
         'invalid value "A=true" for flag -feature-gates: unrecognized feature gate: A'),
        (["--feature-gates=AllBeta"],
         'invalid value "AllBeta" for flag -feature-gates: missing bool value for AllBeta'),
    ],
)  # fmt: skip
def test_wrong_flags(argv: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(argv, {})
    assert str(caught.value) == text


def test_help_and_version() -> None:
    for word in ("-h", "--help", "-help"):
        with pytest.raises(HelpWanted):
            parse(["--name=a", word, "--bogus"], {})
    with pytest.raises(VersionWanted):
        parse(["--version", "--listen-client-urls=http://127.0.0.1:1"], {})
    assert settings("--version=false") == Config()
    assert refusal("--version", "extra") == '"extra" is not a valid flag'


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["extra"], '"extra" is not a valid flag'),
        (["--", "x"], '"x" is not a valid flag'),
        (["--pre-vote", "false"], '"false" is not a valid flag'),
        (
            ["--listen-client-urls=http://example.com:2379", "--advertise-client-urls=http://x:1"],
            "expected IP in URL for binding (http://example.com:2379)",
        ),
        (
            ["--listen-client-urls=http://:2379", "--advertise-client-urls=http://x:1"],
            "expected IP in URL for binding (http://:2379)",
        ),
        (
            ["--listen-client-urls=http://localhost:2379"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (["--listen-client-urls="], "--advertise-client-urls is required when --listen-client-urls is set explicitly"),
        (
            ["--initial-advertise-peer-urls=http://:2380"],
            '--initial-advertise-peer-urls "http://:2380" must be "host:port" (unexpected empty host (http://:2380))',
        ),
        (["--name=a\udcff"], "--name is no UTF-8"),
        (["--initial-cluster=a\udcff=http://a:2380"], "--initial-cluster is no UTF-8"),
        (["--initial-cluster-token=a\udcff"], "--initial-cluster-token is no UTF-8"),
        (["--advertise-client-urls=http://a\udcff:2379"], "--advertise-client-urls is no UTF-8"),
        (["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (
            ["--election-timeout=499"],
            "--election-timeout[499ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (["--election-timeout=50001"], "--election-timeout[50001ms] is too long, and should be set less than 50000ms"),
        (["--auto-compaction-retention=foo"], 'error parsing CompactionRetention: time: invalid duration "foo"'),
        (["--logger=foo"], 'unknown logger option "foo"'),
        (["--logger=capnslog"], "--logger=capnslog is removed in v3.5"),
        (["--log-level=foo"], 'unrecognized level: "foo"'),
        (["--log-outputs=default,stdout"], 'multi logoutput for "default" is not supported yet'),
        (
            ["--discovery-fallback=proxy"],
            'v2 proxy is deprecated, and --discovery-fallback can\'t be configured as "proxy"',
        ),
        (["--compact-hash-check-time=0"], "--compact-hash-check-time must be >0 (set to 0s)"),
        (["--max-learners=0"], "--max-learners must be at least 1 (set to 0)"),
        (["--bcrypt-cost=3"], "--bcrypt-cost must be at least 4 and at most 31 (set to 3)"),
        (
            ["--experimental-compaction-batch-limit=1", "--compaction-batch-limit=2"],
            "cannot set --experimental-compaction-batch-limit and --compaction-batch-limit at the same time, "
            "please use --compaction-batch-limit only",
        ),
        (
            ["--experimental-txn-mode-write-with-shared-buffer", "--feature-gates=TxnModeWriteWithSharedBuffer=true"],
            "cannot specify both flags: --experimental-txn-mode-write-with-shared-buffer=true and "
            "--feature-gates=TxnModeWriteWithSharedBuffer=true at the same time, please just use "
            "--feature-gates=TxnModeWriteWithSharedBuffer=true",
        ),
    ],
)
def test_unusable_settings(argv: list[str], text: str) -> None:
    assert refusal(*argv) == text


def test_what_is_not_there_yet_is_refused_unless_default() -> None:
    for row in options():
        if row.available:
            continue
        shown = row.kind.show(row.default)
        assert settings(f"--{row.flag}={shown}") == Config(), row.flag
    assert refusal("--cert-file=/c.pem") == "not supported yet by this version: --cert-file"
    assert refusal("--auto-tls") == "not supported yet by this version: --auto-tls"
    assert refusal("--discovery-srv=example.com").endswith(": --discovery-srv")
    assert refusal(
        "--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1"
    ) == "not supported yet by this version: https:// in --listen-client-urls (https://127.0.0.1:1)"  # fmt: skip
    assert settings("--advertise-client-urls=https://a:1").advertise_client_urls == ("https://a:1",)


def test_every_option_round_trips_through_its_three_spellings() -> None:
    for row in options():
        text = row.kind.show(row.default)
        if row.field in ("data_dir", "initial_cluster"):
            text = "a=http://b:1"
        if not text:
            continue
        expected = Config(**{row.field: row.kind.parse(text)})
        extra = ("--advertise-client-urls=http://localhost:2379",) if row.field == "listen_client_urls" else ()
        assert settings(*extra, f"--{row.flag}={text}") == expected, row.flag
        assert settings(*extra, **{row.env: text}) == expected, row.env
        if row.key:
            document: object = text == "true" if row.kind.name == "bool" else text
            for part in reversed(row.key.split(".")):
                document = {part: document}
            assert isinstance(document, dict)
            assert from_file(document) == expected, row.key


def test_former_names() -> None:
    assert settings("--experimental-watch-progress-notify-interval=5s").watch_progress_notify_interval_s == 5
    assert settings(ETCD_EXPERIMENTAL_SNAPSHOT_CATCHUP_ENTRIES="9").snapshot_catchup_entries == 9
    assert from_file({"experimental-snapshot-catch-up-entries": 9}).snapshot_catchup_entries == 9
    config = settings("--experimental-txn-mode-write-with-shared-buffer=false")
    assert config.features["TxnModeWriteWithSharedBuffer"] is False
    assert any(
        "Use '--compaction-batch-limit' instead." in text
        for text in messages("--experimental-compaction-batch-limit=1")
    )
    for former in formers():
        assert former.feature or former.successor in {row.flag for row in options()}
    gates = settings("--experimental-stop-grpc-service-on-defrag").features
    assert gates["StopGRPCServiceOnDefrag"] and not gates["SetMemberLocalAddr"]


def test_corruption_checks_in_both_spellings() -> None:
    for gates in (
        settings("--experimental-initial-corrupt-check", "--experimental-compact-hash-check-enabled=true"),
        settings("--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true"),
        settings(ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK="true", ETCD_EXPERIMENTAL_COMPACT_HASH_CHECK_ENABLED="1"),
    ):
        assert gates.features["InitialCorruptCheck"] and gates.features["CompactHashCheck"]
    for prefix in ("experimental-", ""):
        config = settings(f"--{prefix}corrupt-check-time=1h", f"--{prefix}compact-hash-check-time=90s")
        assert (config.corrupt_check_time_s, config.compact_hash_check_time_s) == (3600, 90)
    defaults = settings()
    assert (defaults.corrupt_check_time_s, defaults.compact_hash_check_time_s) == (0, 60)
    assert not defaults.features["InitialCorruptCheck"] and not defaults.features["CompactHashCheck"]


def test_ignored_flags() -> None:
    for flag in (*IGNORED_FLAGS, "enable-v2"):
        assert any("ignoring" in text for text in messages(f"--{flag}")), flag
        assert settings(f"--{flag}=1") == Config()


def test_environment() -> None:
    parsed = parse(
        [], {"ETCD_NAME": "n1", "ETCD_PORT": "tcp://1", "ETCD_VERSION": "9", "ETCD_DATA_DIR": "", "HOME": "/"}
    )
    assert parsed.config.name == "n1"
    notes = {(notice.message, tuple(notice.fields.values())) for notice in parsed.notices}
    assert ("recognized and used environment variable", ("ETCD_NAME", "n1")) in notes
    assert ("unrecognized environment variable", ("ETCD_PORT=tcp://1",)) in notes
    assert ("unrecognized environment variable", ("ETCD_DATA_DIR=",)) in notes
    assert ("cannot set special environment variable", ("ETCD_VERSION", "9")) in notes
    assert not any("HOME" in str(note) for note in notes)
    assert refusal(ETCD_SNAPSHOT_COUNT="q") == 'invalid value "q" for ETCD_SNAPSHOT_COUNT: parse error'
    assert refusal("--name=a", ETCD_NAME="b").startswith(
        "conflicting environment variable is shadowed by corresponding command-line flag"
    )
    assert refusal("--name=a", ETCD_NAME="a").endswith("ETCD_NAME")


def test_configuration_file_wins_over_flags_and_environment() -> None:
    config = from_file(
        {"name": "f", "listen-client-urls": "http://127.0.0.1:1"}, "--snapshot-count=7", ETCD_DATA_DIR="/x"
    )
    assert (config.name, config.snapshot_count, config.data_dir) == ("f", 10_000, "f.etcd")
    assert config.advertise_client_urls == ("http://localhost:2379",)
    read: list[str] = []
    parse([], {"ETCD_CONFIG_FILE": "/from/env"}, read_file=lambda path: read.append(path) or {})
    assert read == ["/from/env"]


def test_outputs_of_the_log_in_a_configuration_file() -> None:
    """etcd takes an empty list, and none, for the default; an output without a name is one that cannot be opened."""
    assert from_file({"log-outputs": []}).log_outputs == ("default",)
    assert from_file({"log-outputs": None}).log_outputs == ("default",)
    assert from_file({"log-outputs": [""]}).log_outputs == ("",)


def test_configuration_file_values() -> None:
    config = from_file(
        {
            "name": 5,
            "snapshot-count": 10.0,
            "grpc-keepalive-min-time": 7_000_000_000,
            "grpc-keepalive-timeout": "9s",
            "pre-vote": False,
            "log-outputs": ["stderr", "/l"],
            "listen-metrics-urls": "http://127.0.0.1:1,http://127.0.0.1:2",
            "initial-cluster-state": "",
            "wal-dir": None,
            "socket-options": {"reuse-port": True},
            "auto-compaction-retention": 3,
        }
    )
    assert (config.name, config.snapshot_count, config.pre_vote) == ("5", 10, False)
    assert (config.grpc_keepalive_min_time_s, config.grpc_keepalive_timeout_s) == (7, 9)
    assert config.log_outputs == ("stderr", "/l")
    assert config.listen_metrics_urls == ("http://127.0.0.1:1", "http://127.0.0.1:2")
    assert (config.socket_reuse_port, config.retention_s) == (True, 10_800)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"snapshot-count": "x"}, 'invalid value "x" for snapshot-count in f: parse error'),
        ({"snapshot-count": True}, 'invalid value "True" for snapshot-count in f: not a number'),
        ({"pre-vote": "no"}, 'invalid value "no" for pre-vote in f: not a boolean'),
        ({"name": [1]}, 'invalid value "[1]" for name in f: not a single value'),
        ({"initial-cluster-state": "x"}, 'invalid value "x" for initial-cluster-state in f: invalid value'),
        ({"client-transport-security": {"cert-file": "c"}}, "not supported yet by this version: --cert-file"),
    ],
)
def test_bad_configuration_files(document: Mapping[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_file(document)
    assert caught.value.message == text


def test_unknown_file_keys_are_told() -> None:
    parsed = parse(["--config-file", "f"], {}, read_file=lambda path: {"nmae": "x"})
    assert ("unrecognized configuration key", {"key": "nmae", "path": "f"}) in [
        (n.message, n.fields) for n in parsed.notices
    ]


def test_advice() -> None:
    assert any("default name" in text for text in messages())
    assert not any("default name" in text for text in messages("--name=a", "--data-dir=d"))
    assert "quota exceeds the maximum value" in messages("--quota-backend-bytes=8589934593")
    assert "exceeded recommended request limit" in messages("--max-request-bytes=10485761")


def test_default_host_replaces_localhost_where_a_member_listens_everywhere() -> None:
    parsed = parse(["--listen-peer-urls=http://0.0.0.0:7", "--name=a"], {}, default_host=lambda: "10.0.0.9")
    assert parsed.config.initial_advertise_peer_urls == ("http://10.0.0.9:7",)
    assert parsed.config.initial_cluster == "a=http://10.0.0.9:7"
    assert settings("--listen-peer-urls=http://0.0.0.0:7").initial_advertise_peer_urls == ("http://localhost:2380",)


def test_initial_cluster() -> None:
    members = settings("--name=a", "--initial-cluster=a=http://h:2,b=http://i:1,,a=http://h:1").initial_members
    assert members == {"a": ("http://h:1", "http://h:2"), "b": ("http://i:1",)}
    assert settings("--name=n", "--initial-advertise-peer-urls=http://h:1,http://h:2").initial_members == {
        "n": ("http://h:1", "http://h:2")
    }


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--initial-cluster=a=http://1.1.1.1:80/x"],
         "error setting up initial cluster: URL must not contain a path: http://1.1.1.1:80/x"),
        (["--initial-cluster=a=http://1.1.1.1:80"],
         'couldn\'t find local name "default" in the initial cluster configuration'),
        (["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"],
         "initial cluster b=http://localhost:2380,default=http://localhost:2380 has duplicate url"),
    ],
)  # fmt: skip
def test_bootstrap_rules(argv: list[str], text: str) -> None:
    config = settings(*argv)
    with pytest.raises(ConfigError) as caught:
        check_bootstrap(config)
    assert caught.value.message == text
    assert caught.value.hint


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--initial-cluster=default=http://1.1.1.1:80"],
         "--initial-cluster has default=http://1.1.1.1:80 but missing from "
         "--initial-advertise-peer-urls=http://localhost:2380 (why)"),
        (["--initial-cluster=default=http://localhost:2380", "--initial-advertise-peer-urls=http://localhost:2380,http://a:1"],
         "--initial-advertise-peer-urls has http://a:1 but missing from "
         "--initial-cluster=default=http://a:1,default=http://localhost:2380"),
    ],
)  # fmt: skip
def test_own_urls_that_differ(argv: list[str], text: str) -> None:
    config = settings(*argv)
    refused = own_urls_differ(config, check_bootstrap(config)["default"], "why")
    assert refused.message == text
    assert refused.hint


def test_retention() -> None:
    assert settings("--auto-compaction-retention=2").retention_s == 7200
    assert settings("--auto-compaction-retention=30m").retention_s == 1800
    config = settings("--auto-compaction-mode=revision", "--auto-compaction-retention=1000")
    assert (config.retention_s, config.retention_revisions) == (0, 1000)
    assert "is not a number of revisions" in refusal(
        "--auto-compaction-mode=revision", "--auto-compaction-retention=5m"
    )


def test_features() -> None:
    features = settings("--feature-gates=AllAlpha=false,TxnModeWriteWithSharedBuffer=false").features
    assert not any(features.values())
    assert Config().features["TxnModeWriteWithSharedBuffer"] is True
    with pytest.raises(ConfigError, match="requires enabling feature gate LeaseCheckpoint"):
        check_config(Config(feature_gates="LeaseCheckpointPersist=true"))
    with pytest.raises(ConfigError, match="unrecognized feature gate: X"):
        check_config(Config(feature_gates="X=true"))


def test_configs_made_in_python_are_checked() -> None:
    check_config(Config(name="a", data_dir="/d", listen_client_urls=("http://127.0.0.1:0",)))
    with pytest.raises(ConfigError, match="URL scheme must be"):
        check_config(Config(listen_client_urls=("h:1",)))
    with pytest.raises(ConfigError, match='invalid value "x" for --log-format'):
        check_config(Config(log_format="x"))


def test_defaults_can_be_shown_as_json() -> None:
    assert json.loads(json.dumps(dataclasses.asdict(Config())))["name"] == "default"
