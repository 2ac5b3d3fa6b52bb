"""Host names in URLs, looked up off the loop and again each second: the name of a pod that starts may not be known yet.

Nothing is kept: a name that has no address now may have one, or another one, at the next question.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ratifyd.config.values import parse_url, quote, show_duration, split_host_port
from ratifyd.storage.worker import ThreadWorker

log = logging.getLogger("ratifyd.embed")


class Unresolved(Exception):
    """A host name that could not be looked up; the text names it, and why."""


def look_up(host: str) -> str:
    """One address of a host, of several always the same. Raises OSError; ValueError where none can be called so."""
    return min(str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))


class Lookups(NamedTuple):
    """How names are looked up, and for how long in all."""

    look_up: Callable[[str], str] = look_up
    patience_s: float = 30.0
    retry_s: float = 1.0


PATIENT = Lookups()
"""As etcd does."""


async def with_addresses(urls: Iterable[str], lookups: Lookups = PATIENT) -> dict[str, str]:
    """Each of `urls` with an IP address in the place of its host name; what is no such URL stays. Raises Unresolved."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + lookups.patience_s
    worker = ThreadWorker(loop, name="names")
    try:
        return {url: await _with_address(worker, url, deadline, lookups) for url in urls}
    finally:
        worker.abandon()  # a name server that is silent keeps it for long, and nobody should wait for that


async def _with_address(worker: ThreadWorker, url: str, deadline: float, lookups: Lookups) -> str:
    try:
        scheme, address, path = parse_url(url)
        if scheme.startswith("unix"):
            return url
        host, port = split_host_port(address)
    except ValueError:  # another member may name anything
        return url
    fields = {"url": url, "host": address, "retry-interval": show_duration(lookups.retry_s)}
    while True:
        try:
            return f"{scheme}://{await _answer(worker, host, deadline, lookups.look_up)}:{port}{path}"
        except ValueError:
            return url
        except OSError as error:
            reason = f"lookup {host}: {error.strerror or 'timed out'}"
        log.warning("failed to resolve URL Host", extra={"fields": fields | {"error": reason}})
        if asyncio.get_running_loop().time() + lookups.retry_s >= deadline:
            raise Unresolved(f"failed to resolve {quote(url)} ({reason})")
        await asyncio.sleep(lookups.retry_s)


async def _answer(worker: ThreadWorker, host: str, deadline: float, ask: Callable[[str], str]) -> str:
    answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def done(address: str | None, error: BaseException | None) -> None:
        if answered.done():
            return  # nobody waits any more
        if error is not None:
            answered.set_exception(error)
        elif address is not None:
            answered.set_result(address)

    worker.submit(lambda: ask(host), done)
    async with asyncio.timeout_at(deadline):
        return await answered
