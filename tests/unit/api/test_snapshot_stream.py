"""Maintenance.Snapshot to a client that reads slowly."""

import struct
from collections.abc import Callable
from hashlib import sha256

from ratifyd.net.connection import HIGH_WATER
from ratifyd.proto.rpc_pb2 import SnapshotRequest, SnapshotResponse
from simulation.http2 import SETTINGS, WINDOW_UPDATE, frame
from tests.support_client import Client
from tests.support_member import Member

PIECES = [bytes([number]) * 32_768 for number in range(20)]


class Pieces:
    """An image that is there at once."""

    def __init__(self) -> None:
        self.size = sum(map(len, PIECES))
        self._left = list(PIECES)
        self.closed = False

    def prepare(self, done: Callable[[object, BaseException | None], None]) -> None:
        done(self, None)

    def read(self, done: Callable[[bytes | None, BaseException | None], None]) -> None:
        done(self._left.pop(0) if self._left else None, None)

    def close(self) -> None:
        self.closed = True


def test_it_goes_on_when_the_connection_below_holds_as_much_as_it_may() -> None:
    """It says nothing when it has sent that, and a stream that holds little back says nothing either."""
    member = Member().start()
    image = Pieces()
    member.server.images = image  # type: ignore[assignment]
    client = Client(member, window=0)
    client.link.stuck = HIGH_WATER
    stream = client.begin("/etcdserverpb.Maintenance/Snapshot", SnapshotRequest())
    member.settle()
    assert not client.answer(stream).messages
    client.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 30)))
    client.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30)))
    member.settle()
    answer = client.answer(stream)
    assert answer.status == 0 and image.closed
    parts = [part.blob for part in answer.parse(SnapshotResponse)]
    assert parts == [*PIECES, sha256(b"".join(PIECES)).digest()]
