"""A blocking watch stream for tests: send requests, take responses with a deadline, prove that nothing else came."""

import itertools
import queue
import threading
from types import TracebackType
from typing import Any, Self

import grpc

from harness.stubs import Client
from ratifyd.proto import kv_pb2, rpc_pb2

TIMEOUT_S = 10.0

_fence_numbers = itertools.count()


class WatchStream:
    """One Watch stream. `take` returns the next response of any kind; the stream's end arrives as its exception."""

    def __init__(self, client: Client, metadata: Any = None) -> None:
        self._client = client
        self._requests: queue.SimpleQueue[rpc_pb2.WatchRequest | None] = queue.SimpleQueue()
        self._responses: queue.SimpleQueue[rpc_pb2.WatchResponse | Exception | None] = queue.SimpleQueue()
        self.call = client.watch.Watch(iter(self._requests.get, None), metadata=metadata)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            for response in self.call:
                self._responses.put(response)
            self._responses.put(None)
        except grpc.RpcError as error:
            self._responses.put(error)

    def send(self, request: rpc_pb2.WatchRequest) -> None:
        self._requests.put(request)

    def half_close(self) -> None:
        """Say that no more requests follow; the stream stays open for responses."""
        self._requests.put(None)

    def take(self, timeout_s: float = TIMEOUT_S) -> rpc_pb2.WatchResponse:
        """The next response; raises the stream's error, EOFError at its clean end, TimeoutError at the deadline."""
        try:
            item = self._responses.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError("no watch response in time") from None
        if item is None:
            raise EOFError
        if isinstance(item, Exception):
            raise item
        return item

    def create(self, key: bytes, range_end: bytes = b"", **fields: Any) -> rpc_pb2.WatchResponse:
        """Create a watcher and take the answer, which must be the next response."""
        create = rpc_pb2.WatchCreateRequest(key=key, range_end=range_end, **fields)
        self.send(rpc_pb2.WatchRequest(create_request=create))
        response = self.take()
        assert response.created, response
        return response

    def cancel(self, watch_id: int) -> None:
        self.send(rpc_pb2.WatchRequest(cancel_request=rpc_pb2.WatchCancelRequest(watch_id=watch_id)))

    def progress(self) -> None:
        self.send(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))

    def events(self, count: int, timeout_s: float = TIMEOUT_S) -> list[kv_pb2.Event]:
        """Take responses until `count` events are there; each within the deadline."""
        events: list[kv_pb2.Event] = []
        while len(events) < count:
            events += self.take(timeout_s).events
        return events

    def nothing_before_fence(self) -> list[rpc_pb2.WatchResponse]:
        """Everything the stream sends before the event of a fence put now; empty if nothing was under way.

        Good for watchers that are up to date: their events of earlier revisions come before the fence's.
        """
        number = next(_fence_numbers)
        key, watch_id = b"fence/%d/%d" % (id(self), number), 1_000_000 + number
        seen: list[rpc_pb2.WatchResponse] = []
        create = rpc_pb2.WatchCreateRequest(key=key, watch_id=watch_id)
        self.send(rpc_pb2.WatchRequest(create_request=create))
        while not ((response := self.take()).created and response.watch_id == watch_id):
            seen.append(response)
        self._client.kv.Put(rpc_pb2.PutRequest(key=key))
        while (response := self.take()).watch_id != watch_id:
            seen.append(response)
        self.cancel(watch_id)
        while (response := self.take()).watch_id != watch_id:
            seen.append(response)
        return seen

    def close(self) -> None:
        self.call.cancel()
        self._requests.put(None)
        self._reader.join(TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
