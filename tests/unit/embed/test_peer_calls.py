"""Calls to other members: whatever they answer, whoever asked is told, and no failure is silent."""

import asyncio
from typing import Any, cast

import pytest

from ratifyd.embed.host import ClientCalls
from ratifyd.embed.joining import _version
from ratifyd.membership import Member
from ratifyd.peer.client import Answer, PeerClient

URLS = ("http://a:1", "http://b:1")
VERSION = b'{"etcdserver":"3.5.1","etcdcluster":"3.5.0"}'


class Client:
    """A `PeerClient` that gives what was prepared, or raises it."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)

    async def request(self, *_: Any, **__: Any) -> Answer:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Answer(200, {}, answer)

    get = request


def call(client: Client, done: Any) -> None:
    async def main() -> None:
        calls = ClientCalls(cast(PeerClient, client))
        calls.call(URLS, "GET", "/version", b"", 1.0, done)
        async with asyncio.timeout(5):
            while calls._tasks:
                await asyncio.sleep(0)

    asyncio.run(main())


def test_what_fails_behind_an_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def done(status: int, body: bytes) -> None:
        raise KeyError("a bug")

    call(Client(VERSION), done)
    assert [record.name for record in caplog.records] == ["ratifyd.embed"]
    assert "a bug" in caplog.text


def test_a_call_that_fails_in_an_unforeseen_way_is_answered_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[int, bytes]] = []
    call(Client(KeyError("a bug"), VERSION), lambda *answer: told.append(answer))
    call(Client(KeyError("a bug"), KeyError("another")), lambda *answer: told.append(answer))
    assert told == [(200, VERSION), (0, b"")]
    assert "a bug" in caplog.text and "another" in caplog.text


@pytest.mark.parametrize("odd", [b"[]", b'{"etcdcluster":3.5}', b'{"etcdcluster":"not_decided"}', b"[" * 100_000])
def test_a_url_that_tells_no_version_is_passed_over_by_who_joins(odd: bytes) -> None:
    member = Member(1, URLS)
    assert asyncio.run(_version(cast(PeerClient, Client(odd, VERSION)), member)) == (3, 5)
    assert asyncio.run(_version(cast(PeerClient, Client(odd, odd)), member)) is None
