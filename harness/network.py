"""Test hosts on a network of their own: one network namespace for each, joined by a bridge in one more.

Nothing outside these namespaces changes: no address, route or interface is added to the machine's own network, and no
packet leaves. Clients outside talk to the servers inside through Unix sockets, which partitions do not touch. Needs
root, `ip` (iproute2) and `iptables`; `why_not` tells what is missing.
"""

import atexit
import functools
import itertools
import os
import re
import shutil
import subprocess
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_NAME = re.compile(r"^ratifyd-(\d+)-")
_numbers = itertools.count(1)
_open: "weakref.WeakSet[Network]" = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Host:
    """One namespace with one address."""

    namespace: str
    address: str

    @property
    def enter(self) -> tuple[str, ...]:
        """What to put before a command line to run it here; the process keeps its id."""
        return ("ip", "netns", "exec", self.namespace)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@functools.cache
def why_not() -> str | None:
    """The reason why no network can be made here, if there is one."""
    if os.geteuid():
        return "network namespaces need root"
    missing = [program for program in ("ip", "iptables") if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    try:
        with Network(2) as network:
            network.drop(network.hosts[:1], network.hosts[1:])
    except OSError as error:
        return f"network namespaces are not permitted: {error}"
    return None


def _remove_leftovers() -> None:
    """Namespaces of test runs that were killed before they could clean up."""
    directory = Path("/run/netns")
    for path in directory.iterdir() if directory.exists() else ():
        found = _NAME.match(path.name)
        if found and not Path("/proc", found[1]).exists():
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, timeout=30)


class Network:
    """Hosts that all hear each other until `drop` says otherwise."""

    def __init__(self, hosts: int) -> None:
        _remove_leftovers()
        prefix = f"ratifyd-{os.getpid()}-{next(_numbers)}"
        self._hub = f"{prefix}-hub"
        self.hosts = [Host(f"{prefix}-h{number}", f"192.0.2.{number}") for number in range(1, hosts + 1)]
        _open.add(self)
        try:
            self._build()
        except OSError:
            self.close()
            raise

    def _build(self) -> None:
        _run("ip", "netns", "add", self._hub)
        _run("ip", "-n", self._hub, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self._hub, "link", "set", "bridge", "up")
        for number, host in enumerate(self.hosts, 1):
            _run("ip", "netns", "add", host.namespace)
            pair = ("type", "veth", "peer", "name", f"port{number}", "netns", self._hub)
            _run("ip", "link", "add", "wire", "netns", host.namespace, *pair)
            _run("ip", "-n", self._hub, "link", "set", f"port{number}", "master", "bridge", "up")
            _run("ip", "-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "wire")
            _run("ip", "-n", host.namespace, "link", "set", "wire", "up")
            _run("ip", "-n", host.namespace, "link", "set", "lo", "up")

    def drop(self, senders: Iterable[Host], receivers: Sequence[Host]) -> None:
        """From now on packets from these to those vanish: a cut in one direction."""
        for sender in senders:
            for receiver in receivers:
                rule = ("-w", "-A", "INPUT", "-s", sender.address, "-j", "DROP")
                _run("ip", "netns", "exec", receiver.namespace, "iptables", *rule)

    def cut(self, ours: Sequence[Host], theirs: Sequence[Host]) -> None:
        """No packet passes between these and those, in either direction."""
        self.drop(ours, theirs)
        self.drop(theirs, ours)

    def heal(self) -> None:
        """All hear each other again."""
        for host in self.hosts:
            _run("ip", "netns", "exec", host.namespace, "iptables", "-w", "-F", "INPUT")

    def close(self) -> None:
        """Remove the namespaces; processes in them must have ended. May be called twice."""
        _open.discard(self)
        for namespace in (self._hub, *(host.namespace for host in self.hosts)):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _close_leftovers() -> None:
    for network in list(_open):
        network.close()


atexit.register(_close_leftovers)
