"""Users at work while members fail: who may write does, who may not tries, and rights come and go.

Each client logs in where it happens to be and goes to the next member when one fails it. What must hold:

- what was acknowledged to a user is there, at its revision;
- nothing that is refused to somebody ever happens, through whichever member it is asked for, however far behind;
- a right that was acknowledged as given counts at once everywhere, one that was acknowledged as taken does no more,
  not even for a write that was on its way.
"""

import itertools
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from harness import stubs
from harness.clusters import Cluster, wait_for
from harness.users import READWRITE, Metadata, enable_auth, login
from ratifyd.keys import prefix_end
from ratifyd.proto import auth_pb2, rpc_pb2
from tests.cluster.workload import RETRY_S, explained

CALL_TIMEOUT_S = 4.0
PAUSE_S = 0.005
DENIED = "etcdserver: permission denied"
NOBODY = "etcdserver: user name is empty"
OLD_REVISION = "etcdserver: revision of auth store is old"
INVALID_TOKEN = "etcdserver: invalid auth token"
NOT_GRANTED = "etcdserver: permission is not granted to the role"
RENEW = frozenset({INVALID_TOKEN, OLD_REVISION})
"""Refusals after which a client logs in again; what was asked for has not happened."""
SECRET, FLIP = b"secret/", b"flip/"
WRITERS = ("anna", "bert")
Call = Callable[[stubs.Client, Metadata], Any]


class Unknown(Exception):
    """A call without an answer that tells whether it happened."""


class Person(ABC):
    """A user's client in a thread of its own."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.problems: list[str] = []
        self._number = number
        self._token: Metadata = ()
        self._client: stubs.Client
        self._endpoints: Iterator[str]

    @abstractmethod
    def step(self) -> None:
        """One round of calls; Unknown ends it."""

    def run(self, endpoints: Sequence[str], stop: threading.Event) -> None:
        """Go on until told to stop."""
        first = self._number % len(endpoints)
        self._endpoints = itertools.cycle([*endpoints[first:], *endpoints[:first]])
        self._client = stubs.Client(next(self._endpoints))
        while not stop.wait(PAUSE_S):
            try:
                self.step()
            except Unknown:
                stop.wait(RETRY_S)
        self._client.close()

    def ask(self, call: Call) -> Any:
        """The answer, or the text of the refusal. Raises Unknown, and goes to the next member then."""
        while True:
            try:
                if not self._token:
                    self._token = login(self._client, self.name)
                return call(self._client, self._token)
            except grpc.RpcError as error:
                if error.details() in RENEW:
                    self._token = ()
                elif not explained(error):
                    return str(error.details())
                else:
                    self._client.close()
                    self._client = stubs.Client(next(self._endpoints))
                    raise Unknown from error

    def insist(self, call: Call) -> tuple[Any, bool]:
        """Ask until there is an answer; and whether the first attempt had one."""
        sure = True
        while True:
            try:
                return self.ask(call), sure
            except Unknown:
                sure = False
                threading.Event().wait(RETRY_S)

    def hop(self) -> None:
        """Go to the next member of one's own accord."""
        self._client.close()
        self._client = stubs.Client(next(self._endpoints))


def put(key: bytes, value: bytes = b"v") -> Call:
    request = rpc_pb2.PutRequest(key=key, value=value)
    return lambda client, token: client.kv.Put(request, metadata=token, timeout=CALL_TIMEOUT_S)


def read(key: bytes) -> Call:
    request = rpc_pb2.RangeRequest(key=key)
    return lambda client, token: client.kv.Range(request, metadata=token, timeout=CALL_TIMEOUT_S)


class Writer(Person):
    """Writes keys of its own."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name, number)
        self.acknowledged: dict[bytes, int] = {}
        self._count = 0

    def step(self) -> None:
        self._count += 1
        key = b"%s/%d" % (self.name.encode(), self._count)
        answer = self.ask(put(key))
        if isinstance(answer, str):
            self.problems.append(f"{self.name} may write {key!r}: {answer}")
        else:
            self.acknowledged[key] = answer.header.revision


class Intruder(Person):
    """Tries what it may not, as itself, as nobody and with a token it has made up."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name, number)
        self.refusals = 0
        self._random = random.Random(number)

    def step(self) -> None:
        if self._random.random() < 0.1:
            self.hop()
        act = self._random.choice(self._acts)
        who = self._random.random()
        if who < 0.6:
            answer = self.ask(lambda client, token: act(client, token))
        else:
            shown: Metadata = () if who < 0.8 else (("token", "abcdefghijklmnop.5"),)
            answer = self._as_nobody(act, shown)
        if isinstance(answer, str):
            self.refusals += 1
            if answer not in (DENIED, NOBODY, INVALID_TOKEN):
                self.problems.append(f"an odd refusal: {answer}")
        else:
            self.problems.append(f"an intruder was let in: {answer}")

    def _as_nobody(self, act: Call, shown: Metadata) -> Any:
        try:
            return act(self._client, shown)
        except grpc.RpcError as error:
            if explained(error):
                self.hop()
                raise Unknown from error
            return str(error.details())

    @property
    def _acts(self) -> list[Call]:
        secret, end = SECRET + b"x", prefix_end(SECRET)
        reading = rpc_pb2.RangeRequest(key=SECRET, range_end=end, serializable=self._random.random() < 0.5)
        writing = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=secret, value=b"stolen"))
        own = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"eve/x"))
        peek = rpc_pb2.Compare(key=secret, target=rpc_pb2.Compare.CompareTarget.VERSION)
        looking = rpc_pb2.RequestOp(request_range=reading)
        removing = rpc_pb2.DeleteRangeRequest(key=b"a", range_end=b"z")
        txns = (
            rpc_pb2.TxnRequest(success=[own], failure=[writing]),
            rpc_pb2.TxnRequest(compare=[peek], success=[own]),
            rpc_pb2.TxnRequest(success=[looking]),
        )
        become = rpc_pb2.AuthUserGrantRoleRequest(user=self.name, role="root")

        def bound(service: str, method: str, request: Any) -> Call:
            return lambda client, token: getattr(getattr(client, service), method)(
                request, metadata=token, timeout=CALL_TIMEOUT_S
            )

        return [
            put(secret, b"stolen"),
            bound("kv", "Range", reading),
            bound("kv", "DeleteRange", removing),
            *(bound("kv", "Txn", txn) for txn in txns),
            bound("auth", "UserGrantRole", become),
            bound("auth", "AuthDisable", rpc_pb2.AuthDisableRequest()),
        ]


class Flipper(Person):
    """As root gives a user a right to a key and takes it away again; as that user tries it each time."""

    def __init__(self, number: int) -> None:
        super().__init__("root", number)
        self.user = Guest("flip", number + 1)
        self.after: dict[bytes, int] = {}
        """Where the keys were when the right to them had gone for good: they must not move any more."""
        self._count = 0

    def run(self, endpoints: Sequence[str], stop: threading.Event) -> None:
        self.user.begin(endpoints)
        super().run(endpoints, stop)
        self.user.end()

    def step(self) -> None:
        self._count += 1
        key = FLIP + b"%d" % self._count
        permission = auth_pb2.Permission(permType=READWRITE, key=key)
        give = rpc_pb2.AuthRoleGrantPermissionRequest(name="flip", perm=permission)
        take = rpc_pb2.AuthRoleRevokePermissionRequest(role="flip", key=key)
        answer, given_once = self.insist(
            lambda client, token: client.auth.RoleGrantPermission(give, metadata=token, timeout=CALL_TIMEOUT_S)
        )
        self._expect(not isinstance(answer, str), f"root may give rights: {answer}")
        for call in (put(key), read(key)):
            answer, _ = self.user.insist(call)
            self._expect(not isinstance(answer, str), f"{key!r} was allowed: {answer}")
            self.user.hop()
        answer, taken_once = self.insist(
            lambda client, token: client.auth.RoleRevokePermission(take, metadata=token, timeout=CALL_TIMEOUT_S)
        )
        self._expect(
            not isinstance(answer, str) or (not taken_once and answer == NOT_GRANTED),
            f"root may take rights: {answer}",
        )
        if given_once:  # else the right may be given once more, by an attempt that nobody waits for
            for call in (put(key, b"late"), read(key)):
                answer, _ = self.user.insist(call)
                self._expect(answer == DENIED, f"{key!r} was forbidden: {answer}")
                self.user.hop()
            found, _ = self.insist(read(key))
            self.after[key] = found.kvs[0].mod_revision if found.kvs else 0
        self.hop()

    def _expect(self, holds: bool, text: str) -> None:
        if not holds:
            self.problems.append(text)


class Guest(Person):
    """The user whose rights come and go; asks in its host's thread."""

    def begin(self, endpoints: Sequence[str]) -> None:
        first = self._number % len(endpoints)
        self._endpoints = itertools.cycle([*endpoints[first:], *endpoints[:first]])
        self._client = stubs.Client(next(self._endpoints))

    def step(self) -> None:
        """Does nothing by itself."""

    def end(self) -> None:
        self._client.close()


class AuthLoad:
    """All of them at once against all members of a cluster; takes the place of `Load` in a fault."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._writers = [Writer(name, number) for number, name in enumerate(WRITERS)]
        self._intruders = [Intruder("eve", number) for number in range(2)]
        self._flipper = Flipper(1)

    @property
    def _people(self) -> list[Person]:
        return [*self._writers, *self._intruders, self._flipper]

    def prepare(self) -> None:
        """Users, a secret, auth on; the harness shows a token of root from then on."""
        rights = {name: ((READWRITE, b"%s/" % name.encode(), b"%s0" % name.encode()),) for name in WRITERS}
        with stubs.Client(self.cluster.leader().client_endpoint) as client:
            client.kv.Put(rpc_pb2.PutRequest(key=SECRET + b"x", value=b"hidden"))
            enable_auth(client, **rights, eve=((READWRITE, b"eve/", b"eve0"),), flip=())
            self.show(login(client, "root"))
        self.cluster.wait_equal()

    def show(self, root: Metadata) -> None:
        """What the harness shows."""
        for member in self.cluster.members:
            member.metadata = root

    @contextmanager
    def running(self) -> Iterator[None]:
        """Everybody is at work during the block."""
        endpoints = [member.client_endpoint for member in self.cluster.members]
        stop = threading.Event()
        threads = [threading.Thread(target=person.run, args=(endpoints, stop)) for person in self._people]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def progress(self, writes: int = 60, timeout_s: float = 60.0) -> None:
        """Wait until so many more writes were acknowledged."""
        target = self._acknowledged + writes
        wait_for("more writes", lambda: True if self._acknowledged >= target else None, timeout_s)

    def _log_in(self) -> Metadata:
        with stubs.Client(self.cluster.running[0].client_endpoint) as client:
            return login(client, "root")

    @property
    def _acknowledged(self) -> int:
        return sum(len(writer.acknowledged) for writer in self._writers)

    def check(self) -> None:
        """Compare what users were told with what all members have."""
        for person in [*self._people, self._flipper.user]:
            assert not person.problems, person.problems[:5]
        assert all(intruder.refusals > 10 for intruder in self._intruders), "nobody tried"
        assert self._flipper.after, "no right was taken"
        self.show(wait_for("a login", self._log_in))
        self.cluster.wait_equal()
        for member in self.cluster.running:
            with stubs.Client(member.client_endpoint) as client:
                everything = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0")
                answer = client.kv.Range(everything, metadata=login(client, "root"), timeout=10)
            rows = {bytes(kv.key): kv for kv in answer.kvs}
            assert [(bytes(kv.value), kv.version) for key, kv in rows.items() if key.startswith(SECRET)] == [
                (b"hidden", 1)
            ]
            assert b"eve/x" not in rows
            for writer in self._writers:
                for key, revision in writer.acknowledged.items():
                    assert key in rows and rows[key].mod_revision == revision, f"{key!r} of {revision} is lost"
            for key, revision in self._flipper.after.items():
                found = rows[key].mod_revision if key in rows else 0
                assert found == revision, f"{key!r} moved to {found} when nobody was allowed to, after {revision}"
