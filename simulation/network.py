"""The network between members: raft messages as bytes, snapshots, peer requests; late, lost, twice, or not at all.

`SimTransport` and `SimCalls` are one process's ports on it. Nothing here knows what the messages mean, with one
exception: a forwarded proposal is never doubled, for the connections between members cannot do that either, and raft
would rightly append it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ratifyd.raft.codec import decode_message, encode_message
from ratifyd.raft.messages import Message, MessageKind
from simulation.clock import SimClock
from simulation.images import Transfer
from simulation.situations import Situations

if TYPE_CHECKING:
    from simulation.machine import Machine
    from simulation.options import Options

SILENCE_S = 5.0
"""After so long without a word a connection counts as lost (rafthttp's read timeout)."""
BYTES_PER_S = 20_000_000


class SimNetwork:
    """All links, by the machines' numbers. A link is blocked while anything blocks it."""

    def __init__(self, clock: SimClock, options: Options, random: Random) -> None:
        self.clock = clock
        self.options = options
        self.random = random
        self.machines: list[Machine] = []
        self.faulty = True
        self._lossy = options.loss > 0
        self._doubling = options.duplicate > 0
        self._least_s = options.delay_min_s
        self._spread_s = options.delay_max_s - options.delay_min_s
        self._draw = random.random
        self.digest = 0
        self.sent = self.lost = 0
        self._blocked: dict[tuple[int, int], int] = {}
        self._slow: dict[tuple[int, int], float] = {}
        self._last: dict[tuple[int, int], float] = {}
        self.trace: Callable[[str], None] | None = None
        self.situations = Situations()

    # --- what faults do --------------------------------------------------------------------------------------------

    def block(self, sender: int, receiver: int) -> None:
        """Let nothing through from one machine to another, until `unblock` is called as often."""
        self._blocked[sender, receiver] = self._blocked.get((sender, receiver), 0) + 1

    def unblock(self, sender: int, receiver: int) -> None:
        """Take back one `block`."""
        left = self._blocked.get((sender, receiver), 0) - 1
        if left > 0:
            self._blocked[sender, receiver] = left
        else:
            self._blocked.pop((sender, receiver), None)

    def slow(self, sender: int, receiver: int, seconds: float) -> None:
        """Add a delay to a link; 0 takes it away."""
        self._slow[sender, receiver] = seconds

    def heal(self) -> None:
        """No more faults of any kind."""
        self.faulty = self._lossy = self._doubling = False
        self._blocked.clear()
        self._slow.clear()

    def is_blocked(self, sender: int, receiver: int) -> bool:
        return (sender, receiver) in self._blocked

    def machine_at(self, url: str) -> Machine | None:
        """Whose peer URL this is, whatever the port."""
        host = url.rpartition(":")[0]
        return next((machine for machine in self.machines if machine.url.rpartition(":")[0] == host), None)

    # --- transport -------------------------------------------------------------------------------------------------

    def delay(self, sender: int, receiver: int, size: int) -> float:
        """How long something takes; in order, unless the network reorders."""
        draw = self._draw
        link = (sender, receiver)
        seconds = self._least_s + draw() * self._spread_s
        if self._slow:
            seconds += self._slow.get(link, 0.0) + size / BYTES_PER_S
        else:
            seconds += size / BYTES_PER_S
        if self.faulty:
            options = self.options
            if draw() < options.delay_tail:
                seconds += draw() * options.delay_tail_s
            if options.reorder:
                return seconds
        now = self.clock.now
        arrival, earliest = now + seconds, self._last.get(link, 0.0) + 1e-6
        if arrival < earliest:
            arrival = earliest
        self._last[link] = arrival
        return arrival - now

    def drops(self, sender: int, receiver: int) -> bool:
        """Whether what is sent now gets lost."""
        if (sender, receiver) in self._blocked:
            return True
        return self._lossy and self.random.random() < self.options.loss

    def send(self, sender: int, receiver: int, datas: list[bytes], *, twice: bool) -> bool:
        """Send raft messages that leave together; False when they are lost."""
        self.sent += len(datas)
        if self.drops(sender, receiver):
            self.lost += len(datas)
            return False
        size = sum(map(len, datas)) if len(datas) > 1 else len(datas[0])
        self.clock.call_later(self.delay(sender, receiver, size), self._arrive, sender, receiver, datas)
        if twice and self._doubling and self.random.random() < self.options.duplicate:
            self.clock.call_later(self.delay(sender, receiver, 0), self._arrive, sender, receiver, datas)
        return True

    def _arrive(self, sender: int, receiver: int, datas: list[bytes]) -> None:
        if (sender, receiver) in self._blocked:
            self.lost += len(datas)
            return
        member = self.machines[receiver].member
        if member is None:
            return
        digest = self.digest
        for data in datas:
            digest = crc32(data, digest)
        self.digest = digest + sender + receiver + int(self.clock.now * 1e6)
        if self.trace is not None:
            for data in datas:
                self.trace(f"{sender}->{receiver} {describe(decode_message(data))}")
        member.clock.run(member.transport.deliver, sender, datas)

    def note(self, what: bytes) -> None:
        """Mix something into the digest of the run."""
        self.digest = crc32(what, self.digest) + int(self.clock.now * 1e6)


def describe(message: Message) -> str:
    """A message in a line."""
    text = f"{message.kind.name} term {message.term}"
    if message.kind in (MessageKind.APP, MessageKind.APP_RESP):
        text += f" index {message.index} logterm {message.log_term}"
    if message.entries:
        text += f" entries {[(entry.term, entry.index) for entry in message.entries][:6]}"
    if message.commit:
        text += f" commit {message.commit}"
    if message.snapshot is not None:
        text += f" snapshot {message.snapshot.meta.index}/{message.snapshot.meta.term}"
    return text + (f" REJECT hint {message.reject_hint}" if message.reject else "")


class SimTransport:
    """`ports.Transport` of one process."""

    def __init__(self, network: SimNetwork, machine: Machine) -> None:
        self._network = network
        self._machine = machine
        self._peers: dict[int, int] = {}
        self._since: dict[int, float] = {}
        self._heard: dict[int, float] = {}
        self._transfers: dict[int, Transfer] = {}

    # --- out -------------------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[Message]) -> None:
        """Send each message to the member it names, those to one member together unless the network reorders."""
        peers = self._peers
        batches: dict[int, list[bytes]] = {}
        proposals: list[int] = []
        for message in messages:
            receiver = peers.get(message.to)
            if receiver is None:
                continue
            data = encode_message(message)
            if receiver in batches:
                batches[receiver].append(data)
            else:
                batches[receiver] = [data]
            if message.kind is MessageKind.PROP:
                proposals.append(receiver)
        network, local = self._network, self._machine.number
        reorder = network.options.reorder
        for receiver, datas in batches.items():
            twice = receiver not in proposals
            if reorder:
                for data in datas:
                    if not network.send(local, receiver, [data], twice=twice):
                        self._lost(receiver)
            elif not network.send(local, receiver, datas, twice=twice) or network.machines[receiver].member is None:
                self._lost(receiver)

    def _lost(self, receiver: int) -> None:
        member = self._machine.member
        remote = self._network.machines[receiver].member_id
        if member is None:
            return
        if self._heard.get(remote, 0.0) < member.clock.time() - SILENCE_S:
            self._since.pop(remote, None)
        if self._network.random.random() < 0.3:
            member.clock.call_soon(self._unreachable, remote)

    def _unreachable(self, remote: int) -> None:
        member = self._machine.member
        if member is not None:
            self._since.pop(remote, None)
            member.server.node.raft.report_unreachable(remote)
            member.server.node.wake()

    def send_snapshot(
        self, message: Message, size: int, open_image: Callable[[], Iterator[bytes]], done: Callable[[bool], None]
    ) -> None:
        """Send a snapshot with its image; `done` follows."""
        network, member = self._network, self._machine.member
        assert member is not None
        if member.raft.pending_conf_index > member.raft.log.applied:
            network.situations.seen("snapshot: sent while the membership changes")

        def ended(ok: bool) -> None:
            self._transfers.pop(message.to, None)
            done(ok)
            member.server.node.raft.report_snapshot(message.to, ok)
            member.server.node.wake()

        assert message.to not in self._transfers, "the server sends one at a time"
        transfer = self._transfers[message.to] = Transfer(network, member, message, size, open_image(), ended)
        transfer.begin(self._peers.get(message.to))

    def close(self) -> None:
        """The process has died: those who receive its images hear of it, or never."""
        for transfer in list(self._transfers.values()):
            if self._network.random.random() < 0.5:
                transfer.broken()

    # --- in --------------------------------------------------------------------------------------------------------

    def deliver(self, sender: int, datas: list[bytes]) -> None:
        """Take what has arrived, as the endpoints do: not from members that were removed, not for somebody else."""
        member = self._machine.member
        assert member is not None
        remote = self._network.machines[sender]
        remote_id = remote.member_id
        if remote_id in member.state.members.removed:
            self._network.situations.seen("members: one that was removed comes back and hears of it")
            self._network.clock.call_later(0.01, remote.told_removed)
            return
        now = member.clock.time()
        self._heard[remote_id] = now
        if remote_id not in self._peers:
            self.add_remote(remote_id, (remote.url,))  # streams of strangers name their URLs in X-PeerURLs
        if remote_id not in self._since:
            self._since[remote_id] = now
        local_id = member.raft.id
        member.server.node.receive([message for data in datas if (message := decode_message(data)).to == local_id])

    def dial(self) -> None:
        """Have streams to all members that are known, as rafthttp has: one that has removed this one says so."""
        network, local = self._network, self._machine
        for number in self._peers.values():
            other = network.machines[number].member
            if (
                other is not None
                and local.member_id in other.state.members.removed
                and not other.clock.paused
                and not network.is_blocked(local.number, number)
                and not network.is_blocked(number, local.number)
            ):
                network.clock.call_later(network.options.delay_max_s, local.told_removed)

    # --- members ---------------------------------------------------------------------------------------------------

    def add_peer(self, member_id: int, urls: Sequence[str]) -> None:
        self._know(member_id, urls)

    def remove_peer(self, member_id: int) -> None:
        self._peers.pop(member_id, None)
        self._since.pop(member_id, None)
        if member_id in self._transfers:
            self._transfers[member_id].cancel()

    def update_peer(self, member_id: int, urls: Sequence[str]) -> None:
        if member_id in self._peers:
            self._know(member_id, urls)

    def add_remote(self, member_id: int, urls: Sequence[str]) -> None:
        self._know(member_id, urls)

    def active_since(self, member_id: int) -> float | None:
        member = self._machine.member
        if member is not None and self._heard.get(member_id, 0.0) < member.clock.time() - SILENCE_S:
            self._since.pop(member_id, None)
        return self._since.get(member_id)

    def _know(self, member_id: int, urls: Sequence[str]) -> None:
        for url in urls:
            machine = self._network.machine_at(url)
            if machine is not None:
                self._peers[member_id] = machine.number


class SimRequest:
    """A request to the peer port's pages."""

    def __init__(self, method: str, path: str, body: bytes, headers: Sequence[tuple[str, str]]) -> None:
        self.method = method
        self.path = path
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body


class SimCalls:
    """`ports.PeerCalls` of one process."""

    def __init__(self, network: SimNetwork, machine: Machine) -> None:
        self._network = network
        self._machine = machine

    def call(
        self,
        urls: Sequence[str],
        method: str,
        path: str,
        body: bytes,
        timeout_s: float,
        done: Callable[[int, bytes], None],
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Ask the first URL that leads somewhere."""
        network, local, member = self._network, self._machine.number, self._machine.member
        assert member is not None
        clock = member.clock
        over = False

        def ended(status: int, answer: bytes) -> None:
            nonlocal over
            if not over:
                over = True
                done(status, answer)

        target = next((machine for url in urls if (machine := network.machine_at(url)) is not None), None)
        if target is None or target.member is None:
            clock.call_later(0.001, ended, 0, b"")
            return
        remote = target.number

        def answer(status: int, _headers: Any, answered: bytes) -> None:
            if not network.drops(remote, local):
                network.clock.call_later(network.delay(remote, local, 0), clock.run, ended, status, answered)

        def arrive() -> None:
            other = target.member
            if other is not None and not network.is_blocked(local, remote):
                request = SimRequest(method, path, body, headers)
                other.clock.run(other.pages.handle, request, answer, lambda: not over)

        clock.call_later(timeout_s, ended, 0, b"")
        if not network.drops(local, remote):
            network.clock.call_later(network.delay(local, remote, 0), arrive)
