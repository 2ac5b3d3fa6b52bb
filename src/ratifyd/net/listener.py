"""Listening sockets for etcd's URLs: http://host:port and unix://path.

A listener is bound before it serves: connections made in between wait in the kernel, as they do in etcd until the
member is ready. Encryption is the caller's: `serve` takes an SSLContext.
"""

import asyncio
import errno
import os
import socket
import stat
from pathlib import Path
from ssl import SSLContext

from ratifyd.config.values import parse_url, split_host_port
from ratifyd.net.accepting import LimitedAccepting
from ratifyd.net.connection import Acceptor

BACKLOG = 4096
_KEEPALIVE_S = 30
_WILDCARDS = ("", "0.0.0.0", "::")


class ListenError(Exception):
    """A URL that cannot be listened on; the text says why and what to do."""


class Listener:
    """One bound URL."""

    def __init__(self, url: str, sock: socket.socket, unix_path: str = "") -> None:
        self.url = url
        self._sock = sock
        self._unix_path = unix_path
        self._server: asyncio.Server | None = None
        self._accepting: LimitedAccepting | None = None

    @classmethod
    def bind(cls, url: str, *, flag: str, reuse_port: bool = False, reuse_address: bool = False) -> "Listener":
        """Bind and listen. `flag` names the option to change in the text of a ListenError.

        `reuse_address` is accepted for etcd's sake: SO_REUSEADDR is always set, as Go sets it.
        """
        scheme, address, _ = parse_url(url)
        try:
            if scheme in ("unix", "unixs"):
                return cls(url, _bind_unix(address), address)
            return cls(url, _bind_tcp(address, reuse_port))
        except (OSError, OverflowError) as error:
            raise ListenError(_explain(url, flag, error)) from error

    @property
    def port(self) -> int:
        """The TCP port in use, which differs from the URL's when that is 0; 0 for a unix socket."""
        return 0 if self._unix_path else int(self._sock.getsockname()[1])

    async def serve(self, accept: Acceptor, *, ssl: SSLContext | None = None) -> None:
        """Start accepting: `accept` makes the protocol of each new connection, and says how many there may be."""
        loop = asyncio.get_running_loop()
        if accept.max_connections is not None:
            self._accepting = LimitedAccepting(loop, self._sock, accept, ssl)
            self._accepting.start()
            return
        create = loop.create_unix_server if self._unix_path else loop.create_server
        # Known before it starts: who is cancelled in the start closes it all the same.
        self._server = await create(accept, sock=self._sock, ssl=ssl, backlog=BACKLOG, start_serving=False)
        await self._server.start_serving()

    def close(self) -> None:
        """Stop listening; connections already made live on."""
        if self._server is not None:
            self._server.close()
        if self._accepting is not None:
            self._accepting.stop()
        self._sock.close()
        if self._unix_path:
            Path(self._unix_path).unlink(missing_ok=True)


def _bind_tcp(address: str, reuse_port: bool) -> socket.socket:
    host, port = split_host_port(address)
    last: OSError | None = None
    for family, target in _tcp_targets(host, int(port or "0")):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            last = error
            continue
        try:
            _set_options(sock, family, host, reuse_port)
            sock.bind(target)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            last = error
            if error.errno == errno.EADDRINUSE:
                break
            continue
        sock.setblocking(False)
        return sock
    raise last or OSError(errno.EADDRNOTAVAIL, "no address to bind")


def _tcp_targets(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """Addresses to try in turn. As in Go, an unspecified address means both IP versions, and localhost IPv4 first."""
    if host in _WILDCARDS:
        both = [(socket.AF_INET6, ("::", port)), (socket.AF_INET, ("0.0.0.0", port))]
        return both[:1] if host == "::" else both
    if host == "localhost":
        return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port))]
    return [(socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port))]


def _set_options(sock: socket.socket, family: socket.AddressFamily, host: str, reuse_port: bool) -> None:
    """Accepted sockets inherit the TCP options on Linux."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host in _WILDCARDS else 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), _KEEPALIVE_S)


def _bind_unix(path: str) -> socket.socket:
    """A unix socket; the file a dead process left behind is replaced, that of a living one is not."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()


def _explain(url: str, flag: str, error: OSError | OverflowError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        reason, advice = "address already in use", f"stop the program that uses it, or change {flag}"
    elif number == errno.ENOTSOCK:
        reason, advice = "there is a file of that name, and it is no socket", f"move it away, or change {flag}"
    elif number == errno.EACCES:
        reason, advice = "permission denied", f"choose a port from 1024 up or a directory of your own in {flag}"
    elif number == errno.EADDRNOTAVAIL:
        reason, advice = "cannot assign requested address", f"write an address of this machine or 0.0.0.0 in {flag}"
    else:
        reason, advice = os.strerror(number).lower() if number else str(error), f"correct {flag}"
    return f"cannot listen on {url}: {reason}; {advice}"
