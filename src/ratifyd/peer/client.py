"""A small HTTP/1.1 client for the peer port: GET and POST, whole or chunked bodies, connections kept for reuse.

Each call is bounded in time and in the size of its answer. A GET that fails on a reused connection before a byte of
the answer came is tried once more on a new one, for the other side may have closed it meanwhile; a POST is not: it may
have been taken, and what it carries (a proposal, say) must not come twice. Deliberately without redirects, compression
and proxies.
"""

import asyncio
from collections.abc import AsyncIterator
from ssl import SSLContext
from typing import NamedTuple

from ratifyd.peer.connection import (
    LAST_CHUNK,
    Connection,
    Headers,
    PeerUnreachable,
    Target,
    chunk,
    connect,
    request_head,
    target_of,
)

ANSWER_LIMIT = 64 * 1024 * 1024
IDLE_S = 4.5
"""A kept connection is given up after this time: etcd's peer port closes its own after five seconds."""


class Answer(NamedTuple):
    """Status, headers (names in lower case) and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, without surrounding white space: the reason, in an answer that is an error."""
        return self.body.decode("utf-8", "replace").strip()


class _Collector:
    """Sink of a whole answer."""

    def __init__(self, limit: int) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._limit = limit
        self._status = 0
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._size = 0

    def head(self, status: int, headers: dict[str, str]) -> None:
        self._status, self._headers = status, headers

    def body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise ValueError(f"answer is longer than {self._limit} bytes")
        self._pieces.append(data)

    def end(self) -> None:
        if not self.answer.done():
            self.answer.set_result(Answer(self._status, self._headers, b"".join(self._pieces)))

    def failed(self, error: Exception) -> None:
        if not self.answer.done():
            if not isinstance(error, PeerUnreachable):
                error = PeerUnreachable(str(error))
            self.answer.set_exception(error)
            self.answer.exception()  # a caller that was cancelled does not ask for it


class PeerClient:
    """Calls to other members. All methods raise PeerUnreachable when no answer comes, ValueError for a bad URL."""

    def __init__(self, *, dial_timeout_s: float = 2.0, ssl: SSLContext | None = None) -> None:
        self.dial_timeout_s = dial_timeout_s
        self.ssl = ssl
        self._idle: dict[Target, list[tuple[Connection, float]]] = {}
        self._busy: set[Connection] = set()
        self._closed = False

    async def get(
        self, base: str, path: str, *, headers: Headers = (), body: bytes = b"", timeout_s: float = 5.0
    ) -> Answer:
        """GET `path` (with query) from the member at URL `base`; all within `timeout_s`."""
        return await self.request("GET", base, path, headers=headers, body=body, timeout_s=timeout_s)

    async def post(
        self, base: str, path: str, body: bytes = b"", *, headers: Headers = (), timeout_s: float = 5.0
    ) -> Answer:
        """POST a body to `path`; all within `timeout_s`."""
        return await self.request("POST", base, path, headers=headers, body=body, timeout_s=timeout_s)

    async def request(
        self,
        method: str,
        base: str,
        path: str,
        *,
        headers: Headers = (),
        body: bytes = b"",
        timeout_s: float = 5.0,
        answer_limit: int = ANSWER_LIMIT,
    ) -> Answer:
        """Send a request whose body is at hand."""
        target, host = target_of(base)
        data = request_head(method, host, path, headers, len(body)) + body
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    connection, fresh = await self._open(target)
                    collector = _Collector(answer_limit)
                    try:
                        connection.exchange(data, collector)
                        return await collector.answer
                    except PeerUnreachable:
                        if fresh or connection.got_bytes or method != "GET":
                            raise
                    finally:
                        self._release(target, connection)
        except TimeoutError:
            raise PeerUnreachable(f"no answer within {timeout_s:g} s") from None

    async def upload(
        self,
        base: str,
        path: str,
        body: AsyncIterator[bytes],
        *,
        headers: Headers = (),
        stall_s: float = 30.0,
        answer_timeout_s: float = 60.0,
        answer_limit: int = ANSWER_LIMIT,
    ) -> Answer:
        """POST a body of unknown length in chunks, as fast as it is taken.

        Each piece must be taken within `stall_s`, the answer begin and end within `answer_timeout_s` after the last
        one. An answer that comes earlier ends the upload. What `body` raises is passed on.
        """
        target, host = target_of(base)
        connection = await connect(target, timeout_s=self.dial_timeout_s, ssl=self.ssl)
        self._busy.add(connection)
        collector = _Collector(answer_limit)
        try:
            connection.exchange(request_head("POST", host, path, headers, None), collector)
            async for piece in body:
                if collector.answer.done():
                    return collector.answer.result()
                if piece:
                    async with asyncio.timeout(stall_s):
                        await connection.write(chunk(piece))
            async with asyncio.timeout(answer_timeout_s):
                await connection.write(LAST_CHUNK)
                return await collector.answer
        except TimeoutError:
            if collector.answer.done():
                return collector.answer.result()
            raise PeerUnreachable("the other side does not take the data, or does not answer") from None
        finally:
            self._busy.discard(connection)
            connection.close()

    async def close(self) -> None:
        """Cut all connections; calls under way fail."""
        self._closed = True
        for kept in self._idle.values():
            for connection, _ in kept:
                connection.close()
        self._idle.clear()
        for connection in list(self._busy):
            connection.close()

    async def _open(self, target: Target) -> tuple[Connection, bool]:
        """A connection, and whether it is new."""
        kept = self._idle.get(target)
        deadline = asyncio.get_running_loop().time() - IDLE_S
        while kept:
            connection, since = kept.pop()
            if connection.idle and since > deadline:
                self._busy.add(connection)
                return connection, False
            connection.close()
        connection = await connect(target, timeout_s=self.dial_timeout_s, ssl=self.ssl)
        if self._closed:
            connection.close()
            raise PeerUnreachable("client is closed")
        self._busy.add(connection)
        return connection, True

    def _release(self, target: Target, connection: Connection) -> None:
        self._busy.discard(connection)
        if connection.idle and not self._closed:
            self._idle.setdefault(target, []).append((connection, asyncio.get_running_loop().time()))
        else:
            connection.close()
