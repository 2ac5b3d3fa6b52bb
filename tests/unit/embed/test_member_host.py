"""What becomes of an image once raft has seen the message that it came with."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from ratifyd.embed.host import MemberHost
from ratifyd.embed.received import ReceivedFiles
from ratifyd.metrics import Metrics
from ratifyd.raft.messages import ConfState, Message, MessageKind, Snapshot, SnapshotMeta
from ratifyd.storage.snapshots import received_name
from tests.support_member import DIR, Member


class Saved(ReceivedFiles):
    """Images come at once, and are names."""

    async def save(self, message: Message, body: AsyncIterator[bytes], deliver: Callable[[], object]) -> None:
        assert message.snapshot is not None
        self._disk.open(f"{DIR.snap}/{received_name(message.snapshot.meta.index)}", create=True)
        deliver()


async def nothing() -> AsyncIterator[bytes]:
    yield b""


def host_of(member: Member) -> MemberHost:
    unused: Any = None
    received = Saved(member.machine.disk, DIR.snap, unused, unused, unused, unused, Metrics(), fsync=True)
    host = MemberHost(member.state.members, (), member.metrics, received)
    host.server = member.server
    return host


def images(member: Member) -> list[str]:
    return [name for name in member.machine.disk.list(DIR.snap) if ".snap.db" in name]


def send(host: MemberHost, member: Member, index: int, term: int) -> None:
    snapshot = Snapshot(SnapshotMeta(index, term, ConfState((member.raft.id,))), b"")
    message = Message(MessageKind.SNAP, to=member.raft.id, sender=9, term=term, snapshot=snapshot)
    asyncio.run(host.save_snapshot(message, nothing()))
    member.clock.run()


def test_one_that_raft_does_not_want_goes_however_far_ahead_it_is() -> None:
    member = Member(stepped=True).start()
    host = host_of(member)
    for index in (200, 300):
        send(host, member, index, member.raft.term - 1)
    assert member.raft.log.snapshot is None and not images(member)


def test_one_that_raft_wants_stays_and_those_after_it_do_not() -> None:
    member = Member(stepped=True).start()
    host = host_of(member)
    term = member.raft.term + 1
    send(host, member, 200, term)
    assert member.raft.log.snapshot is not None
    send(host, member, 300, term - 1)
    send(host, member, 100, term)
    send(host, member, 200, term)
    assert images(member) == [received_name(200)]


def test_one_that_is_being_installed_stays_when_raft_has_another(monkeypatch: Any) -> None:
    member = Member(stepped=True).start()
    host = host_of(member)
    term = member.raft.term + 1
    send(host, member, 200, term)
    send(host, member, 300, term)
    monkeypatch.setattr(member.server.installer, "_snapshot", Snapshot(SnapshotMeta(200, term), b""))
    monkeypatch.setattr(member.server.installer, "_fresh", member.state)
    send(host, member, 200, term)
    assert images(member) == [received_name(200), received_name(300)]
