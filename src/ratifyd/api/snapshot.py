"""Maintenance.Snapshot: the backend as a bbolt image, and its digest (semantics 11.5).

The image is made on a thread, piece by piece, as fast as the client takes it.
"""

from hashlib import sha256
from typing import Any

from ratifyd.api.calls import MAX_QUEUED_BYTES, Stream
from ratifyd.api.identity import require_admin
from ratifyd.errors import Code, RequestError, RequestTooManyRequests
from ratifyd.proto.rpc_pb2 import SnapshotRequest, SnapshotResponse
from ratifyd.server.parts import Image

BLOB_BYTES = 32 * 1024
"""Bytes in one message (etcd snapshotSendBufferSize)."""
MAX_SNAPSHOTS = 4
"""Snapshots made at the same time: each holds a view of the backend, whose pages cannot be reused meanwhile."""


class SnapshotStream(Stream):
    """One Snapshot RPC."""

    takes_one = True
    __slots__ = ("_digest", "_image", "_left", "_pending", "_reading", "_rest")

    def receive(self, message: bytes) -> None:
        """Take the request. Raises RequestTooManyRequests."""
        SnapshotRequest.FromString(message)
        require_admin(self.server, self.head)
        server = self.server
        if server.snapshots_running >= MAX_SNAPSHOTS:
            raise RequestTooManyRequests
        server.snapshots_running += 1
        self._image: Image | None = None
        self._rest = b""
        self._reading = False
        server.committer.sync(lambda: server.images.prepare(self._prepared))

    def writable(self) -> None:
        """The client has taken what was queued."""
        if hasattr(self, "_left"):
            self._go_on()

    def ended(self) -> None:
        """Let go of the image, unless the thread is at it: then that does."""
        if not hasattr(self, "_image"):
            return
        self.server.metrics.backend_snapshot_seconds.observe(self.server.timing.now() - self.began)
        self.server.snapshots_running -= 1
        if self._image is not None and not self._reading:
            self._image.close()

    def _prepared(self, image: Image | None, error: BaseException | None) -> None:
        if self.closed:
            if image is not None:
                image.close()
            return
        if image is None:
            self.fail(RequestError.with_text(Code.INTERNAL, f"no image of the backend could be made: {error}"))
            return
        self._image = image
        self._left = image.size
        self._digest: Any = sha256()
        self._go_on()

    def _go_on(self) -> None:
        if self.closed or self._reading or self._image is None or self.queued_bytes > MAX_QUEUED_BYTES:
            return
        self._reading = True
        self._image.read(self._taken)

    def _taken(self, chunk: bytes | None, error: BaseException | None) -> None:
        self._reading = False
        assert self._image is not None
        if self.closed:
            self._image.close()
        elif error is not None:
            self.fail(RequestError.with_text(Code.INTERNAL, f"the image of the backend could not be read: {error}"))
        elif chunk is None:
            self._finish()
        else:
            self._digest.update(chunk)
            data = self._rest + chunk
            whole = len(data) - len(data) % BLOB_BYTES
            for start in range(0, whole, BLOB_BYTES):
                self._send_blob(data[start : start + BLOB_BYTES])
            self._rest = data[whole:]
            self._go_on()

    def _send_blob(self, blob: bytes) -> None:
        self._left -= len(blob)
        self._send(blob, self._left)

    def _finish(self) -> None:
        if self._rest:
            self._send_blob(self._rest)
        self._send(self._digest.digest(), 0)
        self.finish()

    def _send(self, blob: bytes, left: int) -> None:
        response = SnapshotResponse(remaining_bytes=left, blob=blob, version=self.server.storage_version)
        self.send(response.SerializeToString())
