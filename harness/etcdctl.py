"""Real etcdctl (and etcdutl) 3.5.1 as a function: arguments in, status and both outputs out."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.binaries import etcd_binary

_LOG_LINE = re.compile(r'^\{"level":')


@dataclass(frozen=True, slots=True)
class Output:
    """What one run printed. `stderr` is without the client library's JSON log lines; `raw_stderr` is everything."""

    status: int
    stdout: str
    stderr: str
    raw_stdout: bytes
    raw_stderr: str


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ETCD_", "ETCDCTL_"))}
    env["ETCDCTL_API"] = "3"
    env.update(extra or {})
    return env


def _output(status: int, stdout: bytes, stderr: bytes) -> Output:
    text = stderr.decode("utf-8", "replace")
    kept = [line for line in text.splitlines() if not _LOG_LINE.match(line)]
    return Output(status, stdout.decode("utf-8", "replace"), "\n".join(kept), stdout, text)


def etcdctl_command(endpoint: str | Sequence[str], *args: str) -> list[str]:
    """The command line of etcdctl against one or several endpoints."""
    endpoints = endpoint if isinstance(endpoint, str) else ",".join(endpoint)
    return [etcd_binary("etcdctl"), f"--endpoints={endpoints}", *args]


def etcdctl(
    endpoint: str | Sequence[str],
    *args: str,
    stdin: str | bytes = "",
    env: Mapping[str, str] | None = None,
    timeout_s: float = 20.0,
    cwd: str | None = None,
) -> Output:
    """Run etcdctl to its end. A run longer than `timeout_s` is killed and raises TimeoutExpired."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        etcdctl_command(endpoint, *args),
        input=data,
        capture_output=True,
        env=_environment(env),
        timeout=timeout_s,
        cwd=cwd,
    )
    return _output(done.returncode, done.stdout, done.stderr)


def etcdutl(*args: str, timeout_s: float = 30.0, cwd: str | None = None) -> Output:
    """Run etcdutl to its end."""
    done = subprocess.run([etcd_binary("etcdutl"), *args], capture_output=True, timeout=timeout_s, cwd=cwd)
    return _output(done.returncode, done.stdout, done.stderr)


def start_etcdctl(
    endpoint: str | Sequence[str], *args: str, env: Mapping[str, str] | None = None, stdin: int = subprocess.DEVNULL
) -> "subprocess.Popen[Any]":
    """Start etcdctl without waiting (watch, lock, elect); the caller signals and reaps it. Unbuffered pipes, bytes.

    It can be interrupted even where nothing else can: what a shell starts in the background ignores SIGINT.
    """
    return subprocess.Popen(
        ["env", "--default-signal=INT", *etcdctl_command(endpoint, *args)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(env),
        bufsize=0,
    )


class RunningEtcdctl:
    """A command that runs until it is stopped, and its lines."""

    def __init__(self, endpoint: str | Sequence[str], *args: str) -> None:
        self.process = start_etcdctl(endpoint, *args)
        self._lines: list[str] = []
        self._arrived = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in iter(self.process.stdout.readline, b""):
            with self._arrived:
                self._lines.append(line.decode())
                self._arrived.notify_all()

    @property
    def so_far(self) -> list[str]:
        """The lines that have come."""
        with self._arrived:
            return list(self._lines)

    def lines(self, count: int, timeout_s: float = 10.0) -> list[str]:
        """Wait for that many lines."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self._lines) >= count, timeout_s), self._lines
            return list(self._lines)

    def stop(self, number: int = signal.SIGINT) -> list[str]:
        """End it by a signal; all lines. The exit status is `process.returncode`."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(10)
        self._reader.join(10)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return self._lines
