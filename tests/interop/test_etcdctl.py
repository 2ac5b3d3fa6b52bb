"""etcdctl 3.5.1 says the same about both servers: every line, in every output format, and every exit status."""

import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from harness.etcdctl import Output, RunningEtcdctl, etcdctl
from harness.servers import EtcdServer

FORMATS = ("simple", "json", "fields", "protobuf")


@dataclass(frozen=True)
class Step:
    """One command. `{name}` in an argument stands for a value captured before; `capture` is (name, pattern)."""

    args: tuple[str, ...]
    stdin: str = ""
    capture: tuple[str, str] | None = None
    masks: tuple[tuple[str, str], ...] = ()


def run(*args: str, stdin: str = "", capture: tuple[str, str] | None = None, masks: Any = ()) -> Step:
    return Step(args, stdin, capture, tuple(masks))


def each_format(*args: str, formats: tuple[str, ...] = FORMATS, **options: Any) -> list[Step]:
    """The command once in each output format."""
    return [run(*args, "-w", form, **options) for form in formats]


_TXN = 'mod("t1") > "0"\n\nput t1 "overwritten"\n\nput t1 "created"\nput t2 "some extra key"\n\n'
_TXN_ALL = 'ver("t1") > "0"\n\nput t1 x --prev-kv\nget t1 --prefix\ndel t2 --prev-kv\n\n\n'
_STATUS = (
    (r"3\.\d+\.\d+", "<version>"),
    (r"\d+ [kM]?B", "<size>"),
    (r'("dbSize"|"dbSizeInUse"|"DBSize"|"DBSizeInUse")( ?: ?)\d+', r"\1\2<size>"),
    (r'("raftIndex"|"raftAppliedIndex"|"RaftIndex"|"RaftAppliedIndex")( ?: ?)\d+', r"\1\2<index>"),
    (r", \d+, \d+, $", ", <index>, <index>, "),
    (r"\| +\d+ \| +\d+ \| +\|$", "| <index> | <index> |"),
    (r"\|( *[A-Z ]+)+ *\|", "<head>"),
    (r"[+-]{20,}", "<line>"),
)
# Leases attached to keys have ids of the server's choice, so the hashes differ.
_HASH = ((r'(, |"hash":|"Hash" : )\d{5,}', r"\1<hash>"), (r',"hash_revision":\d+', ""))
_TOOK = (
    (r"took = [\d.]+.?s", "took = <time>"),
    (r'"took":"[^"]*"', '"took":<time>'),
    (r'"Took" : \S+', '"Took" : <time>'),
)
_TOOK_TABLE = ((r"\| +[\d.]+.?s \|", "| <time> |"), (r" *TOOK *", " TOOK "), (r"-{6,}", "---"))
_REMAINING = ((r'("ttl":|"TTL" : |remaining\()\d\d\d+', r"\1<ttl>"),)
_KEY_ORDER = ((r"attached keys\(\[.*\]\)", "attached keys(<keys>)"),)

TOPICS: dict[str, list[Step]] = {
    "put": [
        *each_format("put", "foo", "bar"),
        *each_format("put", "foo", "bar2", "--prev-kv"),
        run("put", "foo", "bar", "-w", "table"),
        run("put", "k", "v", "--ignore-value"),
        run("put", "foo", "--ignore-value"),
        run("put", "nokey", "--ignore-value"),
        run("put", "foo", "x", "--ignore-lease"),
        run("put", "k", "v", "--lease", "zz"),
        run("put", "k", "v", "--lease", "1234abcd"),
        run("put", "", "v"),
        run("put", "k", stdin="from stdin\n"),
        run("put", "k"),
        run("get", "k", "-w", "json"),
        run("put", "toobig", stdin="x" * 1_600_000),
        run("put", "toobig", stdin="x" * 2_200_000),
    ],
    "get": [
        run("put", "g/1", "one"),
        run("put", "g/2", "two"),
        run("put", "g/3\n", "a\tb\x01"),
        *each_format("get", "g/1"),
        *each_format("get", "g/", "--prefix"),
        *each_format("get", "g/", "--prefix", "--keys-only"),
        *each_format("get", "missing"),
        run("get", "g/1", "--print-value-only"),
        run("get", "g/", "--prefix", "--hex"),
        run("get", "g/", "--prefix", "--count-only", "-w", "fields"),
        run("get", "g/", "--prefix", "--count-only"),
        run("get", "g/1", "g/3", "-w", "json"),
        run("get", "g/2", "--from-key", "--limit", "2", "-w", "json"),
        run("get", "", "--from-key", "--limit", "1", "-w", "json"),
        run("get", "g/", "--prefix", "--order", "DESCEND", "--sort-by", "MODIFY"),
        run("get", "g/", "--prefix", "--order", "ASCEND", "--sort-by", "VALUE"),
        run("get", "g/", "--prefix", "--sort-by", "CREATE", "--limit", "1", "-w", "json"),
        run("get", "g/", "--prefix", "--order", "bogus"),
        run("get", "g/1", "--rev", "2", "-w", "json"),
        run("get", "g/1", "--rev", "100000"),
        run("get", "g/1", "--consistency", "s", "-w", "json"),
        run("get", "g/1", "--consistency", "x"),
        run("get", "a", "b", "--prefix"),
        run("get", ""),
    ],
    "del": [
        *[step for form in FORMATS for step in (run("put", "d", "1"), run("del", "d", "--prev-kv", "-w", form))],
        *each_format("del", "d"),
        run("put", "d/1", "1"),
        run("put", "d/2", "2"),
        run("del", "d/", "--prefix"),
        run("put", "d/1", "1"),
        run("put", "d/2", "2"),
        run("del", "d/1", "d/2"),
        run("del", "d/", "d0", "--prev-kv"),
        run("del", ""),
        run("del", "b", "a"),
    ],
    "txn": [
        *each_format("txn", stdin=_TXN),
        *each_format("txn", stdin=_TXN_ALL),
        run("txn", "-i", stdin=_TXN_ALL),
        run("txn", stdin='value("t1") = "x"\nc("t1") > "1"\nm("t1") < "99999"\n\nget t1\n\nget t2\n\n'),
        run("txn", stdin="bogus\n\n\n\n"),
        run("txn", stdin="\nput a 1\nput a 2\n\n\n"),
        run("txn", stdin='mod("a") = "1"\n'),
        run("txn", stdin="\nget missing\n\n\n", capture=None),
    ],
    "lease": [
        run("lease", "grant", "300", capture=("lease", r"lease (\w+) granted")),
        *each_format("lease", "grant", "300", formats=("simple", "json", "fields")),
        run("put", "l1", "v", "--lease", "{lease}"),
        run("get", "l1", "-w", "json"),
        run("get", "l1", "-w", "fields"),
        *each_format("lease", "timetolive", "{lease}", formats=("simple", "json", "fields"), masks=_REMAINING),
        *each_format(
            "lease", "timetolive", "{lease}", "--keys", formats=("simple", "json", "fields"), masks=_REMAINING
        ),
        *each_format("lease", "keep-alive", "--once", "{lease}", formats=("simple", "json", "fields")),
        *each_format("lease", "list", formats=("simple", "json", "fields")),
        run("lease", "revoke", "{lease}"),
        run("get", "l1", "-w", "json"),
        run("lease", "revoke", "{lease}"),
        run("lease", "timetolive", "{lease}"),
        run("lease", "timetolive", "{lease}", "-w", "json"),
        run("lease", "keep-alive", "{lease}"),
        run("lease", "keep-alive", "--once", "{lease}"),
        run("lease", "grant", "99999999999"),
        run("lease", "grant", "x"),
    ],
    "compaction": [
        *[run("put", "c", str(number)) for number in range(5)],
        run("compaction", "4"),
        run("compaction", "4"),
        run("compaction", "6", "--physical"),
        run("compaction", "99999"),
        run("compaction", "x"),
        run("get", "c", "--rev", "5"),
        run("get", "c", "--rev", "6", "-w", "json"),
        run("watch", "c", "--rev", "3"),
        run("watch", "b", "a"),
    ],
    "endpoint": [
        *each_format("endpoint", "status", formats=("simple", "json", "fields"), masks=_STATUS),
        *each_format("endpoint", "health", formats=("simple", "json", "fields"), masks=_TOOK),
        run("endpoint", "health", "-w", "table", masks=_TOOK_TABLE),
        *each_format("endpoint", "hashkv", formats=("simple", "json", "fields"), masks=_HASH),
        run("endpoint", "hashkv", "--rev", "99999"),
        run("endpoint", "health", "--cluster", masks=_TOOK),
    ],
    "cluster": [
        *each_format("member", "list", formats=("simple", "json", "fields", "table")),
        run("member", "list", "-w", "json", "--hex"),
        run("member", "remove", "zz"),
        run("member", "remove", "1234"),
        run("member", "add", "x", "--peer-urls", "bogus"),
        run("defrag"),
        run("defrag", "--cluster"),
        *each_format("alarm", "list", formats=("simple", "json", "fields")),
        run("alarm", "disarm"),
        run("alarm", "disarm", "-w", "json"),
        run("move-leader", "1234"),
        run("move-leader", "x"),
    ],
    "auth": [
        *each_format("auth", "status", formats=("simple", "json")),
        run("auth", "enable"),
        run("user", "add", "root:rootpw"),
        run("user", "add", "root:rootpw"),
        run("user", "add", "u1:pw1"),
        run("user", "add", "u2", "--no-password"),
        run("role", "add", "r1"),
        run("role", "grant-permission", "r1", "read", "a", "c"),
        run("role", "grant-permission", "r1", "readwrite", "foo"),
        run("role", "grant-permission", "r1", "write", "p/", "--prefix"),
        run("role", "grant-permission", "r1", "read", "q", "--from-key"),
        run("user", "grant-role", "u1", "r1"),
        *each_format("user", "list", formats=("simple", "json")),
        *each_format("user", "get", "u1", formats=("simple", "json")),
        run("user", "get", "u1", "--detail"),
        *each_format("role", "get", "r1", formats=("simple", "json", "fields")),
        *each_format("role", "list", formats=("simple", "json", "fields")),
        run("user", "grant-role", "root", "root"),
        run("auth", "enable"),
        run("get", "foo"),
        run("--user", "root:bad", "get", "foo"),
        run("--user", "root:rootpw", "auth", "status"),
        run("--user", "u1:pw1", "put", "foo", "by u1"),
        run("--user", "u1:pw1", "get", "foo"),
        run("--user", "u1:pw1", "get", "zzz"),
        run("--user", "u1:pw1", "put", "a", "x"),
        run("--user", "u1:pw1", "get", "a", "c"),
        run("--user", "u1:pw1", "get", "a", "d"),
        run("--user", "u1:pw1", "put", "p/1", "x"),
        run("--user", "u1:pw1", "user", "list"),
        run("--user", "u2:x", "get", "a"),
        run("--user", "root:rootpw", "role", "revoke-permission", "r1", "a", "c"),
        run("--user", "root:rootpw", "role", "revoke-permission", "r1", "zz"),
        run("--user", "root:rootpw", "user", "revoke-role", "u1", "r1"),
        run("--user", "root:rootpw", "user", "delete", "root"),
        run("--user", "root:rootpw", "user", "passwd", "u1", "--interactive=false", stdin="new\n"),
        run("--user", "u1:pw1", "get", "a"),
        run("--user", "root:rootpw", "role", "delete", "r1"),
        run("--user", "root:rootpw", "auth", "disable"),
        run("auth", "status"),
        run("user", "delete", "u1"),
        run("user", "delete", "u2"),
        run("user", "delete", "root"),
        run("user", "list"),
    ],
}


class Speaker:
    """One side of a transcript: its server, and the values captured from its answers."""

    def __init__(self, server: EtcdServer) -> None:
        self._server = server
        self._values: dict[str, str] = {}

    def say(self, step: Step) -> tuple[int, str, str]:
        """Run a step; (status, stdout, stderr) with everything volatile masked."""
        args = [arg.format_map(self._values) if "{" in arg else arg for arg in step.args]
        output = etcdctl(self._server.client_endpoint, *args, stdin=step.stdin)
        if step.capture is not None:
            name, pattern = step.capture
            found = re.search(pattern, output.stdout)
            assert found, f"{pattern} is not in {output.stdout!r}"
            self._values[name] = found[1]
        return output.status, self._masked(self._shown(output, step), step), self._masked(output.stderr, step)

    def _shown(self, output: Output, step: Step) -> str:
        return output.raw_stdout.hex() if "protobuf" in step.args else output.stdout

    def _masked(self, text: str, step: Step) -> str:
        text = text.replace(self._server.client_endpoint, "<endpoint>")
        for name, value in self._values.items():
            text = text.replace(value, f"<{name}>").replace(str(int(value, 16)), f"<{name}>")
        for pattern, replacement in (*step.masks, *_LEASES.get(step.args[:2], ())):
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        return text


_LEASE_MASKS = (
    (r"\b[0-9a-f]{16}\b", "<id>"),
    (r'("ID" : |"ID":|"id":)\d{15,}', r"\1<id>"),
)
_LEASES = {
    ("lease", "grant"): _LEASE_MASKS,
    ("lease", "list"): _LEASE_MASKS,
    ("get", "l1"): ((r'("Lease" : |"lease":)\d{15,}', r"\1<id>"),),
}


@pytest.mark.parametrize("topic", TOPICS)
def test_transcript(pair: tuple[EtcdServer, EtcdServer], topic: str) -> None:
    speakers = [Speaker(server) for server in pair]
    with ThreadPoolExecutor(2) as pool:
        for step in TOPICS[topic]:
            left, right = pool.map(lambda speaker, step=step: speaker.say(step), speakers)
            assert left == right, f"etcdctl {' '.join(step.args)}"


def watching(server: EtcdServer, *args: str) -> RunningEtcdctl:
    """A running `etcdctl watch`."""
    return RunningEtcdctl(server.client_endpoint, "watch", *args)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ((), 9),
        (("--prev-kv",), 13),
        (("-w", "json"), 1),
        (("-w", "fields"), 25),
        (("--hex",), 9),
        (("--", "sh", "-c", "env | grep ETCD_WATCH_ | sort"), 21),
    ],
)
def test_watch_output(pair: tuple[EtcdServer, EtcdServer], options: tuple[str, ...], count: int) -> None:
    name = f"watched{count}{len(options)}"
    printed: list[list[str]] = []
    for server in pair:
        first = etcdctl(server.client_endpoint, "put", name, "1", "-w", "json").stdout
        revision = re.search(r'"revision":(\d+)', first)
        assert revision
        etcdctl(server.client_endpoint, "put", name, "2")
        etcdctl(server.client_endpoint, "del", name)
        watch = watching(server, name, f"--rev={revision[1]}", *options)
        watch.lines(count)
        printed.append(watch.stop())
    assert printed[0] == printed[1]


def test_watch_follows_live(pair: tuple[EtcdServer, EtcdServer]) -> None:
    printed = []
    for server in pair:
        watch = watching(server, "live/", "--prefix", "--progress-notify")
        # The first put may come before the watcher, so it is repeated until seen.
        while True:
            etcdctl(server.client_endpoint, "put", "live/0", "start")
            try:
                watch.lines(3, timeout_s=0.5)
                break
            except AssertionError:
                continue
        seen = len(watch.lines(3))
        for number in range(3):
            etcdctl(server.client_endpoint, "put", f"live/{number}", str(number))
        lines = watch.lines(seen + 9)
        watch.stop()
        printed.append(lines[-9:])
    assert printed[0] == printed[1]


def test_snapshot(pair: tuple[EtcdServer, EtcdServer], tmp_path: Any) -> None:
    for number, server in enumerate(pair):
        etcdctl(server.client_endpoint, "put", "snap", "shot")
        path = str(tmp_path / f"{number}.db")
        saved = etcdctl(server.client_endpoint, "snapshot", "save", path)
        assert (saved.status, saved.stdout) == (0, f"Snapshot saved at {path}\n"), saved.stderr
        status = etcdctl(server.client_endpoint, "snapshot", "status", path, "-w", "json")
        assert status.status == 0, status.stderr
        assert re.match(r'\{"hash":\d+,"revision":\d+,"totalKey":\d+,"totalSize":\d+\}', status.stdout)


def test_a_command_is_interrupted_where_interrupts_are_ignored(pair: tuple[EtcdServer, EtcdServer]) -> None:
    """As under a shell's background job: a process inherits what its parent ignores."""
    server = pair[0]
    put = etcdctl(server.client_endpoint, "put", "interrupted", "1", "-w", "json")
    revision = json.loads(put.stdout)["header"]["revision"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        watch = watching(server, "interrupted", f"--rev={revision}")
    finally:
        signal.signal(signal.SIGINT, before)
    watch.lines(3)
    watch.stop()
    assert watch.process.returncode == -signal.SIGINT
