"""Images of backends on their way from one member to another: the connection, its two ends, and what is made of them.

The receiving side is the server's own (`embed.received`, `embed.host`); here is what it stands on.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from ratifyd import schema
from ratifyd.embed.importing import check_applied, member_rows
from ratifyd.formats.bbolt import read_pages
from ratifyd.formats.v2 import decode_v2
from ratifyd.ports import Backend, Worker
from ratifyd.raft.codec import decode_message, encode_message
from ratifyd.raft.messages import Message, Snapshot
from ratifyd.storage.worker import Pauses
from simulation.backend import BackendFiles
from simulation.clock import SimTimer
from simulation.tasks import SimFuture, SimLoop, SimTask

if TYPE_CHECKING:
    from simulation.machine import SimMember
    from simulation.network import SimNetwork

STALL_S = 5.0
"""A connection on which nothing comes for so long is given up, by either end (rafthttp's timeouts)."""
RETRY_S = 0.2
"""How often a piece is sent again while its link is blocked."""
PIECE_BYTES = 8192
HEARD_S = 0.05
"""Longest time until one end hears that the other one has gone."""


class SimImports:
    """`embed.received.Makes` for the backends of a machine."""

    def __init__(self, files: BackendFiles, worker: Worker) -> None:
        self._files = files
        self._worker = worker

    def make(self, image: str, path: str, snapshot: Snapshot, pauses: Pauses) -> None:
        """Verify an image and make a backend of it, without a pause: no more than a step of the simulation."""
        pauses()
        file = self._files.disk.open(image)
        data = file.pread(file.size(), 0)
        rows: dict[bytes, dict[bytes, bytes | None]] = {name: {} for name in schema.BUCKETS}
        for bucket, found in read_pages(lambda size, offset: data[offset : offset + size], len(data)).audit():
            rows[bucket].update(found)
        index = schema.decode_u64(rows[schema.META].get(schema.CONSISTENT_INDEX) or bytes(8))
        check_applied(index, rows[schema.META].get(schema.CONF_STATE), snapshot.meta)
        for bucket, corrected in member_rows(rows[schema.MEMBERS], decode_v2(snapshot.data)).items():
            rows[bucket].update(corrected)
        self._files.create(path, rows, self._worker)

    def open(self, path: str) -> Backend:
        """Open a backend that was made."""
        return self._files.open(path, self._worker)


class Body:
    """What a receiver reads: pieces, each due within a time."""

    def __init__(self, member: SimMember) -> None:
        self._loop: SimLoop = member.loop
        self._clock = member.clock
        self._pieces: deque[bytes] = deque()
        self._error: OSError | None = None
        self._complete = False
        self._waiting: SimFuture | None = None
        self._timer = self._clock.call_later(STALL_S, self._stalled)

    def feed(self, data: bytes) -> None:
        """A piece has come."""
        self._timer.cancel()
        self._timer = self._clock.call_later(STALL_S, self._stalled)
        self._pieces.append(data)
        self._wake()

    def end(self) -> None:
        """That was all."""
        self._timer.cancel()
        self._complete = True
        self._wake()

    def fail(self, reason: str) -> None:
        """Nothing more will come."""
        self._timer.cancel()
        self._error = ConnectionResetError(reason)
        self._wake()

    def _stalled(self) -> None:
        self.fail(f"no data for {STALL_S:g} s")

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._complete:
                raise StopAsyncIteration
            self._waiting = self._loop.create_future()
            await self._waiting
        return self._pieces.popleft()


class Transfer:
    """One image under way, piece by piece: each is sent when the one before has arrived."""

    def __init__(
        self,
        network: SimNetwork,
        sender: SimMember,
        message: Message,
        size: int,
        pieces: Iterator[bytes],
        ended: Callable[[bool], None],
    ) -> None:
        """`ended(ok)` is called on the sender, once."""
        self._network = network
        self._sender = sender
        self._from = sender.machine.number
        self._message = message
        self._size = size
        self._pieces = _cut(pieces)
        self._ended = ended
        self._to = -1
        self._receiver: SimMember | None = None
        self._body: Body | None = None
        self._task: SimTask | None = None
        self._timer: SimTimer | None = None
        self.over = False

    def begin(self, receiver: int | None) -> None:
        """Connect to a machine."""
        if receiver is None or self._network.machines[receiver].member is None:
            self._sender.clock.call_later(HEARD_S, self._end, False)
            return
        self._to, self._receiver = receiver, self._network.machines[receiver].member
        self._send_next()

    def broken(self) -> None:
        """The connection is gone: both ends hear of it, the one that lives on a little later."""
        draw = self._network.random.random
        self._sender.clock.call_later(draw() * HEARD_S, self._end, False)
        if self._receiver is not None:
            self._receiver.clock.call_later(draw() * HEARD_S, self._hung_up, "connection reset")

    def cancel(self) -> None:
        """The sender hangs up."""
        self._end(False)

    # --- the sender ------------------------------------------------------------------------------------------------

    def _send_next(self) -> None:
        if self.over:
            return
        self._await()
        self._send(next(self._pieces, None))

    def _await(self) -> None:
        """Have something happen in time: the piece arrive, or the answer come."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._sender.clock.call_later(STALL_S, self._end, False)

    def _send(self, piece: bytes | None) -> None:
        """Send a piece, None after the last; again and again while the link is blocked."""
        if self.over:
            return
        network = self._network
        if network.is_blocked(self._from, self._to):
            self._sender.clock.call_later(RETRY_S, self._send, piece)
        elif network.drops(self._from, self._to):
            self.broken()
        else:
            size = len(piece or b"")
            delay = network.delay(self._from, self._to, size)
            if network.faulty:
                delay += network.options.image_s * size / self._size
            network.clock.call_later(delay, self._arrive, piece)

    def _end(self, ok: bool) -> None:
        if self.over:
            return
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        self._ended(ok)
        if not ok and self._receiver is not None and not self._network.is_blocked(self._from, self._to):
            later = self._network.delay(self._from, self._to, 0)
            self._network.clock.call_later(later, self._receiver.clock.run, self._hung_up, "the sender hung up")

    # --- the receiver ----------------------------------------------------------------------------------------------

    def _arrive(self, piece: bytes | None) -> None:
        receiver = self._receiver
        assert receiver is not None
        if receiver.clock.dead:
            self.broken()
        else:
            receiver.clock.run(self._take, piece)

    def _take(self, piece: bytes | None) -> None:
        receiver = self._receiver
        assert receiver is not None
        if self._body is None:
            self._body = Body(receiver)
            message = decode_message(encode_message(self._message))
            self._task = receiver.loop.run(receiver.host.save_snapshot(message, self._body), self._saved)
        if piece is not None:
            self._body.feed(piece)
            self._sender.clock.run(self._send_next)
            return
        self._body.end()
        self._network.situations.image_arrived(receiver)
        receiver.images += 1
        if self._network.trace is not None:
            self._network.trace(f"{self._from}->{self._to} image of {self._size} bytes, {self._message.snapshot}")
        self._sender.clock.run(self._await)

    def _hung_up(self, reason: str) -> None:
        """The sender is gone: a body that is not complete breaks off, and whoever saves it is cancelled."""
        if self._task is not None and not self._task.over:
            self._network.situations.seen("snapshot: its sender hangs up")
            assert self._body is not None
            self._body.fail(reason)
            self._task.cancel()

    def _saved(self, error: BaseException | None) -> None:
        assert self._receiver is not None
        if isinstance(error, CancelledError):
            return
        if error is not None and not isinstance(error, OSError | ValueError):
            raise error
        self._answer(error is None)

    def _answer(self, ok: bool) -> None:
        assert self._receiver is not None
        network = self._network
        if network.is_blocked(self._to, self._from):
            self._receiver.clock.call_later(RETRY_S, self._answer, ok)
        elif not network.drops(self._to, self._from):
            later = network.delay(self._to, self._from, 0)
            network.clock.call_later(later, self._sender.clock.run, self._end, ok)


def _cut(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """In pieces, so that even a small image takes several."""
    for chunk in chunks:
        for start in range(0, len(chunk), PIECE_BYTES):
            yield chunk[start : start + PIECE_BYTES]
