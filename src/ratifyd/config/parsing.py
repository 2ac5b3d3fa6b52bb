"""From command line, environment and configuration file to a `Config`.

As etcd: a flag wins over its variable, and giving both is refused; with a configuration file, flags and variables are
ignored. Old `--experimental-` spellings fill the options that replaced them. What an operator should know about comes
back as notices, because logging is configured by what is read here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from ratifyd.config.checks import check_config
from ratifyd.config.errors import ConfigError, HelpWanted, UsageError, VersionWanted
from ratifyd.config.legacy import IGNORED, IGNORED_FLAGS, REMOVED_FLAGS, Former, formers
from ratifyd.config.table import (
    DEFAULT_CLIENT_URLS,
    DEFAULT_NAME,
    DEFAULT_PEER_URLS,
    Config,
    Option,
    flag_to_env,
    options,
)
from ratifyd.config.values import BOOL, TEXT, Kind, parse_url, quote, split_host_port

CONFIG_FILE = "config-file"
MAX_QUOTA_BYTES = 8 << 30
MAX_REQUEST_BYTES = 10 << 20
"""etcd warns above these two."""

_URL_KIND_NAMES = ("URL list", "origin list")
_LOADED_FILE = (
    "loaded server configuration, other configuration command line flags and environment variables will be ignored if "
    "provided"
)


class Notice(NamedTuple):
    """A line for the log, once there is one."""

    level: str
    message: str
    fields: Mapping[str, object]


class Parsed(NamedTuple):
    """A checked configuration and what to say about it."""

    config: Config
    notices: tuple[Notice, ...]


def no_file(path: str) -> Mapping[str, object]:
    """The reader for callers without configuration files."""
    raise ConfigError(f"open {path}: no such file or directory")


def no_host() -> str | None:
    """The default host of a machine nobody asked about."""
    return None


def parse(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    read_file: Callable[[str], Mapping[str, object]] = no_file,
    default_host: Callable[[], str | None] = no_host,
) -> Parsed:
    """Read and check a configuration.

    `argv` lacks the program's name. `read_file` decodes the file of --config-file, raising ConfigError; `default_host`
    tells an address under which others reach this machine, for members that listen everywhere and advertise nothing.
    Raises UsageError, ConfigError, HelpWanted or VersionWanted.
    """
    given = _read_flags(argv)
    path = given.pop(CONFIG_FILE, "") or environ.get(flag_to_env(CONFIG_FILE), "")
    settings = _Settings()
    if path:
        settings.load_file(path, read_file(path))
    else:
        settings.load_flags(given)
        settings.load_environment(given, environ)
    config = settings.build()
    check_config(config)
    if not path:
        settings.require_advertised_urls()
    settings.advise(config)
    return Parsed(_advertise_default_host(config, default_host, settings), tuple(settings.notices))


def _read_flags(argv: Sequence[str]) -> dict[str, str]:
    """Flag texts by name, read as Go's flag package reads them; the last of several wins."""
    kinds = _flag_kinds()
    given: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        if len(word) < 2 or word[0] != "-" or word == "--":
            rest = [word, *words] if word != "--" else list(words)
            if rest:
                raise ConfigError(f"{quote(rest[0])} is not a valid flag", "flags start with --; see --help")
            break
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if not name or name.startswith("-"):
            raise UsageError(f"bad flag syntax: {word}")
        if name not in kinds:
            if name in ("h", "help"):
                raise HelpWanted
            raise UsageError(f"flag provided but not defined: -{name}")
        if not equals:
            value = "true" if kinds[name] in (BOOL, IGNORED) else _next_word(words, name)
        given[name] = value
        _check_text(kinds[name], name, value)
    if BOOL.parse(given.pop("version", "false")):
        raise VersionWanted
    return given


def _next_word(words: Iterator[str], name: str) -> str:
    try:
        return next(words)
    except StopIteration:
        raise UsageError(f"flag needs an argument: -{name}") from None


def _check_text(kind: Kind, name: str, value: str) -> None:
    try:
        _parse_text(kind, value)
    except ValueError as error:
        what = "boolean value" if kind is BOOL else "value"
        on = "for" if kind is BOOL else "for flag"
        raise UsageError(f"invalid {what} {quote(value)} {on} -{name}: {error}") from None


def _parse_text(kind: Kind, value: str) -> object:
    """None for an empty URL list, which leaves the default in place as it does in etcd."""
    return None if not value and kind.name in _URL_KIND_NAMES else kind.parse(value)


@cache
def _flag_kinds() -> Mapping[str, Kind]:
    kinds = {row.flag: row.kind for row in options()}
    kinds |= {former.flag: former.kind for former in formers()}
    kinds |= dict.fromkeys(IGNORED_FLAGS, IGNORED)
    kinds |= REMOVED_FLAGS
    return kinds | {CONFIG_FILE: TEXT, "version": BOOL}


class _Settings:
    """Values gathered from one source or two, the flags they came under, and what to say about them."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.features: dict[str, bool] = {}
        self.flags: set[str] = set()
        self.notices: list[Notice] = []
        self._rows = {row.flag: row for row in options()}
        self._formers = {former.flag: former for former in formers()}

    def note(self, level: str, message: str, **fields: object) -> None:
        self.notices.append(Notice(level, message, {name.replace("_", "-"): value for name, value in fields.items()}))

    def load_flags(self, given: Mapping[str, str]) -> None:
        for flag, text in given.items():
            self._set_text(flag, text)

    def load_environment(self, given: Mapping[str, str], environ: Mapping[str, str]) -> None:
        names = {flag_to_env(flag): flag for flag in _flag_kinds()}
        for variable in sorted(environ):
            text = environ[variable]
            if not variable.startswith("ETCD_") or variable == "ETCD_UNSUPPORTED_ARCH":
                continue
            flag = names.get(variable)
            if variable == "ETCD_VERSION":
                self.note("warn", "cannot set special environment variable", key=variable, value=text)
            elif flag in given:
                raise ConfigError(
                    "conflicting environment variable is shadowed by corresponding command-line flag "
                    f"(either unset environment variable or disable flag)): {variable}",
                    f"unset {variable}, or leave --{flag} out",
                )
            elif flag is None or not text:
                self.note("warn", "unrecognized environment variable", environment_variable=f"{variable}={text}")
            else:
                self._set_variable(variable, flag, text)

    def _set_variable(self, variable: str, flag: str, text: str) -> None:
        try:
            self._set_text(flag, text)
        except ValueError as error:
            raise ConfigError(
                f"invalid value {quote(text)} for {variable}: {error}", f"unset {variable} or correct it"
            ) from None
        self.note("info", "recognized and used environment variable", variable_name=variable, variable_value=text)

    def load_file(self, path: str, document: Mapping[str, object]) -> None:
        by_key: dict[str, Option | Former] = {row.key: row for row in options() if row.key is not None}
        by_key |= {former.key: former for former in formers()}
        for key, value in _flatten(document):
            entry = by_key.get(key)
            if entry is None:
                self.note("warn", "unrecognized configuration key", key=key, path=path)
                continue
            is_empty = value is None or (value == "" and (entry.kind.choices or entry.kind.name in _URL_KIND_NAMES))
            try:
                self._set(entry.flag, None if is_empty else entry.kind.load(value))
            except ValueError as error:
                raise ConfigError(
                    f"invalid value {quote(str(value))} for {key} in {path}: {error}",
                    f"{key} takes a value of type {entry.kind.name}",
                ) from None
        self.note("info", _LOADED_FILE, path=path)

    def _set_text(self, flag: str, text: str) -> None:
        if flag in IGNORED_FLAGS:
            self.note("warn", "ignoring a flag that means nothing any more", flag=f"--{flag}")
        elif flag in REMOVED_FLAGS:
            self.note("warn", "ignoring a flag whose feature etcd 3.6 removed", flag=f"--{flag}", value=text)
        else:
            self._set(flag, _parse_text(_flag_kinds()[flag], text))

    def _set(self, flag: str, value: object) -> None:
        """Keep a value for the option it belongs to; None leaves the default but counts as given."""
        self.flags.add(flag)
        former = self._formers.get(flag)
        if former is not None:
            self.note(
                "warn",
                f"--{flag} is deprecated in v3.6 and will be decommissioned in v3.7. "
                f"Use '--{former.replacement}' instead.",
            )
            if former.feature:
                self.features[former.feature] = bool(value)
                return
        row = self._rows[former.successor if former else flag]
        if row.stage == "deprecated":
            self.note("warn", f"--{flag} is deprecated in 3.6 and will be decommissioned in 3.8.")
        if value is not None:
            self.values[row.field] = value

    def build(self) -> Config:
        """The configuration, not yet checked. Refuses what only the way of giving it makes wrong."""
        gates = str(self.values.get("feature_gates", ""))
        for former in self._formers.values():
            if former.flag in self.flags:
                self._check_former(former, gates)
        if self.values.get("discovery_fallback") == "proxy":
            raise ConfigError(
                'v2 proxy is deprecated, and --discovery-fallback can\'t be configured as "proxy"',
                "leave --discovery-fallback out",
            )
        switched = [f"{name}={BOOL.show(value)}" for name, value in self.features.items()]
        if switched:
            self.values["feature_gates"] = ",".join(filter(None, [gates, *switched]))
        return Config(**self.values)  # type: ignore[arg-type]

    def _check_former(self, former: Former, gates: str) -> None:
        if former.feature and former.feature in gates:
            value = BOOL.show(self.features[former.feature])
            raise ConfigError(
                f"cannot specify both flags: --{former.flag}={value} and --feature-gates={gates} at the same time, "
                f"please just use --feature-gates={gates}",
                f"leave --{former.flag} out",
            )
        if not former.feature and former.successor in self.flags:
            raise ConfigError(
                f"cannot set --{former.flag} and --{former.successor} at the same time, "
                f"please use --{former.successor} only",
                f"leave --{former.flag} out",
            )

    def require_advertised_urls(self) -> None:
        """etcd's rule: who says where to listen must also say what to advertise."""
        if "listen-client-urls" in self.flags and "advertise-client-urls" not in self.flags:
            raise ConfigError(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly",
                "add --advertise-client-urls with URLs under which clients reach this member",
            )

    def advise(self, config: Config) -> None:
        """Note settings that work but are likely not meant."""
        if "data_dir" not in self.values:
            self.note("warn", "'data-dir' was empty; using default", data_dir=config.data_dir)
        if config.name == DEFAULT_NAME:
            self.note(
                "warn",
                "the member has the default name; members of one cluster need different names, set --name",
                name=config.name,
            )
        if config.quota_backend_bytes > MAX_QUOTA_BYTES:
            self.note(
                "warn",
                "quota exceeds the maximum value",
                quota_size_bytes=config.quota_backend_bytes,
                quota_maximum_size_bytes=MAX_QUOTA_BYTES,
            )
        if config.max_request_bytes > MAX_REQUEST_BYTES:
            self.note(
                "warn",
                "exceeded recommended request limit",
                max_request_bytes=config.max_request_bytes,
                recommended_request_bytes=MAX_REQUEST_BYTES,
            )


def _flatten(document: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in document.items():
        name = prefix + str(key).lower()
        if isinstance(value, Mapping):
            yield from _flatten(value, name + ".")
        else:
            yield name, value


def _advertise_default_host(config: Config, default_host: Callable[[], str | None], settings: _Settings) -> Config:
    """Put this machine's address in the place of localhost where a member listens everywhere but advertises nothing."""
    changes: dict[str, tuple[str, ...]] = {}
    for listen, advertise, default in (
        ("listen_peer_urls", "initial_advertise_peer_urls", DEFAULT_PEER_URLS),
        ("listen_client_urls", "advertise_client_urls", DEFAULT_CLIENT_URLS),
    ):
        scheme, address, _ = parse_url(getattr(config, listen)[0])
        if getattr(config, advertise) != default or scheme == "unix":
            continue
        host, port = split_host_port(address)
        if host == "0.0.0.0" and (reachable := default_host()):
            changes[advertise] = (f"http://{reachable}:{port}",)
            settings.note("info", "detected default host for advertise", host=reachable)
    if not changes:
        return config
    is_derived = "initial_cluster" not in settings.values
    return replace(config, initial_cluster="" if is_derived else config.initial_cluster, **changes)  # type: ignore[arg-type]
