"""/livez and /readyz: checks that a supervisor asks for, all of them or one by one (etcd 3.5.11 and newer)."""

from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import parse_qs

from ratifyd.api.pages import ERROR, Answer, Page, only
from ratifyd.errors import EtcdError
from ratifyd.proto.rpc_pb2 import CORRUPT
from ratifyd.server.server import Server

Done = Callable[[str], None]
"""Gets what is wrong, or nothing."""
Check = Callable[[Server, Done], None]


def _data_corruption(server: Server, done: Done) -> None:
    done("alarm activated: CORRUPT" if any(kind == CORRUPT for _, kind in server.state.alarms) else "")


def _serializable_read(server: Server, done: Done) -> None:
    server.store.counts.ranges += 1  # etcd reads a range
    try:
        server.store.get(b"")
    except EtcdError as error:
        done(error.message)
    else:
        done("")


def _linearizable_read(server: Server, done: Done) -> None:
    def read(_: None, error: EtcdError | None) -> None:
        if error is not None:
            done(error.message)
        else:
            _serializable_read(server, done)

    server.read(read, None)


def _non_learner(server: Server, done: Done) -> None:
    done("not supported for learner" if server.is_learner else "")


_CHECKS: dict[str, dict[str, Check]] = {
    "livez": {"serializable_read": _serializable_read},
    "readyz": {
        "data_corruption": _data_corruption,
        "serializable_read": _serializable_read,
        "linearizable_read": _linearizable_read,
        "non_learner": _non_learner,
    },
}


def probe_pages(server: Server) -> dict[str, Page]:
    """The pages by path: each kind as a whole, and each of its checks."""
    pages: dict[str, Page] = {}
    for kind, checks in _CHECKS.items():
        pages[f"/{kind}"] = _Page(server, kind, checks, is_whole=True).answer
        for name, check in checks.items():
            pages[f"/{kind}/{name}"] = _Page(server, kind, {name: check}, is_whole=False).answer
    return pages


class _Page:
    """One path: the checks it stands for."""

    __slots__ = ("_checks", "_is_whole", "_kind", "_server")

    def __init__(self, server: Server, kind: str, checks: Mapping[str, Check], *, is_whole: bool) -> None:
        self._server = server
        self._kind = kind
        self._checks = checks
        self._is_whole = is_whole

    def answer(self, method: str, query: str, answer: Answer) -> None:
        """Run the checks that the query does not exclude, and report."""
        if method != "GET":
            only("GET", answer)
            return
        arguments = parse_qs(query, keep_blank_values=True)
        excluded = arguments.get("exclude", []) if self._is_whole else []
        names = [name for name in self._checks if name not in excluded]
        _Run(self._server, self._kind, names, answer, verbose="verbose" in arguments).start(self._checks)


class _Run:
    """The checks of one request under way."""

    __slots__ = ("_answer", "_kind", "_names", "_problems", "_server", "_verbose")

    def __init__(self, server: Server, kind: str, names: list[str], answer: Answer, *, verbose: bool) -> None:
        self._server = server
        self._kind = kind
        self._names = names
        self._answer = answer
        self._verbose = verbose
        self._problems: dict[str, str] = {}

    def start(self, checks: Mapping[str, Check]) -> None:
        """Begin all checks; the last one to end answers."""
        if not self._names:
            self._report()
        for name in self._names:
            checks[name](self._server, partial(self._done, name))

    def _done(self, name: str, problem: str) -> None:
        self._problems[name] = problem
        metrics = self._server.metrics
        metrics.healthcheck[(self._kind, name)] = 0.0 if problem else 1.0
        metrics.healthchecks_total[(self._kind, name, "error" if problem else "success")] += 1
        if len(self._problems) == len(self._names):
            self._report()

    def _report(self) -> None:
        problems = self._problems
        lines = [
            f"[-]{name} failed: {problems[name]}\n" if problems[name] else f"[+]{name} ok\n" for name in self._names
        ]
        if any(problems.values()):
            self._answer(503, ERROR, f"{''.join(lines)}\n".encode())
        else:
            self._answer(200, ERROR, f"{''.join(lines) if self._verbose else ''}ok\n".encode())
