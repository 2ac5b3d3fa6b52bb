"""Names in URLs, with a name server of our own: asked again until it answers, never for longer than somebody waits."""

import asyncio
import logging
import threading
from collections.abc import Callable

import pytest

from ratifyd.config import Config
from ratifyd.embed.joining import JoinRefused, initial_members
from ratifyd.embed.resolving import Lookups, Unresolved, with_addresses

IP = "http://10.0.0.1:2380"
NAME = "http://pod:2380"


class NameServer:
    """Knows `pod` after some questions; an IP address answers for itself."""

    def __init__(self, known_after: int = 0) -> None:
        self.asked: list[str] = []
        self._known_after = known_after

    def __call__(self, host: str) -> str:
        assert threading.current_thread() is not threading.main_thread()
        self.asked.append(host)
        if host[0].isdigit():
            return host
        if self.asked.count(host) <= self._known_after:
            raise OSError(-2, "Name or service not known")
        return "10.0.0.1"


def lookups(answer: Callable[[str], str], patience_s: float = 10.0) -> Lookups:
    return Lookups(answer, patience_s=patience_s, retry_s=0.001)


def own(listed: str, advertised: str, how: Lookups) -> str:
    """Why a member that is listed with other URLs than it advertises does not begin a cluster."""
    cluster = ",".join(f"a={url}" for url in listed.split())
    config = Config(name="a", initial_cluster=cluster, initial_advertise_peer_urls=tuple(advertised.split()))
    try:
        members = asyncio.run(initial_members(config, how))
    except JoinRefused as refused:
        return str(refused)
    assert sorted(members["a"]) == sorted(listed.split())
    return ""


def test_equal_texts_are_not_looked_up() -> None:
    server = NameServer()
    assert not own(f"{NAME} http://b:1", f"http://b:1 {NAME}", lookups(server))
    assert not server.asked


def test_a_name_is_looked_up_until_it_is_known(caplog: pytest.LogCaptureFixture) -> None:
    server = NameServer(known_after=3)
    assert not own(NAME, IP, lookups(server))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == ["failed to resolve URL Host"] * 3
    assert warnings[0].__dict__["fields"] == {
        "url": NAME,
        "host": "pod:2380",
        "retry-interval": "1ms",
        "error": "lookup pod: Name or service not known",
    }


def test_a_name_that_stays_unknown_is_named() -> None:
    refused = own(NAME, IP, Lookups(NameServer(known_after=1), patience_s=5, retry_s=10))
    assert refused.startswith(
        f"--initial-cluster has a={NAME} but missing from --initial-advertise-peer-urls={IP} "
        f'(failed to resolve "{NAME}" (lookup pod: Name or service not known))'
    )


def test_a_silent_name_server_is_given_up() -> None:
    held = threading.Event()
    try:
        refused = own(NAME, "http://other:2380", lookups(lambda _: str(held.wait(30)), patience_s=0.05))
    finally:
        held.set()
    assert '(failed to resolve "http://other:2380" (lookup other: timed out))' in refused


def test_other_addresses_are_refused() -> None:
    assert f'(resolved urls: "http://10.0.0.2:2380" != "{IP}")' in own(
        NAME, "http://10.0.0.2:2380", lookups(NameServer())
    )


def test_two_names_of_one_address_are_two_urls() -> None:
    server = NameServer()
    assert f'--initial-advertise-peer-urls={IP} (len(["{IP}"]) != len(["{IP}" "{NAME}"]))' in own(
        f"{IP} {NAME}", IP, lookups(server)
    )
    assert "but missing from --initial-cluster" in own(IP, f"{IP} {NAME}", lookups(server))
    assert not server.asked


def test_failures_are_not_kept() -> None:
    async def main() -> None:
        server = NameServer(known_after=1)
        with pytest.raises(Unresolved):
            await with_addresses([NAME], Lookups(server, patience_s=5, retry_s=10))
        assert await with_addresses([NAME], lookups(server)) == {NAME: IP}

    asyncio.run(main())


def test_what_is_no_url_of_a_host_stays() -> None:
    def none(host: str) -> str:
        raise UnicodeError(host)

    urls = ["", ":", "nonsense://", "unix:///a/b", "http://[::1", "http://a..b:1"]
    assert asyncio.run(with_addresses(urls, lookups(none))) == {url: url for url in urls}


def test_the_loop_turns_and_may_end_while_a_name_server_is_silent() -> None:
    async def main() -> None:
        asked, held, ended = asyncio.Event(), threading.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def silent(_: str) -> str:
            loop.call_soon_threadsafe(asked.set)
            held.wait(30)
            ended.set()
            return "10.0.0.1"

        waiting = asyncio.create_task(with_addresses([NAME], lookups(silent)))
        await asyncio.wait_for(asked.wait(), 10)
        waiting.cancel()
        await asyncio.wait((waiting,), timeout=10)
        assert waiting.cancelled()
        assert not ended.is_set()
        held.set()
        assert await asyncio.to_thread(ended.wait, 10)

    asyncio.run(main())
