"""A member for targets that need one: the server's own parts on the simulation's ports, alone or as one of three."""

import asyncio
import logging
from collections.abc import Callable
from random import Random
from typing import Any

from ratifyd.api.front import Access, ClientFront
from ratifyd.api.gateway import Gateway
from ratifyd.api.http import HttpPages
from ratifyd.api.session import Session
from ratifyd.wire.limits import Limits
from simulation.clock import MemberClock, SimClock
from simulation.machine import Machine, SimMember
from simulation.network import SimNetwork
from simulation.options import Options

LIMITS = Limits(max_concurrent_streams=100, max_message_bytes=100_000, max_http_body_bytes=100_000)
STEP_S = 0.02
READY_S = 5.0


class Died(Exception):
    """The member ended itself."""


class Unexpected(Exception):
    """Something was caught and logged that nothing documents."""


class FuzzLink:
    """A connection below a session, to a client that takes everything."""

    peer = "10.0.0.1:1"

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.over = False
        self.write = self.written.append

    def close(self) -> None:
        """Note it."""
        self.over = True

    abort = close

    def pause_reading(self) -> None:
        """Bytes come all the same: limits must hold without it."""

    resume_reading = pause_reading

    def write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0


class Errors(logging.Handler):
    """Exceptions that were caught at an edge and logged: each is a bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the exception."""
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(record.exc_info[1])

    def check(self) -> None:
        """Raise what was caught."""
        if self.found:
            error = self.found.pop()
            self.found.clear()
            raise Unexpected(repr(error)) from error


class Bench:
    """A member that serves. With `others`, it is one of three and hears of the others only what a target says."""

    def __init__(self, *, others: bool = False) -> None:
        self.clock = SimClock(0.0)
        self.options = Options(members=3 if others else 1, snapshot_count=10_000)
        network = SimNetwork(self.clock, self.options, Random("network"))
        machines = [Machine(number, network) for number in range(self.options.members)]
        for machine in machines:
            machine.founders = ",".join(f"{each.name}={each.url}" for each in machines)
        self.machine = machines[0]
        self.member = self._life()
        self.step(0.05)
        if not others:
            self._until(lambda: self.member.ready)

    def _life(self) -> SimMember:
        clock = MemberClock(self.clock, failed=self._failed)
        member = SimMember(self.machine, self.options, Random("life"), clock)
        self.machine.member = member
        member.start()
        return member

    def _failed(self, error: Exception) -> None:
        raise Died(repr(error)) from error

    def _until(self, condition: Callable[[], bool]) -> None:
        end = self.clock.now + READY_S
        while not condition():
            if self.clock.now >= end:
                raise Died("the member does not become ready")
            self.step()

    def step(self, seconds: float = STEP_S) -> None:
        """Let a little time pass; raises what ended the member."""
        self.clock.run_to(self.clock.now + seconds)
        if self.member.failure is not None:
            raise Died(repr(self.member.failure)) from self.member.failure

    def session(self) -> tuple[Session, FuzzLink]:
        """A connection of a client."""
        link = FuzzLink()
        return Session(self.member.server, self.member.routes, LIMITS, link, self.front()), link

    def front(self) -> ClientFront:
        """The HTTP side of the client port."""
        member = self.member
        gateway = Gateway(member.server, member.routes, max_message_bytes=LIMITS.max_message_bytes)
        return ClientFront(HttpPages(member.server, lambda: b""), gateway, Access(origins=("*",), hosts=("*",)))

    def receive(self, session: Session, data: bytes) -> None:
        """Bytes arrive, in the member's own time."""
        self.member.clock.run(session.receive, data)

    def finish(self) -> None:
        """The stores are sound, and the member comes up again from its log with the same content."""
        self.step(1.0)
        self.check()
        server = self.member.server
        before = (server.state.store.revision, server.members.sorted(), server.auth.revision)
        index = server.node.applied
        self.member.clock.dead = True
        self.machine.disk.abandon()
        self.member = self._life()
        self._until(lambda: self.member.server.node.applied >= index)
        self.check()
        server = self.member.server
        after = (server.state.store.revision, server.members.sorted(), server.auth.revision)
        assert after >= before if before[0] == after[0] else after[0] >= before[0], "a restart changes the state"

    def check(self) -> None:
        """The stores are sound."""
        self.member.state.store.check()
        self.member.state.leases.check()


class FakeTransport(asyncio.Transport):
    """A socket whose peer takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.over = False
        self._reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Whose callbacks to call from now on."""
        self.protocol: Any = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The peer's address."""
        return ("10.0.0.1", 1) if name == "peername" else default

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.over

    def close(self) -> None:
        """Note it."""
        self.over = True

    abort = close

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written.append(bytes(data))

    def can_write_eof(self) -> bool:
        """As sockets can."""
        return True

    def write_eof(self) -> None:
        """Nothing to do."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def pause_reading(self) -> None:
        """Note it."""
        self._reading = False

    def resume_reading(self) -> None:
        """Note it."""
        self._reading = True

    def is_reading(self) -> bool:
        """Whether bytes are wanted."""
        return self._reading
