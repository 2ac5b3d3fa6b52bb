"""A real etcd lives through random Auth and KV requests; our state machine applies its log and must end the same.

Every answer, every refusal and every row of the buckets that auth decides about is compared.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import grpc
import pytest

from harness.servers import EtcdServer
from harness.stubs import Client, status_of
from ratifyd import schema
from ratifyd.apply import requests
from ratifyd.apply.entries import apply_entry, waiter_of
from ratifyd.apply.requests import Row
from ratifyd.apply.state import State
from ratifyd.auth.tokens import NoTokens
from ratifyd.formats.bbolt import read_pages
from ratifyd.membership import Membership
from ratifyd.proto import auth_pb2, rpc_pb2
from ratifyd.proto import auth_records_pb2 as records
from ratifyd.raft.messages import Entry, EntryKind
from ratifyd.storage.disk import OsDisk
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.walread import read_log
from ratifyd.storage.worker import SoonWorker

COMPARED = (schema.AUTH, schema.AUTH_USERS, schema.AUTH_ROLES, schema.KEY, schema.LEASE)
# Lists of 3.5.1 leave out names from 0xff on.
USERS = (b"root", b"alice", b"bob", "zoë".encode(), b"\x80\xff", b"u" * 700)
ROLES = (b"root", b"reader", b"writer", "früh".encode(), b"\x80", b"r" * 700)
KEYS = (b"a", b"b", b"c", b"d", b"e")
PASSWORD = b"secret"
PATHS = {
    requests.PUT: "KV/Put",
    requests.DELETE_RANGE: "KV/DeleteRange",
    requests.TXN: "KV/Txn",
    requests.LEASE_GRANT: "Lease/LeaseGrant",
    requests.LEASE_REVOKE: "Lease/LeaseRevoke",
    requests.AUTHENTICATE: "Auth/Authenticate",
    requests.AUTH_ENABLE: "Auth/AuthEnable",
    requests.AUTH_DISABLE: "Auth/AuthDisable",
    requests.AUTH_STATUS: "Auth/AuthStatus",
    requests.AUTH_USER_ADD: "Auth/UserAdd",
    requests.AUTH_USER_DELETE: "Auth/UserDelete",
    requests.AUTH_USER_GET: "Auth/UserGet",
    requests.AUTH_USER_CHANGE_PASSWORD: "Auth/UserChangePassword",
    requests.AUTH_USER_GRANT_ROLE: "Auth/UserGrantRole",
    requests.AUTH_USER_REVOKE_ROLE: "Auth/UserRevokeRole",
    requests.AUTH_USER_LIST: "Auth/UserList",
    requests.AUTH_ROLE_LIST: "Auth/RoleList",
    requests.AUTH_ROLE_ADD: "Auth/RoleAdd",
    requests.AUTH_ROLE_DELETE: "Auth/RoleDelete",
    requests.AUTH_ROLE_GET: "Auth/RoleGet",
    requests.AUTH_ROLE_GRANT_PERMISSION: "Auth/RoleGrantPermission",
    requests.AUTH_ROLE_REVOKE_PERMISSION: "Auth/RoleRevokePermission",
}

Answer = tuple[str, bytes | str]
"""("OK", the answer after its header) or (code, text)."""


class Recorder:
    """Sends requests to etcd, one after the other, and keeps what it answered to those that reached the log."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.answers: list[tuple[Row, Answer]] = []
        self.tokens: dict[bytes, str] = {}

    def send(self, row: Row, request: Any, user: bytes = b"") -> Answer:
        metadata = [("token", self.tokens[user])] if user in self.tokens else None
        path = f"/etcdserverpb.{PATHS[row]}"
        try:
            answer = self.client.raw(path, request.SerializeToString(), metadata=metadata)
        except grpc.RpcError as error:
            refused = status_of(error)
            if refused[0] == "UNAUTHENTICATED":
                self.tokens.pop(user)
                return refused
            if row is not requests.AUTHENTICATE:
                self.answers.append((row, refused))
            return refused
        accepted = ("OK", answer[2 + answer[1] :])
        self.answers.append((row, accepted))
        return accepted

    def do(self, row: Row, request: Any, user: bytes = b"") -> bytes:
        code, body = self.send(row, request, user)
        assert code == "OK", body
        assert isinstance(body, bytes)
        return body

    def authenticate(self, user: bytes) -> None:
        request = records.RecordedAuthenticate(name=user, password=PASSWORD)
        code, body = self.send(requests.AUTHENTICATE, request)
        if code == "OK":
            assert isinstance(body, bytes)
            self.tokens[user] = rpc_pb2.AuthenticateResponse.FromString(body).token


def a_range(random: Random) -> tuple[bytes, bytes]:
    key = random.choice(KEYS)
    return key, random.choice((b"", b"", bytes((key[0] + random.randint(1, 3),)), b"\0"))


def a_permission(random: Random) -> records.RecordedGrant:
    key = random.choice(KEYS)
    perm = auth_pb2.Permission(permType=random.randrange(3), key=key, range_end=random.choice((b"", b"d\0", b"\0")))
    if perm.range_end and perm.range_end != b"\0" and perm.range_end <= key:
        perm.range_end = b""
    return records.RecordedGrant(role=random.choice(ROLES), perm=perm)


def a_revocation(random: Random) -> records.RecordedRevocation:
    granted = a_permission(random)
    return records.RecordedRevocation(role=granted.role, key=granted.perm.key, range_end=granted.perm.range_end)


def a_put(random: Random) -> rpc_pb2.PutRequest:
    request = rpc_pb2.PutRequest(key=random.choice(KEYS), value=b"v", prev_kv=random.random() < 0.3)
    if random.random() < 0.2:
        request.lease = random.randint(1, 4)
    return request


def a_delete(random: Random) -> rpc_pb2.DeleteRangeRequest:
    key, range_end = a_range(random)
    return rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=random.random() < 0.3)


def a_txn(random: Random) -> rpc_pb2.TxnRequest:
    """One that writes: others never reach the log. Leases are left out, which 3.5.1 does not look at here."""
    put = a_put(random)
    put.lease = 0
    request = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=put)])
    if random.random() < 0.7:
        key, range_end = a_range(random)
        request.compare.add(key=key, range_end=range_end, target=rpc_pb2.Compare.VERSION, result=rpc_pb2.Compare.LESS)
    if random.random() < 0.5:
        key, range_end = a_range(random)
        request.failure.add(request_range=rpc_pb2.RangeRequest(key=key, range_end=range_end))
    if random.random() < 0.5:
        request.failure.add(request_delete_range=a_delete(random))
    return request


def a_name(names: tuple[bytes, ...]) -> Callable[[Random], records.RecordedName]:
    return lambda random: records.RecordedName(name=random.choice(names))


def a_user_role(random: Random) -> records.RecordedUserRole:
    return records.RecordedUserRole(user=random.choice(USERS), role=random.choice(ROLES))


def a_user(random: Random) -> records.RecordedUserAdd:
    options = random.choice((None, None, auth_pb2.UserAddOptions(), auth_pb2.UserAddOptions(no_password=True)))
    name = random.choice((*USERS, b""))
    return records.RecordedUserAdd(name=name, password=PASSWORD, options=options)


def a_password(random: Random) -> records.RecordedPassword:
    name = random.choice(USERS)
    return records.RecordedPassword(name=name, password=PASSWORD if name == b"root" else random.choice((PASSWORD, b"")))


def a_grant_without_a_permission(random: Random) -> records.RecordedGrant:
    return records.RecordedGrant(role=random.choice(ROLES))


MANAGEMENT: list[tuple[int, Row, Callable[[Random], Any]]] = [
    (4, requests.AUTH_USER_ADD, a_user),
    (1, requests.AUTH_USER_DELETE, a_name(USERS)),
    (2, requests.AUTH_USER_GET, a_name(USERS)),
    (2, requests.AUTH_USER_CHANGE_PASSWORD, a_password),
    (6, requests.AUTH_USER_GRANT_ROLE, a_user_role),
    (3, requests.AUTH_USER_REVOKE_ROLE, a_user_role),
    (1, requests.AUTH_USER_LIST, lambda random: rpc_pb2.AuthUserListRequest()),
    (1, requests.AUTH_ROLE_LIST, lambda random: rpc_pb2.AuthRoleListRequest()),
    (4, requests.AUTH_ROLE_ADD, a_name((*ROLES, b""))),
    (1, requests.AUTH_ROLE_DELETE, a_name(ROLES)),
    (2, requests.AUTH_ROLE_GET, a_name(ROLES[1:])),  # 3.5.1 tells what is on record of role root
    (8, requests.AUTH_ROLE_GRANT_PERMISSION, a_permission),
    (1, requests.AUTH_ROLE_GRANT_PERMISSION, a_grant_without_a_permission),
    (2, requests.AUTH_ROLE_REVOKE_PERMISSION, a_revocation),
    (1, requests.AUTH_STATUS, lambda random: rpc_pb2.AuthStatusRequest()),
]
DATA: list[tuple[int, Row, Callable[[Random], Any]]] = [
    (4, requests.PUT, a_put),
    (2, requests.DELETE_RANGE, a_delete),
    (4, requests.TXN, a_txn),
    (1, requests.LEASE_GRANT, lambda random: rpc_pb2.LeaseGrantRequest(ID=random.randint(1, 4), TTL=9000)),
    (1, requests.LEASE_REVOKE, lambda random: rpc_pb2.LeaseRevokeRequest(ID=random.randint(1, 4))),
]


def some(random: Random, choices: list[tuple[int, Row, Callable[[Random], Any]]]) -> tuple[Row, Any]:
    _, row, make = random.choices(choices, [weight for weight, _, _ in choices])[0]
    return row, make(random)


def live(recorder: Recorder, random: Random, steps: int) -> None:
    """Random requests: with auth off, then on, then off again."""
    for _ in range(steps):
        recorder.send(*some(random, MANAGEMENT))
    recorder.send(requests.AUTH_USER_DELETE, records.RecordedName(name=b"root"))
    recorder.send(requests.AUTH_ENABLE, rpc_pb2.AuthEnableRequest())
    recorder.do(requests.AUTH_USER_ADD, records.RecordedUserAdd(name=b"root", password=PASSWORD))
    recorder.send(requests.AUTH_ENABLE, rpc_pb2.AuthEnableRequest())
    recorder.do(requests.AUTH_USER_GRANT_ROLE, records.RecordedUserRole(user=b"root", role=b"root"))
    recorder.do(requests.AUTH_ENABLE, rpc_pb2.AuthEnableRequest())
    for _ in range(2 * steps):
        for user in USERS:
            if user not in recorder.tokens:
                recorder.authenticate(user)
        assert b"root" in recorder.tokens
        manager = random.choice((b"root", b"root", b"root", *USERS, b""))
        recorder.send(*some(random, MANAGEMENT), manager)
        recorder.send(*some(random, DATA), random.choice((*USERS, b"")))
    recorder.send(requests.AUTH_ENABLE, rpc_pb2.AuthEnableRequest(), b"root")
    recorder.send(requests.AUTH_DISABLE, rpc_pb2.AuthDisableRequest(), b"alice")
    recorder.authenticate(b"root")
    recorder.do(requests.AUTH_DISABLE, rpc_pb2.AuthDisableRequest(), b"root")
    recorder.tokens.clear()
    for row in (requests.AUTH_DISABLE, requests.AUTH_STATUS):
        recorder.do(row, rpc_pb2.AuthStatusRequest())
    recorder.send(requests.AUTH_USER_REVOKE_ROLE, records.RecordedUserRole(user=b"root", role=b"root"))


class Echo(NoTokens):
    """Tokens as etcd 3.5.1 makes them from the log."""

    def assign(self, user: str, auth_revision: int, simple_token: str, index: int, wanted: bool) -> str:
        return f"{simple_token}.{index}"


def log_of(server: EtcdServer) -> list[Entry]:
    """The entries in the log of a server that has stopped."""
    return read_log(OsDisk(), f"{server.data_dir}/member/wal").contents.entries


def apply_log(entries: list[Entry]) -> tuple[State, list[tuple[Row, Answer]]]:
    """The state after a log, and the answers to the requests in it that clients send."""
    worker = SoonWorker(lambda callback, *args: callback(*args))
    state = State(MemoryBackend(worker), Membership(1, 2), min_ttl_s=2)
    for _ in state.restore():
        pass
    state.auth.tokens = Echo()
    answers: list[tuple[Row, Answer]] = []
    for entry in entries:
        if entry.kind != EntryKind.NORMAL:
            state.consistent_index = entry.index
            continue
        waiter = waiter_of(lambda body, error: None, 0.0)
        outcome = apply_entry(state, entry.index, entry.term, entry.data, {entry.data: waiter})
        if outcome is None or outcome.row not in PATHS:
            continue
        error = outcome.error
        answers.append((outcome.row, ("OK", outcome.body) if error is None else (error.code.name, error.message)))
    return state, answers


@pytest.mark.parametrize("seed", range(2))
def test_the_log_of_an_etcd_leads_to_its_state(seed: int) -> None:
    random = Random(seed)
    flags = ["--unsafe-no-fsync", "--bcrypt-cost=4"]
    with EtcdServer("etcd", flags) as server:
        with Client(server.client_endpoint) as client:
            recorder = Recorder(client)
            live(recorder, random, steps=200)
        server.terminate()
        state, answers = apply_log(log_of(server))
        image = (server.data_dir / "member" / "snap" / "db").read_bytes()
    for position, (expected, found) in enumerate(zip(recorder.answers, answers)):
        assert (found[0].field, found[1]) == (expected[0].field, expected[1]), f"request {position}"
    assert len(answers) == len(recorder.answers)
    file = read_pages(lambda size, offset: image[offset : offset + size], len(image))
    for bucket in COMPARED:
        assert state.buffer.range(bucket, b"", None) == list(file.items(bucket)), bucket
    codes = {answer[0] for _, answer in answers}
    assert {"OK", "PERMISSION_DENIED", "INVALID_ARGUMENT", "FAILED_PRECONDITION"} <= codes
