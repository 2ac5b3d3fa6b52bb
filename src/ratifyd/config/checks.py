"""Rules over the values of a `Config`: ranges, URLs, combinations, and what this version does not do yet.

Texts are those of etcd 3.6 where it has one; every refusal also says what to do. Checks look at values only: how they
were given (flag, variable, file) is known to `parsing`.
"""

from collections.abc import Sequence

from ratifyd.config.authtoken import parse_auth_token
from ratifyd.config.errors import ConfigError
from ratifyd.config.features import FEATURES
from ratifyd.config.table import Config, Option, options
from ratifyd.config.values import is_ip, parse_duration_ns, parse_url, quote, split_host_port
from ratifyd.version import RATIFYD_VERSION

MAX_ELECTION_TIMEOUT_MS = 50_000
LOG_LEVELS = ("debug", "info", "warn", "error", "dpanic", "panic", "fatal")


def check_config(config: Config) -> None:
    """Raise ConfigError at the first rule that `config` breaks."""
    _check_logging(config)
    for row in options():
        _check_row(row, getattr(config, row.field))
    for flag, texts in (
        ("name", (config.name,)),
        ("initial-cluster", (config.initial_cluster,)),
        ("initial-cluster-token", (config.initial_cluster_token,)),
        ("initial-advertise-peer-urls", config.initial_advertise_peer_urls),
        ("advertise-client-urls", config.advertise_client_urls),
    ):
        _check_told(flag, texts)
    for flag, urls in (
        ("listen-peer-urls", config.listen_peer_urls),
        ("listen-client-urls", config.listen_client_urls),
        ("listen-client-http-urls", config.listen_client_http_urls),
        ("listen-metrics-urls", config.listen_metrics_urls),
    ):
        _check_listen_urls(flag, urls)
    _check_advertised_urls("initial-advertise-peer-urls", config.initial_advertise_peer_urls)
    _check_advertised_urls("advertise-client-urls", config.advertise_client_urls)
    _check_timing(config)
    _check_compaction(config)
    _check_auth_token(config)
    _check_features(config)


def _check_row(row: Option, value: object) -> None:
    if not row.available and value != row.default:
        raise ConfigError(
            f"not supported yet by this version: --{row.flag}",
            f"leave it out, or set it to its default ({row.kind.show(row.default) or 'empty'}); "
            f"this is ratifyd {RATIFYD_VERSION}",
        )
    if row.kind.choices and value not in row.kind.choices:
        raise ConfigError(
            f"invalid value {quote(str(value))} for --{row.flag}",
            f"use one of: {', '.join(filter(None, row.kind.choices))}",
        )
    if isinstance(value, int) and not (
        (row.low is None or value >= row.low) and (row.high is None or value <= row.high)
    ):
        allowed = " and ".join(
            text
            for text, bound in ((f"at least {row.low}", row.low), (f"at most {row.high}", row.high))
            if bound is not None
        )
        raise ConfigError(f"--{row.flag} must be {allowed} (set to {value})", f"set --{row.flag} within these bounds")


def _check_told(flag: str, texts: Sequence[str]) -> None:
    """Refuse what other members cannot be told: bytes of the command line or the environment that are no UTF-8."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise ConfigError(f"--{flag} is no UTF-8", f"write --{flag} in UTF-8: other members are told of it") from None


def _check_logging(config: Config) -> None:
    if config.logger == "capnslog":
        raise ConfigError("--logger=capnslog is removed in v3.5", "leave --logger out")
    if config.logger != "zap":
        raise ConfigError(f"unknown logger option {quote(config.logger)}", "leave --logger out")
    if config.log_level.lower() not in LOG_LEVELS:
        raise ConfigError(
            f"unrecognized level: {quote(config.log_level)}", f"set --log-level to one of: {', '.join(LOG_LEVELS)}"
        )
    if len(config.log_outputs) > 1 and "default" in config.log_outputs:
        raise ConfigError(
            'multi logoutput for "default" is not supported yet', "write stderr instead of default in --log-outputs"
        )
    if "systemd/journal" in config.log_outputs:
        raise ConfigError(
            "not supported yet by this version: --log-outputs=systemd/journal",
            "use stderr: under systemd it goes to the journal",
        )


def _check_listen_urls(flag: str, urls: Sequence[str]) -> None:
    for url in urls:
        scheme, address, _ = _parse(flag, url)
        if scheme in ("https", "unixs"):
            raise ConfigError(
                f"not supported yet by this version: {scheme}:// in --{flag} ({url})", "use http:// or unix://"
            )
        if scheme == "unix":
            continue
        host, _ = split_host_port(address)
        if host != "localhost" and not is_ip(host):
            raise ConfigError(
                f"expected IP in URL for binding ({url})",
                f"write an IP address of this machine, localhost or 0.0.0.0 in --{flag}; names are for the flags that "
                "advertise",
            )


def _check_advertised_urls(flag: str, urls: Sequence[str]) -> None:
    for url in urls:
        scheme, address, _ = _parse(flag, url)
        if scheme in ("http", "https") and not split_host_port(address)[0]:
            raise ConfigError(
                f'--{flag} {quote(",".join(urls))} must be "host:port" (unexpected empty host ({url}))',
                f"name a host that others can reach in --{flag}",
            )


def _parse(flag: str, url: str) -> tuple[str, str, str]:
    try:
        return parse_url(url)
    except ValueError as error:
        raise ConfigError(f"invalid value {quote(url)} for --{flag}: {error}", "write it as http://host:port") from None


def _check_timing(config: Config) -> None:
    heartbeat, election = config.heartbeat_interval_ms, config.election_timeout_ms
    if heartbeat <= 0:
        raise ConfigError(f"--heartbeat-interval must be >0 (set to {heartbeat}ms)", "the default is 100")
    if election <= 0:
        raise ConfigError(f"--election-timeout must be >0 (set to {election}ms)", "the default is 1000")
    if 5 * heartbeat > election:
        raise ConfigError(
            f"--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]",
            f"set --election-timeout to {5 * heartbeat} or more, on every member",
        )
    if election > MAX_ELECTION_TIMEOUT_MS:
        raise ConfigError(
            f"--election-timeout[{election}ms] is too long, and should be set less than {MAX_ELECTION_TIMEOUT_MS}ms",
            f"set --election-timeout to at most {MAX_ELECTION_TIMEOUT_MS}, on every member",
        )
    if config.compact_hash_check_time_s <= 0:
        raise ConfigError(
            f"--compact-hash-check-time must be >0 (set to {config.compact_hash_check_time_s:g}s)", "the default is 1m"
        )


def _check_compaction(config: Config) -> None:
    text = config.auto_compaction_retention
    if text.isdecimal():
        return
    if config.auto_compaction_mode == "revision":
        raise ConfigError(
            f"error parsing CompactionRetention: {quote(text)} is not a number of revisions",
            "with --auto-compaction-mode=revision the retention is a plain number",
        )
    try:
        parse_duration_ns(text)
    except ValueError as error:
        raise ConfigError(
            f"error parsing CompactionRetention: time: {error}", "write hours as a number, or a duration such as 30m"
        ) from None


def _check_auth_token(config: Config) -> None:
    try:
        parse_auth_token(config.auth_token)
    except ValueError as error:
        raise ConfigError(
            f"auth: invalid auth options: {error}",
            "set --auth-token to simple, to jwt,sign-method=...,pub-key=...,priv-key=...,ttl=..., or to nothing",
        ) from error


def _check_features(config: Config) -> None:
    try:
        features = config.features
    except ValueError as error:
        raise ConfigError(
            f"invalid value {quote(config.feature_gates)} for --feature-gates: {error}",
            f"known features: {', '.join(FEATURES)}",
        ) from None
    if features["LeaseCheckpointPersist"] and not features["LeaseCheckpoint"]:
        raise ConfigError(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
            "add LeaseCheckpoint=true to --feature-gates",
        )
    for name, row in FEATURES.items():
        if features[name] != row.default and not row.available:
            raise ConfigError(f"not supported yet by this version: --feature-gates={name}", "leave the feature out")


def check_bootstrap(config: Config) -> dict[str, tuple[str, ...]]:
    """Check the --initial- options, which count only where no data exists yet, and return the members of the cluster.

    Whether this member advertises what it is listed with is left to who can look names up.
    """
    try:
        members = config.initial_members
    except ValueError as error:
        raise ConfigError(
            f"error setting up initial cluster: {error}", "write --initial-cluster as name=http://host:port,..."
        ) from None
    if config.name not in members:
        raise ConfigError(
            f"couldn't find local name {quote(config.name)} in the initial cluster configuration",
            f"add {config.name or 'name'}=<peer URL> to --initial-cluster, or set --name to one of its names: "
            f"{', '.join(members)}",
        )
    urls = [url for several in members.values() for url in several]
    if len(set(urls)) < len(urls):
        pairs = sorted(f"{name}={url}" for name, several in members.items() for url in several)
        raise ConfigError(
            f"initial cluster {','.join(pairs)} has duplicate url",
            "give every member its own URLs in --initial-cluster",
        )
    return members


def own_urls_differ(config: Config, own: Sequence[str], reason: str) -> ConfigError:
    """The refusal of what this member advertises where it is listed with `own`, which are others for `reason`."""
    advertised = config.initial_advertise_peer_urls
    hint = "--initial-advertise-peer-urls and this member's entry in --initial-cluster must list the same URLs"
    missing = [f"{config.name}={url}" for url in own if url not in advertised]
    if missing:
        return ConfigError(
            f"--initial-cluster has {','.join(missing)} but missing from "
            f"--initial-advertise-peer-urls={','.join(advertised)} ({reason})",
            hint,
        )
    extra = [url for url in advertised if url not in own]
    pairs = ",".join(f"{config.name}={url}" for url in advertised)
    return ConfigError(
        f"--initial-advertise-peer-urls has {','.join(extra)} but missing from --initial-cluster={pairs}", hint
    )
