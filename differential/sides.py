"""One server as the comparison sees it: unary calls, one keep-alive stream, numbered watch streams, all responses."""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from differential.operations import KEEPALIVE_PATH, WATCH_PATH
from harness.fastgrpc import Answer, FastConnection
from ratifyd.proto import kv_pb2, rpc_pb2

ANSWER_TIMEOUT_S = 10.0
"""How long a side may take for anything, unless told otherwise."""


class Silent(Exception):
    """A side did not send what the other one (or the model) says it must; the text says what."""


class WatchStream:
    """A watch stream and what it has received, sorted by purpose."""

    def __init__(self, connection: FastConnection, changed: asyncio.Event) -> None:
        self._changed = changed
        self.created: list[rpc_pb2.WatchResponse] = []
        self.progress: list[rpc_pb2.WatchResponse] = []
        self.canceled: dict[int, list[rpc_pb2.WatchResponse]] = defaultdict(list)
        self.responses: dict[int, list[rpc_pb2.WatchResponse]] = defaultdict(list)
        self.event_counts: dict[int, int] = defaultdict(int)
        self.call = connection.open(WATCH_PATH, self._received)
        self.call.done.add_done_callback(lambda _: changed.set())

    def _received(self, message: bytes) -> None:
        response = rpc_pb2.WatchResponse.FromString(message)
        if response.created:
            self.created.append(response)
        elif response.canceled:
            self.canceled[response.watch_id].append(response)
        elif response.watch_id == -1 and not response.events:
            self.progress.append(response)
        else:
            self.responses[response.watch_id].append(response)
            self.event_counts[response.watch_id] += len(response.events)
        self._changed.set()

    def take(self, watch_id: int) -> list[rpc_pb2.WatchResponse]:
        """The responses with events of a watcher since the last take."""
        self.event_counts.pop(watch_id, None)
        return self.responses.pop(watch_id, [])


class Side:
    """A connection to one server. `log` holds every event since `connect`, in order, from a watcher on all keys."""

    def __init__(self, name: str, connection: FastConnection, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.connection = connection
        self.changed = asyncio.Event()
        self.streams: dict[int, WatchStream] = {}
        self.log: list[kv_pb2.Event] = []
        self.log_revision = 0
        self._keepalive_answers: list[bytes] = []
        self._keepalive = connection.open(KEEPALIVE_PATH, self._keepalive_received)
        self._tap = connection.open(WATCH_PATH, self._tap_received)

    @classmethod
    async def connect(cls, name: str, endpoint: str, timeout_s: float = ANSWER_TIMEOUT_S) -> "Side":
        """Connect and start following all keys."""
        side = cls(name, await FastConnection.connect(endpoint), timeout_s)
        create = rpc_pb2.WatchCreateRequest(key=b"\0", range_end=b"\0")
        side._tap.send(rpc_pb2.WatchRequest(create_request=create).SerializeToString())
        await side.wait(lambda: side.log_revision > 0, "creation of the watcher on all keys")
        return side

    def _tap_received(self, message: bytes) -> None:
        response = rpc_pb2.WatchResponse.FromString(message)
        self.log.extend(response.events)
        self.log_revision = max(self.log_revision, response.header.revision)
        self.changed.set()

    def _keepalive_received(self, message: bytes) -> None:
        self._keepalive_answers.append(message)
        self.changed.set()

    async def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition`, looked at after every arrival; Silent at the deadline or when the server is gone."""
        deadline = self.connection.loop.time() + self.timeout_s
        while not condition():
            self.changed.clear()
            left_s = deadline - self.connection.loop.time()
            if left_s <= 0 or self.connection.error is not None:
                raise Silent(f"{self.name}: waiting for {what} ({self.connection.error or 'nothing came'})")
            try:
                await asyncio.wait_for(self.changed.wait(), min(left_s, 1.0))
            except TimeoutError:
                continue

    def unary(self, path: str, request: bytes, token: str = "") -> "asyncio.Future[Answer]":
        """Start a call; the caller sets the deadline."""
        return self.connection.unary(path, request, (("token", token),) if token else ())

    async def keepalive(self, request: bytes) -> Answer:
        """One exchange on the keep-alive stream; the stream's end is its answer if it ends."""
        self._keepalive.send(request)
        stream = self._keepalive
        await self.wait(lambda: bool(self._keepalive_answers) or stream.done.done(), "a keep-alive answer")
        if self._keepalive_answers:
            return Answer(0, "", self._keepalive_answers.pop(0))
        self._keepalive = self.connection.open(KEEPALIVE_PATH, self._keepalive_received)
        return stream.done.result()

    def watch_stream(self, number: int) -> WatchStream:
        """The stream of that number, opened when first used."""
        if number not in self.streams:
            self.streams[number] = WatchStream(self.connection, self.changed)
        return self.streams[number]

    def close_stream(self, number: int) -> None:
        """Reset the stream and forget it."""
        stream = self.streams.pop(number, None)
        if stream is not None:
            stream.call.cancel()

    async def replay(self, key: bytes, revision: int) -> None:
        """Wait for the event of this key at this revision on a stream of its own."""
        stream = WatchStream(self.connection, self.changed)
        create = rpc_pb2.WatchCreateRequest(key=key, start_revision=revision)
        stream.call.send(rpc_pb2.WatchRequest(create_request=create).SerializeToString())
        await self.wait(lambda: bool(stream.event_counts), f"replay of {key!r} at revision {revision}")
        stream.call.cancel()

    def close(self) -> None:
        self.connection.close()
