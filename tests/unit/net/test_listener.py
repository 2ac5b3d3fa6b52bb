"""Listeners that start and stop in one process, one after the other."""

import asyncio

from ratifyd.net.connection import Acceptor
from ratifyd.net.http1 import HttpRequest, HttpResponse
from ratifyd.net.listener import Listener


async def answer(_: HttpRequest) -> HttpResponse:
    return HttpResponse(204, [])


def test_a_listener_cancelled_as_it_starts_leaves_the_next_one_its_ears() -> None:
    """It gets the same descriptor, of which asyncio would still believe that it is watched."""

    async def main() -> None:
        for turns in range(4):
            first = Listener.bind("http://127.0.0.1:0", flag="x")
            serving = asyncio.create_task(first.serve(Acceptor(None, answer)))
            for _ in range(turns):
                await asyncio.sleep(0)
            serving.cancel()
            await asyncio.wait((serving,))
            first.close()
            second = Listener.bind("http://127.0.0.1:0", flag="x")
            await second.serve(Acceptor(None, answer))
            reader, writer = await asyncio.open_connection("127.0.0.1", second.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 204")
            writer.close()
            second.close()

    asyncio.run(main())
