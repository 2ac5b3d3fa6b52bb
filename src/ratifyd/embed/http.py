"""HTTP/1.1 requests for `api.front`: bodies that arrive, answers that leave, bit by bit at their reader's pace."""

import asyncio
import gc
import resource
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from ratifyd.api.exchange import Answered, Incoming
from ratifyd.api.front import ClientFront
from ratifyd.api.pages import Headers
from ratifyd.net.bodies import LOW_WATER, BodyStream
from ratifyd.net.http1 import HttpRequest, HttpResponse


def serve_front(front: ClientFront) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
    """The handler of connections that speak HTTP/1.1."""

    async def handle(request: HttpRequest) -> HttpResponse:
        answer = _Answer()
        incoming = answer.incoming = front.handle(request, answer)
        if not isinstance(incoming, Answered):
            request.ends_with_client = True
            if request.stream is None:
                incoming.receive(request.body)
                incoming.body_ended()
            else:
                answer.take_body(request.stream)
        try:
            return await answer.head
        except asyncio.CancelledError:
            await answer.aclose()
            raise

    return handle


class _Answer:
    """An answer on its way; an async iterator over its body where that has no known length."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.incoming: Incoming = Answered()
        self.head: asyncio.Future[HttpResponse] = loop.create_future()
        self.queued_bytes = 0
        self._pieces: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._over = False
        self._error: Exception | None = None
        self._body: asyncio.Task[None] | None = None

    # --- from the request's handler --------------------------------------------------------------------------------

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer at once."""
        self._begin(HttpResponse(status, headers, body))
        self._stop_body()

    def begin(self, status: int, headers: Headers) -> None:
        """Begin a body of unknown length."""
        self._begin(HttpResponse(status, headers, stream=self))

    def write(self, data: bytes) -> None:
        """Send more of the body, as one chunk."""
        self._pieces.append(data)
        self.queued_bytes += len(data)
        if self.queued_bytes > LOW_WATER:
            self._drained.clear()
        self._changed.set()

    def end(self) -> None:
        """The body is complete."""
        self._over = True
        self._changed.set()
        self._stop_body()

    def _begin(self, response: HttpResponse) -> None:
        if not self.head.done():
            self.head.set_result(response)

    # --- the request's body ----------------------------------------------------------------------------------------

    def take_body(self, stream: BodyStream) -> None:
        """Hand the body over as it arrives, while the client takes the answers."""
        self._body = asyncio.get_running_loop().create_task(self._take(stream))

    async def _take(self, stream: BodyStream) -> None:
        try:
            async for piece in stream:
                self.incoming.receive(piece)
                await asyncio.sleep(0)  # many pieces may be there, and each may hold thousands of messages
                await self._drained.wait()
            self.incoming.body_ended()
        except ConnectionError:  # the body broke off
            self.incoming.lost()
            self.respond(400, [], b"")
            self.end()
        except Exception as error:  # a bug: the connection reports it
            self.incoming.lost()
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._changed.set()
        if not self.head.done():
            self.head.set_exception(error)

    def _stop_body(self) -> None:
        if self._body is not None:
            self._body.cancel()

    # --- from the connection ---------------------------------------------------------------------------------------

    def __aiter__(self) -> "_Answer":
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._over:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        data = self._pieces.popleft()
        self.queued_bytes -= len(data)
        if self.queued_bytes <= LOW_WATER and not self._drained.is_set():
            self._drained.set()
            self.incoming.writable()
        return data

    async def aclose(self) -> None:
        """The connection has done with this answer, or is gone."""
        self._stop_body()
        self.incoming.lost()


def process_variables() -> Mapping[str, object]:
    """What this process tells of itself; of Go's memory statistics those that mean the same here."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    collections = gc.get_stats()
    return {
        "cmdline": sys.argv,
        "file_descriptor_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "memstats": {
            "Sys": usage.ru_maxrss * unit,
            "NumGC": sum(generation["collections"] for generation in collections),
        },
    }
