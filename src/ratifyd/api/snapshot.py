"""Maintenance.Snapshot: the backend as a bbolt file, then its SHA-256 (semantics 11.5, formats §11).

The image is of the last commit, read on a worker as fast as the client takes it; writes go on meanwhile.
"""

import hashlib

from ratifyd.api.calls import MAX_QUEUED_BYTES, Stream
from ratifyd.errors import Code, RequestError
from ratifyd.proto.rpc_pb2 import SnapshotRequest, SnapshotResponse
from ratifyd.server.parts import Image

CHUNK_BYTES = 32 * 1024
"""Blob of one message (etcd snapshotSendBufferSize)."""


class SnapshotStream(Stream):
    """One Snapshot RPC."""

    takes_one = True
    __slots__ = ("_digest", "_image", "_left", "_reading", "_version", "_waiting")

    def receive(self, message: bytes) -> None:
        """Take the request."""
        SnapshotRequest.FromString(message)
        self._image: Image | None = None
        self._reading = self._waiting = False
        self._digest = hashlib.sha256()
        self._version = self.server.storage_version
        self.server.committer.sync(lambda: self.server.images.prepare(self._prepared))

    def writable(self) -> None:
        """The client has taken what was queued."""
        if self.asked and self._waiting:
            self._waiting = False
            self._step()

    def ended(self) -> None:
        """Let go of the image, unless the worker is reading it: then as soon as it has."""
        if self.asked and self._image is not None and not self._reading:
            self._image.close()
            self._image = None

    def _prepared(self, image: Image | None, error: BaseException | None) -> None:
        if image is None:
            self.fail(RequestError.with_text(Code.UNKNOWN, f"cannot make a snapshot: {error}"))
            return
        self._image = image
        self._left = image.size
        if self.closed:
            self.ended()
        else:
            self._step()

    def _step(self) -> None:
        image = self._image
        if image is None:
            return
        if self.queued_bytes > MAX_QUEUED_BYTES:
            self._waiting = True
            return
        self._reading = True
        image.read(self._took)

    def _took(self, chunk: bytes | None, error: BaseException | None) -> None:
        self._reading = False
        if self.closed:
            self.ended()
        elif error is not None:
            self.fail(RequestError.with_text(Code.UNKNOWN, f"cannot read the snapshot: {error}"))
        elif chunk is not None:
            self._digest.update(chunk)
            for start in range(0, len(chunk), CHUNK_BYTES):
                blob = chunk[start : start + CHUNK_BYTES]
                self._left -= len(blob)
                self._send(blob)
            self._step()
        else:
            self._send(self._digest.digest())
            self.finish()

    def _send(self, blob: bytes) -> None:
        response = SnapshotResponse(remaining_bytes=self._left, blob=blob, version=self._version)
        self.send(response.SerializeToString())
