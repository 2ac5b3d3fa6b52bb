"""Texts: the gateway's JSON both ways, configuration in all its forms, tokens, URLs, and JSON between members."""

import json
from collections.abc import Callable
from typing import Any

import yaml
from google.protobuf.message import DecodeError

from fuzzing.mutate import protobuf, text
from fuzzing.target import Run, Target
from fuzzing.targets import samples
from ratifyd.api.jsontext import BadJson, ValueSplitter
from ratifyd.api.jsonwire import message_type
from ratifyd.auth.jwt import JwtTokens, Keys
from ratifyd.auth.tokens import SimpleTokens
from ratifyd.cli.settings import decode_config
from ratifyd.config import ConfigError
from ratifyd.config.authtoken import parse_auth_token
from ratifyd.config.errors import HelpWanted, UsageError, VersionWanted
from ratifyd.config.features import parse_features
from ratifyd.config.parsing import parse
from ratifyd.config.table import parse_initial_cluster
from ratifyd.config.values import parse_duration_ns, parse_url
from ratifyd.membership import Member
from ratifyd.peer.connection import target_of
from ratifyd.peer.headers import major_minor, parse_id, refusal, sender_urls
from ratifyd.proto.services import METHODS
from ratifyd.raft.confstate import decode_conf_state_json, encode_conf_state_json
from ratifyd.raft.messages import ConfState
from ratifyd.server.members import members_of_json
from ratifyd.wire.headers import parse_timeout

SECRET = b"a secret that is long enough for HS256"
_TYPES = [message_type(method.request.DESCRIPTOR) for method in METHODS.values()]
_PATHS = list(METHODS)


def _same(run: Run) -> Callable[[], Run]:
    return lambda: run


# --- JSON ------------------------------------------------------------------------------------------------------------


def _json_seeds() -> list[bytes]:
    return [
        bytes((_PATHS.index(path.encode()),))
        + message_type(METHODS[path.encode()].request.DESCRIPTOR).to_json(message).encode()
        for path, message in samples.requests()
    ]


def _from_json(data: bytes) -> None:
    """A request of the method the first byte names; what it becomes is what protobuf reads."""
    if data:
        number = data[0] % len(_PATHS)
        METHODS[_PATHS[number]].request.FromString(_TYPES[number].from_json(data[1:]))


def _to_json_seeds() -> list[bytes]:
    return [bytes((_PATHS.index(path.encode()),)) + message for path, message in samples.requests()]


def _to_json(data: bytes) -> None:
    if data:
        written = _TYPES[data[0] % len(_PATHS)].to_json(data[1:])
        json.loads(written)


def _split(data: bytes) -> None:
    """Values out of a stream, in pieces of the size the first byte says, are those of the stream in one piece."""
    size = (data[0] if data else 0) + 1
    stream = data[1:]
    splitter = ValueSplitter()
    found: list[bytes] = []
    for at in range(0, len(stream), size):
        found += splitter.feed(stream[at : at + size])
    assert b"".join(found) + splitter.rest() == stream


def _split_seeds() -> list[bytes]:
    return [bytes((size,)) + b' {"a":[1,{"b":"}\\""}]}\n{} {"c":"\\\\"}[1] x' for size in (0, 1, 6, 200)]


# --- configuration ---------------------------------------------------------------------------------------------------

_ARGUMENTS = (
    b"--name=a\0--data-dir=/d\0--listen-client-urls=http://127.0.0.1:2379\0--advertise-client-urls=http://a:2379",
    b"--initial-cluster=a=http://1.2.3.4:2380,b=unix://x:1\0--initial-cluster-state=existing\0--name\0a",
    b"--heartbeat-interval=100\0--election-timeout\x001000\0--quota-backend-bytes=8589934592\0--snapshot-count=5",
    b"--auto-compaction-mode=periodic\0--auto-compaction-retention=1h\0--feature-gates=CompactHashCheck=true",
    b"--cors=*,http://a\0--host-whitelist=a,b\0--log-level=debug\0--log-outputs=stderr\0--auth-token=jwt,pub-key=/k",
    b"--grpc-keepalive-min-time=5s\0--watch-progress-notify-interval=10m0.5s\0--experimental-corrupt-check-time=1m",
    b"--listen-metrics-urls=http://[::1]:1\0--metrics=extensive\0--max-request-bytes=100\0--version",
)
_CONFIG_ERRORS = (ConfigError, UsageError, HelpWanted, VersionWanted)


def _arguments(data: bytes) -> None:
    """Arguments with zero bytes between, as the system hands them over."""
    parse([word.decode("utf-8", "surrogateescape") for word in data.split(b"\0")], {})


def _environment(data: bytes) -> None:
    """The same as variables."""
    environ = {}
    for word in data.decode("utf-8", "surrogateescape").split("\0"):
        name, _, value = word.lstrip("-").partition("=")
        environ["ETCD_" + name.upper().replace("-", "_")] = value
    parse([], environ)


def _files() -> list[bytes]:
    settings: dict[str, Any] = {}
    for words in _ARGUMENTS:
        for word in words.decode().split("\0"):
            name, equals, value = word.removeprefix("--").partition("=")
            if equals:
                settings[name] = int(value) if value.isdigit() else value
    settings["client-transport-security"] = {"cert-file": "/c", "client-cert-auth": True}
    return [yaml.safe_dump(settings).encode(), json.dumps(settings).encode(), b"name: &x a\ndata-dir: *x\ncors: [a]\n"]


def _file(data: bytes) -> None:
    """The bytes of a configuration file; short ones, as PyYAML takes its time."""
    data = data[:3000]
    parse(["--config-file=f"], {}, read_file=lambda path: decode_config(path, data))


_VALUES: tuple[Callable[[str], object], ...] = (
    parse_url,
    parse_duration_ns,
    parse_initial_cluster,
    parse_auth_token,
    parse_features,
    target_of,
    major_minor,
    parse_id,
    lambda value: parse_timeout(value.encode("latin-1", "replace")),
    lambda value: sender_urls({"x-peerurls": value}),
    lambda value: refusal({"x-server-version": value, "x-min-cluster-version": value}, 1),
)


def _value_seeds() -> list[bytes]:
    texts = (
        *("http://127.0.0.1:2380", "unix://a:1", "https://[::1]:2380", "1h2m3.5s", "a=http://b:1,c=http://d:2"),
        *(
            "jwt,pub-key=/a,sign-method=RS256,ttl=5m",
            "simple",
            "CompactHashCheck=true,X=false",
            "3.5.1",
            "cafe",
            "100m",
        ),
    )
    return [value.encode() for value in texts]


def _values(data: bytes) -> None:
    """One value through every reader of single values; each may only refuse it by ValueError."""
    value = data.decode("utf-8", "surrogateescape")
    for read in _VALUES:
        try:
            read(value)
        except ValueError:
            continue


# --- tokens ----------------------------------------------------------------------------------------------------------


def _jwt() -> JwtTokens:
    return JwtTokens("HS256", Keys("HS256", b"", SECRET), ttl_s=300, wall=lambda: 1_700_000_000.0)


def _token_seeds() -> list[bytes]:
    signed = _jwt().assign("alice", 3, "", 0, True).encode()
    return [signed, b"AbcdefghijklmnoP.17", b"AbcdefghijklmnoP.0", b"Bearer x", signed.replace(b".", b"..")]


def _tokens() -> Run:
    simple = SimpleTokens(ttl_s=300, now=lambda: 0.0, entropy=bytes)
    simple.assign("alice", 1, "AbcdefghijklmnoP", 17, True)
    jwt = _jwt()
    genuine = _token_seeds()[0]

    def run(data: bytes) -> None:
        simple.identify(data, 1)
        simple.made_at(data)
        found = jwt.identify(data, 3)
        assert found is None or data == genuine or found.user == "alice", "a forged token"

    return run


def _claims(data: bytes) -> None:
    """Any bytes as claims, rightly signed."""
    jwt = _jwt()
    jwt.identify(jwt._algorithms.encode(data, SECRET, "HS256").encode(), 3)


def _claim_seeds() -> list[bytes]:
    return [json.dumps({"username": "a", "revision": 3, "exp": 1_800_000_000, "nbf": 0}).encode(), b"[]", b'"x"']


# --- JSON between members --------------------------------------------------------------------------------------------


def _member_seeds() -> list[bytes]:
    members = [Member(1, ("http://a:1",), "a", ("http://b:2",)), Member(2**63, ("http://c:1",), is_learner=True)]
    return [b"[" + b",".join(member.to_json() for member in members) + b"]", members[0].to_json()]


def _members(data: bytes) -> None:
    for member in members_of_json(data):
        member.to_json()


def _conf_state(data: bytes) -> None:
    decode_conf_state_json(data)


def _conf_state_seeds() -> list[bytes]:
    return [encode_conf_state_json(ConfState((1, 2), (3,), (4,), (5,), True)), encode_conf_state_json(ConfState())]


TARGETS = (
    Target("json_in", _json_seeds, _same(_from_json), (BadJson, DecodeError), (text,), sample=4000),
    Target("json_out", _to_json_seeds, _same(_to_json), (DecodeError,), (protobuf,), sample=4000),
    Target("json_split", _split_seeds, _same(_split), (), (text,), sample=4000),
    Target("arguments", lambda: _ARGUMENTS, _same(_arguments), _CONFIG_ERRORS, (text,)),
    Target("environment", lambda: _ARGUMENTS, _same(_environment), _CONFIG_ERRORS, (text,)),
    Target("config_file", _files, _same(_file), _CONFIG_ERRORS, (text,), sample=150, cpu_s=5.0),
    Target("values", _value_seeds, _same(_values), (), (text,), sample=4000),
    Target("tokens", _token_seeds, _tokens, (), (text,), sample=4000),
    Target("claims", _claim_seeds, _same(_claims), (), (text,), sample=2000),
    Target("members_json", _member_seeds, _same(_members), (ValueError,), (text,), sample=4000),
    Target("conf_state", _conf_state_seeds, _same(_conf_state), (ValueError,), (text,), sample=4000),
)
