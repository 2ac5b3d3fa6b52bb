"""The two streams between this member and another: one end pushed to, one end dialled and read.

Whoever wants to hear dials. A `StreamWriter` waits for the other member to call and then pushes frames down that
connection; a `StreamReader` calls the other member again and again and hands over what comes. The codec of both lives
and dies with the connection.
"""

import asyncio
import logging
from collections.abc import Callable
from ssl import SSLContext
from typing import Final

from ratifyd.logs import fields
from ratifyd.net.http1 import chunk_of
from ratifyd.peer.codec import (
    MESSAGE_HEARTBEAT,
    MSGAPP_HEARTBEAT,
    MessageDecoder,
    MsgAppDecoder,
    MsgAppEncoder,
    SharedEntries,
    frame_message,
)
from ratifyd.peer.connection import LAST_CHUNK, PeerUnreachable, connect, request_head, target_of
from ratifyd.peer.headers import has_streams, identity
from ratifyd.peer.host import PeerHost, Timing
from ratifyd.peer.inbound import deliver
from ratifyd.peer.status import PeerStatus, UrlPicker
from ratifyd.raft.messages import Message

MSGAPP: Final = "msgapp"
MESSAGE: Final = "message"
KINDS: Final = (MSGAPP, MESSAGE)

QUEUE_LIMIT: Final = 64 * 1024 * 1024
"""Bytes that may wait for a slow reader of one stream; messages beyond it are dropped."""
SILENT_TICKS: Final = 3
"""Link heartbeats leave this often per I/O timeout."""
_REASON_LIMIT: Final = 4096
_REASONS_LOGGED: Final = 16

log = logging.getLogger("ratifyd.peer")


class StreamWriter:
    """Our end of a stream the other member dialled. Usable while `working`."""

    __slots__ = (
        "_attached",
        "_encode",
        "_encoder_of",
        "_heartbeat",
        "_on_loss",
        "_paused",
        "_pieces",
        "_size",
        "_stalled_ticks",
        "_status",
        "_transport",
        "_written",
        "_written_then",
        "kind",
        "working",
    )

    def __init__(self, kind: str, status: PeerStatus, shared: SharedEntries, on_loss: Callable[[], None]) -> None:
        """`on_loss` is called when a connection broke, or was replaced, before all bytes were out."""
        self.kind = kind
        self.working = False
        self._status = status
        self._on_loss = on_loss
        if kind == MSGAPP:
            self._heartbeat = chunk_of(MSGAPP_HEARTBEAT)
            self._encoder_of: Callable[[], Callable[[Message], bytes]] = lambda: MsgAppEncoder(shared).encode
        else:
            self._heartbeat = chunk_of(MESSAGE_HEARTBEAT)
            self._encoder_of = lambda: frame_message
        self._encode: Callable[[Message], bytes] = self._encoder_of()
        self._attached: _Attachment | None = None
        self._transport: asyncio.Transport
        self._paused = False
        self._pieces: list[bytes] = []
        self._size = self._written = self._written_then = self._stalled_ticks = 0

    def attachment(self) -> "_Attachment":
        """What takes over the connection of an accepted stream request."""
        return _Attachment(self)

    def push(self, message: Message) -> bool:
        """Encode a message; it leaves with the next `flush`. False: too much is waiting already."""
        if self._paused or self._size > QUEUE_LIMIT:
            return False
        data = self._encode(message)
        self._pieces.append(data)
        self._size += len(data)
        return True

    def flush(self) -> int:
        """Write everything pushed since, as one chunk in one write; returns its bytes."""
        size, pieces = self._size, self._pieces
        if not size:
            return 0
        self._transport.write(b"%x\r\n%b\r\n" % (size, pieces[0] if len(pieces) == 1 else b"".join(pieces)))
        pieces.clear()
        self._size = 0
        self._written += size + 4 + len(f"{size:x}")
        return size

    def tick(self) -> None:
        """Three times per I/O timeout: send a link heartbeat, cut a connection that takes nothing any more."""
        if not self.working:
            return
        waiting = self._transport.get_write_buffer_size()
        taken = self._written - waiting
        if waiting and taken <= self._written_then:
            self._stalled_ticks += 1
            if self._stalled_ticks >= SILENT_TICKS:
                self._status.deactivate(f"write on stream {self.kind}", "the other side takes no data")
                self._transport.abort()
                self.detach(self._attached)
                return
        else:
            self._stalled_ticks = 0
        self._written_then = taken
        if not waiting:
            self._transport.write(self._heartbeat)
            self._written += len(self._heartbeat)

    def attach(self, attachment: "_Attachment", transport: asyncio.Transport) -> None:
        """Use this connection from now on, instead of any other."""
        if self.working:
            if self._transport.get_write_buffer_size():
                self._on_loss()
            self._hang_up()
        transport.set_write_buffer_limits(QUEUE_LIMIT)
        self._attached, self._transport = attachment, transport
        self._encode = self._encoder_of()
        self._paused = False
        self._pieces.clear()
        self._size = self._written = self._written_then = self._stalled_ticks = 0
        self.working = True
        self._status.activate()

    def pause(self, attachment: "_Attachment | None", paused: bool) -> None:
        """More than QUEUE_LIMIT is waiting in this connection, or no longer."""
        if attachment is self._attached:
            self._paused = paused

    def detach(self, attachment: "_Attachment | None") -> None:
        """This connection is gone."""
        if attachment is self._attached and self.working:
            self._attached = None
            self.working = False
            self._pieces.clear()
            self._size = 0
            self._status.deactivate(f"write on stream {self.kind}", "connection lost")
            self._on_loss()

    def stop(self) -> None:
        """Close the connection."""
        if self.working:
            self.working = False
            self._attached = None
            self._hang_up()

    def _hang_up(self) -> None:
        """End the stream in good order, or cut it when the other side would not notice."""
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.write(LAST_CHUNK)
            self._transport.close()


class _Attachment:
    """`net.http1.Taker` of one connection of a writer; an old one's end does not touch its successor."""

    __slots__ = ("_writer",)

    def __init__(self, writer: StreamWriter) -> None:
        self._writer = writer

    def taken(self, transport: asyncio.Transport) -> None:
        self._writer.attach(self, transport)

    def pause_writing(self) -> None:
        self._writer.pause(self, True)

    def resume_writing(self) -> None:
        self._writer.pause(self, False)

    def closed(self) -> None:
        self._writer.detach(self)


class StreamReader:
    """Dials one stream of another member for as long as it runs."""

    def __init__(
        self,
        kind: str,
        member_id: int,
        host: PeerHost,
        picker: UrlPicker,
        status: PeerStatus,
        *,
        timing: Timing,
        dial_timeout_s: float,
        ssl: SSLContext | None,
    ) -> None:
        self.kind = kind
        self.member_id = member_id
        self.host = host
        self.status = status
        self._picker = picker
        self._timing = timing
        self._dial_timeout_s = dial_timeout_s
        self._ssl = ssl
        self._reasons: set[str] = set()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"peer-{kind}-{member_id:x}")

    def stop(self) -> asyncio.Task[None]:
        """Hang up; await what is returned to be sure."""
        self._task.cancel()
        return self._task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            url = self._picker.pick()
            try:
                await self._listen(url)
            except _Removed:
                log.warning("this member has been removed from the cluster", extra=fields(told_by=self._peer))
                self.host.removed_from_cluster()
                return
            except (PeerUnreachable, ValueError) as error:
                self._failed(url, error)
            await asyncio.sleep(self._timing.redial_s - (loop.time() - started))

    def _failed(self, url: str, error: Exception) -> None:
        """Note why a dial or a stream failed; the log gets each reason once until the stream is up again."""
        self._picker.failed(url)
        self.status.deactivate(f"read stream {self.kind}", error)
        reason = str(error)
        if reason not in self._reasons and len(self._reasons) < _REASONS_LOGGED:
            self._reasons.add(reason)
            log.warning(
                "lost or failed to open stream from remote peer",
                extra=fields(stream=self.kind, remote_peer_id=self._peer, url=url, error=reason),
            )

    @property
    def _peer(self) -> str:
        return f"{self.member_id:x}"

    async def _listen(self, url: str) -> None:
        """Dial and read until the stream ends: returns when the other side ended it, raises when it broke."""
        host = self.host
        target, name = target_of(url)
        headers = identity(host.local_id, host.cluster_id, host.local_peer_urls)
        headers.append(("X-Raft-To", self._peer))
        path = f"/raft/stream/{self.kind}/{host.local_id:x}"
        connection = await connect(target, timeout_s=self._dial_timeout_s, ssl=self._ssl)
        listening = _Listening(self)
        try:
            connection.exchange(request_head("GET", name, path, headers, 0), listening)
            silent = 0
            while not listening.over.done():
                before = connection.received
                await asyncio.wait((listening.over,), timeout=self._timing.io_timeout_s / SILENT_TICKS)
                silent = silent + 1 if connection.received == before else 0
                if silent >= SILENT_TICKS:
                    raise PeerUnreachable(f"no bytes for more than {self._timing.io_timeout_s:g} s")
            listening.over.result()
        finally:
            listening.over.cancel()
            connection.close()

    def established(self) -> None:
        """The other side accepted."""
        self._reasons.clear()
        self.status.activate()
        log.info(
            "established TCP streaming connection with remote peer",
            extra=fields(stream_reader_type=self.kind, remote_peer_id=self._peer),
        )


class _Removed(Exception):
    """The other side answered 410."""


class _Listening:
    """Sink of one stream connection: decodes and delivers."""

    __slots__ = ("_decode", "_label", "_reader", "_reason", "_received", "_status", "over")

    def __init__(self, reader: StreamReader) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = reader
        self._label = (f"{reader.member_id:x}",)
        self._received = reader.host.metrics.peer_received_bytes_total
        self._status = 0
        self._reason = b""
        local, remote = reader.host.local_id, reader.member_id
        self._decode = MsgAppDecoder(local, remote).feed if reader.kind == MSGAPP else MessageDecoder().feed

    def head(self, status: int, headers: dict[str, str]) -> None:
        self._status = status
        if not has_streams(headers):
            raise ValueError(f"version {headers.get('x-server-version')} of the other side has no such stream")
        if status == 200:
            self._reader.established()

    def body(self, data: bytes) -> None:
        if self._status != 200:
            self._reason += data[:_REASON_LIMIT]
            if len(self._reason) > _REASON_LIMIT:
                raise ValueError("the reason of a refusal is too long")
            return
        messages = self._decode(data)
        self._received[self._label] += len(data)
        if messages:
            deliver(self._reader.host, messages)

    def end(self) -> None:
        if self.over.done():
            return
        if self._status == 200:
            self.over.set_result(None)
        elif self._status == 410:
            self.over.set_exception(_Removed())
        else:
            reason = self._reason.decode("utf-8", "replace").strip()
            self.over.set_exception(PeerUnreachable(f"stream refused: {self._status} {reason}"))

    def failed(self, error: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(error)
