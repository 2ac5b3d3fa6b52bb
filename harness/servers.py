"""One real etcd or ratifyd process, or a cluster of them, on free loopback ports with a directory of its own.

Promises: a server is ready when `start` returns, or StartFailed carries the end of its log; only processes started
here are ever signalled; whatever a test forgets is killed when this process exits. A port taken by somebody else
between probing and binding is noticed in the log and the start is repeated on other ports.
"""

import atexit
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.binaries import server_command
from harness.network import Host, Network

KINDS = ("etcd", "ratifyd")

_READY = "ready to serve client requests"
_PORT_TAKEN = "address already in use"
_POLL_S = 0.01
_SOCKET = "client:1"
"""Socket file in the server's directory; etcd 3.5.1 takes a Unix socket's name only in the form of host:port."""
_START_ATTEMPTS = 5
# Below Linux's ephemeral range (32768..60999), so that no outgoing connection takes a port while a server restarts.
_PORTS = range(20_000, 32_000)

_random = random.SystemRandom()
_running: "weakref.WeakSet[EtcdServer]" = weakref.WeakSet()


class StartFailed(Exception):
    """The process ended or stayed silent until the deadline; the message ends with its log."""


_claims: list[int] = []
"""Open lock files, one for each port this process has handed out: other test runs leave those ports alone."""


def _claim(port: int) -> bool:
    """Reserve a port among all harness processes of this machine, for the life of this one."""
    path = Path(tempfile.gettempdir(), f"harness-port-{port}.lock")
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    _claims.append(lock)
    return True


def free_port() -> int:
    """A loopback TCP port nobody listens on at this moment, nor will another harness process."""
    for _ in range(1000):
        port = _random.choice(_PORTS)
        if not _claim(port):
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free loopback port")


class EtcdServer:
    """A server process. `kind` is "etcd" (3.5.1), "ratifyd" or "other-etcd" (see harness.binaries); `flags` are command
    line flags in etcd's spelling.

    `data_dir` outlives the server when given; otherwise it lies in a temporary directory removed by `stop`/`__exit__`.
    `advertise_peer_url` replaces the advertised (not the listened) peer URL: two one-member clusters with the same
    name, token and advertised URL get the same cluster and member ids. `initial_cluster` joins several members.
    On a `host` of a test network the process lives in that host's namespace; clients reach it by a Unix socket.
    """

    def __init__(
        self,
        kind: str = "etcd",
        flags: Sequence[str] = (),
        data_dir: str | Path | None = None,
        *,
        name: str = "default",
        advertise_peer_url: str | None = None,
        client_port: int | None = None,
        peer_port: int | None = None,
        initial_cluster: str | None = None,
        env: Mapping[str, str] | None = None,
        host: Host | None = None,
        start_timeout_s: float = 30.0,
        start: bool = True,
    ) -> None:
        self.kind = kind
        self.host = host
        self.prefix: list[str] = []
        """Put before the command line, such as `prlimit` with its arguments."""
        self.flags = list(flags)
        self.name = name
        self.initial_cluster = initial_cluster
        self.start_timeout_s = start_timeout_s
        self.metadata: tuple[tuple[str, str], ...] = ()
        """What the harness shows when it asks: a token of root, where auth is on."""
        self._advertise_peer_url = advertise_peer_url
        self._ports_pinned = client_port is not None or peer_port is not None
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._directory = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
        self.data_dir = Path(data_dir) if data_dir is not None else self._directory / "data"
        self.log_path = self._directory / "server.log"
        self.client_port = client_port or free_port()
        self.peer_port = peer_port or free_port()
        if start:
            self.start()

    @property
    def address(self) -> str:
        """The IP address this server listens on."""
        return self.host.address if self.host else "127.0.0.1"

    @property
    def client_endpoint(self) -> str:
        """host:port for clients, or the Unix socket that reaches into another namespace."""
        if self.host:
            return f"unix://{self._directory / _SOCKET}"
        return f"127.0.0.1:{self.client_port}"

    @property
    def client_url(self) -> str:
        return f"http://{self.client_endpoint}"

    @property
    def peer_endpoint(self) -> str:
        """host:port for other members."""
        return f"{self.address}:{self.peer_port}"

    @property
    def peer_url(self) -> str:
        """The URL other members know this one by."""
        return self._advertise_peer_url or f"http://{self.peer_endpoint}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def command(self) -> list[str]:
        """The whole command line; flags given by the caller come last and so win."""
        client_url = f"http://{self.address}:{self.client_port}"
        return [
            *(self.host.enter if self.host else ()),
            *self.prefix,
            *server_command(self.kind),
            f"--name={self.name}",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={client_url}{f',unix://{_SOCKET}' if self.host else ''}",
            f"--advertise-client-urls={client_url}",
            f"--listen-peer-urls=http://{self.peer_endpoint}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={self.initial_cluster or f'{self.name}={self.peer_url}'}",
            *self.flags,
        ]

    def start(self, *, wait: bool = True) -> None:
        """Start the process and (unless `wait` is false) wait until it serves. Data of an earlier run is kept."""
        if self.running:
            raise RuntimeError("the server is already running")
        for attempt in range(_START_ATTEMPTS):
            self._spawn()
            if not wait:
                return
            try:
                self.wait_ready()
                return
            except StartFailed:
                self.kill()
                if self._ports_pinned or _PORT_TAKEN not in self.log_text() or attempt + 1 == _START_ATTEMPTS:
                    raise
                self.change_ports()

    def change_ports(self) -> None:
        """Take other ports, and drop the data of a start that failed."""
        self.client_port = free_port()
        self.peer_port = free_port()
        if self.data_dir.is_relative_to(self._directory):
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def _spawn(self) -> None:
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        env = {name: value for name, value in os.environ.items() if not name.startswith(("ETCD_", "ETCDCTL_"))}
        env.update(self._env)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._directory, env=env
            )
        _running.add(self)

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait for the log line that says clients are served."""
        deadline = time.monotonic() + (self.start_timeout_s if timeout_s is None else timeout_s)
        while _READY not in self.log_text():
            if not self.running:
                raise StartFailed(f"{self.kind} ended with {self._exit_status()}:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.kind} is not ready in time:\n{self._log_tail()}\n{self._stack()}")
            time.sleep(_POLL_S)

    def wait_log(self, text: str, timeout_s: float = 10.0) -> None:
        """Wait until the log of this run contains `text`."""
        deadline = time.monotonic() + timeout_s
        while text not in self.log_text():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {text!r} in the log:\n{self._log_tail()}")
            time.sleep(_POLL_S)

    def log_text(self) -> str:
        """The log since the latest start."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", "replace")

    def _log_tail(self) -> str:
        return self.log_text()[-4000:]

    def _stack(self) -> str:
        """Where a Python server hangs, if py-spy is there to tell."""
        spy = shutil.which("py-spy", path=str(Path(sys.executable).parent))
        if self.kind != "ratifyd" or spy is None:
            return ""
        dump = subprocess.run([spy, "dump", "--pid", str(self.pid)], capture_output=True, text=True, timeout=30)
        return dump.stdout + dump.stderr

    def _exit_status(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def signal(self, number: int) -> None:
        """Send a signal to the process, such as SIGSTOP and SIGCONT."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def pause(self, timeout_s: float = 10.0) -> None:
        """SIGSTOP, and wait until no thread is in the middle of a system call any more."""
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + timeout_s
        tasks = Path(f"/proc/{self.pid}/task")
        while any((task / "stat").read_text().rpartition(") ")[2][0] != "T" for task in tasks.iterdir()):
            if time.monotonic() > deadline:
                raise TimeoutError("the process does not stop")
            time.sleep(_POLL_S)

    def wait(self, timeout_s: float = 10.0) -> int:
        """Wait for the process to end by itself; its exit status."""
        if self._process is None:
            raise RuntimeError("the server was never started")
        return self._process.wait(timeout_s)

    def terminate(self, timeout_s: float = 15.0) -> int:
        """SIGTERM, wait, exit status; data and log stay. SIGKILL and TimeoutExpired when it does not end in time."""
        if self._process is None:
            raise RuntimeError("the server was never started")
        self.signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL and reap; data and log stay."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()

    def restart(self, *, hard: bool = False) -> None:
        """Stop (SIGKILL when `hard`) if running, then start again over the same data and ports."""
        if self.running:
            if hard:
                self.kill()
            else:
                self.terminate()
        self._ports_pinned = True
        self.start()

    def stop(self) -> None:
        """SIGTERM, wait, and remove the temporary directory. May be called twice."""
        try:
            if self.running:
                self.terminate()
        finally:
            _running.discard(self)
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        if not self.running:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


WATCHERS = "etcd_debugging_mvcc_watcher_total"


def metric(server: EtcdServer, name: str) -> float:
    """The present value of a metric without labels."""
    with urllib.request.urlopen(f"{server.client_url}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


class EtcdCluster:
    """Several members, started together; `kinds` may mix "etcd" and "ratifyd". Members are m1, m2, ...

    With `network` each lives on a host of its own.
    """

    def __init__(
        self, kinds: Sequence[str], flags: Sequence[str] = (), *, network: Network | None = None, start: bool = True
    ) -> None:
        self.network = network
        self.members = [
            EtcdServer(kind, flags, name=f"m{number}", host=network.hosts[number - 1] if network else None, start=False)
            for number, kind in enumerate(kinds, 1)
        ]
        self._flags = list(flags)
        initial_cluster = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        for member in self.members:
            member.initial_cluster = initial_cluster
        if start:
            self.start()

    @property
    def endpoints(self) -> list[str]:
        """The members' client endpoints."""
        return [member.client_endpoint for member in self.members]

    def start(self) -> None:
        """Start every member, then wait for all of them."""
        for member in self.members:
            member.start(wait=False)
        for member in self.members:
            member.wait_ready()

    def add(self, kind: str) -> EtcdServer:
        """One more member, not started: add its `peer_url` to the cluster first, then `start()`."""
        member = EtcdServer(
            kind, [*self._flags, "--initial-cluster-state=existing"], name=f"m{len(self.members) + 1}", start=False
        )
        self.members.append(member)
        member.initial_cluster = ",".join(f"{each.name}={each.peer_url}" for each in self.members)
        return member

    def stop(self) -> None:
        for member in self.members:
            member.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _kill_leftovers() -> None:
    for server in list(_running):
        server.kill()
        server.stop()


atexit.register(_kill_leftovers)
