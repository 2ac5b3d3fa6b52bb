"""A whole member: a client's connection as raw bytes, requests with any content, messages and changes of others.

What gets through is replicated, applied and, at the end of a batch, replayed by a member on the same disk.
"""

import struct
from collections.abc import Callable
from random import Random

from fuzzing.bench import Bench, Died
from fuzzing.mutate import frames, plain, protobuf
from fuzzing.target import Run, Target
from fuzzing.targets import peers, samples
from fuzzing.targets.wire import Script, check_output, frame
from ratifyd.peer.codec import StreamCorrupt, decode_peer_message
from ratifyd.peer.inbound import deliver, objection
from ratifyd.proto.services import METHODS
from ratifyd.raft.codec import encode_conf_change, encode_conf_change_v2, encode_message
from ratifyd.raft.log import LogLost
from ratifyd.raft.messages import ConfChange, Entry, EntryKind, Message
from ratifyd.wire.frames import PREFACE
from simulation.http2 import opening, request_block, wrap

_PATHS = [path.decode() for path in METHODS]
LOCAL_SEED = 4
"""Messages are made for members 1 and 2 and sent under the ids the cluster gave itself."""


class _Member:
    """What all of these have in common."""

    def __init__(self, *, others: bool = False) -> None:
        self.bench = Bench(others=others)

    def finish(self) -> None:
        """As `Bench.finish`."""
        self.bench.finish()


class _Session(_Member):
    """Raw bytes after the preface, on a connection of their own."""

    def __call__(self, data: bytes) -> None:
        bench = self.bench
        session, link = bench.session()
        bench.receive(session, PREFACE + frame(4, 0, 0, b""))
        third = max(1, len(data) // 3)
        for at in range(0, len(data), third):
            if link.over:
                break
            bench.receive(session, data[at : at + third])
            bench.step(0.005)
        bench.step(0.005)
        check_output(b"".join(link.written))
        bench.member.clock.run(session.closed)


def _real_conversations() -> list[bytes]:
    """Conversations of which some requests make sense."""
    messages = samples.requests()
    found = []
    for seed in range(40):
        random = Random(f"session {seed}")
        script = Script(random, lambda random: random.choice(_PATHS))
        pieces = []
        for number in range(1 + seed % 8):
            path, message = random.choice(messages)
            stream_id = 2 * number + 1
            pieces.append(frame(1, 4, stream_id, request_block(path)) + frame(0, 1, stream_id, wrap(message)))
        found.append(b"".join(pieces))
        found.append(b"".join(script.next() for _ in range(1 + seed)))
    return found


class _Requests(_Member):
    """A request of any method with any message. It may be refused or wait; it may not surprise."""

    def __init__(self) -> None:
        super().__init__()
        self._session, self._link = self.bench.session()
        self.bench.receive(self._session, opening())
        self._next = 1

    def __call__(self, data: bytes) -> None:
        bench, stream_id = self.bench, self._next
        self._next += 2
        path = _PATHS[data[0] % len(_PATHS) if data else 0]
        head = frame(1, 4, stream_id, request_block(path))
        whole = head + frame(0, 1, stream_id, wrap(data[1:][:16_000]))
        bench.receive(self._session, whole)
        bench.step(0.005)
        bench.receive(self._session, frame(3, 0, stream_id, struct.pack(">I", 8)))
        self._link.written.clear()
        if self._link.over:
            self._session, self._link = bench.session()
            bench.receive(self._session, opening())
            self._next = 1


def _request_seeds() -> list[bytes]:
    return [bytes((_PATHS.index(path),)) + message for path, message in samples.requests()]


class _PeerMessages(_Member):
    """Messages of the two others, as any byte makes them, to a member of three."""

    def __init__(self) -> None:
        super().__init__(others=True)
        server = self.bench.member.server
        self.local_id = server.member_id
        self._others = [member.id for member in server.members.sorted() if member.id != self.local_id] or [
            member for member in self.bench.member.raft.config.members if member != self.local_id
        ]

    def is_removed(self, member: int) -> bool:
        """Whether a member was removed."""
        return member in self.bench.member.server.members.removed

    def receive(self, messages: list[Message]) -> None:
        """As `embed.host.MemberHost`."""
        self.bench.member.server.node.receive(messages)

    def __call__(self, data: bytes) -> None:
        message = decode_peer_message(data)
        if message.to == peers.LOCAL:
            message.to = self.local_id
        if message.sender in (peers.REMOTE, peers.REMOTE + 1):
            message.sender = self._others[message.sender - peers.REMOTE]
        if objection(self, message) is None:  # type: ignore[arg-type]
            deliver(self, [message])  # type: ignore[arg-type]
        try:
            self.bench.step(0.03)
        except Died as died:
            if isinstance(died.__cause__, LogLost):
                raise died.__cause__ from died
            raise

    def finish(self) -> None:
        """The log that came about can be read again."""
        self.bench.member.clock.dead = True
        self.bench.machine.disk.abandon()
        self.bench.member = self.bench._life()
        self.bench.step(0.1)


def _message_seeds() -> list[bytes]:
    return [encode_message(message) for message in peers.messages()]


class _Changes(_Member):
    """Entries that change the members, with any content, in the log of a member alone."""

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        kind = EntryKind.CONF_CHANGE if data[0] & 3 else EntryKind.CONF_CHANGE_V2
        bench = self.bench
        node = bench.member.server.node
        entry = Entry(node.raft.term, node.applied, data[1:], kind)
        bench.member.clock.run(self._apply, entry)
        bench.check()

    def _apply(self, entry: Entry) -> None:
        # As if it had come next: its index is taken from the state, and raft counts on.
        node = self.bench.member.server.node
        node.state.consistent_index = entry.index - 1
        node._apply_conf_change(entry)
        assert self.bench.member.server.member_id in node.raft.config.voters or node.state.members.removed

    def finish(self) -> None:
        """The members it came to can be stored and read again."""
        members = self.bench.member.server.members
        for member in members.sorted():
            assert type(member).from_json(member.to_json()) == member


def _change_seeds() -> list[bytes]:
    return [
        b"\1" + encode_conf_change(change) if isinstance(change, ConfChange) else b"\0" + encode_conf_change_v2(change)
        for change in peers.CHANGES
    ]


def _stateful(
    name: str,
    seeds: Callable[[], list[bytes]],
    start: Callable[[], Run],
    shapes: tuple[Callable[[Random, bytes, bytes], bytes], ...],
    *,
    batch: int,
    sample: int,
    errors: tuple[type[Exception], ...] = (),
) -> Target:
    return Target(name, seeds, start, errors, shapes, batch=batch, keeps_state=True, sample=sample)


TARGETS = (
    _stateful("session", _real_conversations, _Session, (plain, frames, frames), batch=100, sample=250),
    _stateful("requests", _request_seeds, _Requests, (plain, protobuf, protobuf), batch=200, sample=500),
    _stateful(
        "peer_messages",
        _message_seeds,
        _PeerMessages,
        (plain, protobuf, protobuf),
        batch=100,
        sample=400,
        errors=(StreamCorrupt, LogLost),
    ),
    _stateful("member_changes", _change_seeds, _Changes, (plain, protobuf, protobuf), batch=100, sample=600),
)
