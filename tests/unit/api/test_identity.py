"""Whose request it is; and tokens that this member is only about to learn of."""

from typing import Any

import pytest

from ratifyd.api import identity as module
from ratifyd.api.identity import MAX_HELD_BYTES, check_current, hold
from ratifyd.apply import requests
from ratifyd.auth.identity import ANONYMOUS, NEWEST_REVISION, Identity
from ratifyd.auth.jwt import JwtTokens, Keys
from ratifyd.auth.passwords import encode_hash, hash_password
from ratifyd.errors import AuthOldRevision, UserEmpty
from ratifyd.proto.raft_internal_pb2 import InternalAuthenticateRequest
from ratifyd.proto.rpc_pb2 import (
    CORRUPT,
    NOSPACE,
    AuthDisableRequest,
    AuthEnableRequest,
    AuthRoleAddRequest,
    AuthUserAddRequest,
    AuthUserGrantRoleRequest,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    WatchCancelRequest,
    WatchCreateRequest,
    WatchRequest,
    WatchResponse,
)
from ratifyd.server.proposals import Proposals
from ratifyd.server.server import Server
from tests.support_client import KEEP_ALIVE, KV, WATCH, Answered, Client
from tests.support_member import Member

OK, INVALID_ARGUMENT, UNAUTHENTICATED = 0, 3, 16
AUTH = "/etcdserverpb.Auth/"
LEASE = "/etcdserverpb.Lease/"
LETTERS = "abcdefghijklmnop"
READ = RangeRequest(key=b"k", serializable=True)


@pytest.fixture
def member() -> Member:
    """One with auth on."""
    member = Member().start()
    hashed = encode_hash(hash_password(b"pw", bytes(16), 4))
    member.do(requests.AUTH_USER_ADD, AuthUserAddRequest(name="root", hashedPassword=hashed))
    member.do(requests.AUTH_USER_GRANT_ROLE, AuthUserGrantRoleRequest(user="root", role="root"))
    member.do(requests.AUTH_ENABLE, AuthEnableRequest())
    return member


@pytest.fixture
def client(member: Member) -> Client:
    return Client(member)


def next_token(member: Member) -> str:
    """The token that the next entry of the log will make."""
    return f"{LETTERS}.{member.server.node.applied + 1}"


def learn(member: Member) -> None:
    """Apply that entry."""
    member.do(requests.AUTHENTICATE, InternalAuthenticateRequest(name="root", simple_token=LETTERS))


def refused(answer: Answered) -> bool:
    return answer.status == UNAUTHENTICATED and "invalid auth token" in answer.message


def test_a_call_waits_for_its_token(member: Member, client: Client) -> None:
    streams = [
        client.begin(f"{KV}Range", READ, token=next_token(member)),
        client.begin(f"{KV}Put", PutRequest(key=b"k"), authorization="Bearer " + next_token(member)),
        client.begin("/etcdserverpb.Maintenance/Status", token=next_token(member)),
    ]
    assert [client.answer(stream).ended for stream in streams] == [False] * 3
    learn(member)
    assert [client.answer(stream).status for stream in streams] == [OK] * 3
    assert member.server.held_bytes == 0


@pytest.mark.parametrize("arrives", [False, True])
def test_an_unknown_token_of_the_present_is_worth_a_read(
    member: Member, client: Client, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    """From etcd 3.5.3 on tokens name the entry before their own, which a read sees if anybody has seen it."""
    reads: list[Any] = []
    monkeypatch.setattr(Server, "read", lambda _server, read, argument: reads.append((read, argument)))
    stream = client.begin(f"{KV}Range", READ, token=f"{LETTERS}.{member.server.node.applied}")
    assert not client.answer(stream).ended
    if arrives:
        learn(member)
    ((read, argument),) = reads
    read(argument, None)
    assert client.answer(stream).status == (OK if arrives else UNAUTHENTICATED)
    assert member.server.held_bytes == 0


@pytest.mark.parametrize("behind", [0, 1])
def test_an_ended_token_is_refused_at_once(member: Member, client: Client, behind: int) -> None:
    """Also where nothing has been applied since: no entry need ever come."""
    stale = f"{LETTERS}.{member.server.node.applied - behind}"
    assert refused(client.call(f"{KV}Range", READ, token=stale))
    assert refused(client.call(f"{KV}Put", PutRequest(key=b"k"), token=stale))


def test_a_token_that_never_comes(member: Member, client: Client) -> None:
    far = f"{LETTERS}.{member.server.node.applied + 100}"
    unary = client.begin(f"{KV}Range", READ, token=far)
    stream = client.open(WATCH, WatchRequest(create_request=WatchCreateRequest(key=b"k")), token=far)
    assert not client.answer(unary).ended and not client.answer(stream).ended
    member.clock.advance(member.server.timeout_s + 0.2)
    assert refused(client.answer(unary)) and refused(client.answer(stream))
    assert member.server.held_bytes == 0


def test_another_entry_in_its_place(member: Member, client: Client) -> None:
    stream = client.begin(f"{KV}Range", READ, token=next_token(member))
    client.answer(stream)
    for lease in (1, 2):
        member.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=lease, TTL=60))
    assert refused(client.answer(stream))


def test_linearizable_reads_know_every_token_there_is(member: Member, client: Client) -> None:
    assert refused(client.call(f"{KV}Range", RangeRequest(key=b"k"), token=next_token(member)))


def test_a_stream_keeps_its_messages_in_order(member: Member, client: Client) -> None:
    stream = client.open(
        WATCH,
        WatchRequest(create_request=WatchCreateRequest(key=b"k")),
        WatchRequest(create_request=WatchCreateRequest(key=b"l")),
        WatchRequest(cancel_request=WatchCancelRequest(watch_id=0)),
        token=next_token(member),
    )
    assert client.answer(stream).messages == []
    learn(member)
    answers = client.answer(stream).parse(WatchResponse)
    assert [(each.watch_id, each.created, each.canceled) for each in answers] == [
        (0, True, False),
        (1, True, False),
        (0, False, True),
    ]


def test_the_end_of_a_stream_waits_too(member: Member, client: Client) -> None:
    stream = client.open(KEEP_ALIVE, LeaseKeepAliveRequest(ID=9), token=next_token(member))
    client.half_close(stream)
    assert not client.answer(stream).ended
    learn(member)
    answer = client.answer(stream)
    assert answer.status == OK and [each.ID for each in answer.parse(LeaseKeepAliveResponse)] == [9]


@pytest.mark.parametrize("messages", [1, 2])
def test_a_stream_of_one_message_waits_too(member: Member, client: Client, messages: int) -> None:
    """What follows the one message is ignored, but not that message when it comes out of waiting."""
    stream = client.open(f"{KV}RangeStream", *[READ] * messages, token=next_token(member))
    client.half_close(stream)
    assert not client.answer(stream).ended
    learn(member)
    answer = client.answer(stream)
    assert answer.status == OK and len(answer.messages) == 1


def test_a_stream_holds_only_so_much(member: Member, client: Client) -> None:
    create = WatchRequest(create_request=WatchCreateRequest(key=bytes(15_000)))
    stream = client.open(WATCH, *[create] * 5, token=next_token(member))
    assert not client.answer(stream).ended
    client.say(stream, create)
    assert client.answer(stream).message == "etcdserver: too many requests"
    learn(member)
    assert member.server.held_bytes == 0


def test_a_stream_that_is_gone(member: Member, client: Client) -> None:
    create = WatchRequest(create_request=WatchCreateRequest(key=b"k"))
    stream = client.open(WATCH, create, token=next_token(member))
    client.reset(stream)
    learn(member)
    assert client.answer(stream).messages == [] and member.server.held_bytes == 0
    assert not member.failures


def test_only_so_much_may_wait(member: Member, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 3 * module.HELD_OVERHEAD_BYTES)
    streams = [client.begin(f"{KV}Range", READ, token=next_token(member)) for _ in range(5)]
    ended = [refused(client.answer(stream)) for stream in streams]
    assert ended == [False, False, True, True, True]
    learn(member)
    assert [client.answer(stream).status for stream in streams[:2]] == [OK, OK]


def test_holding_counts_what_it_holds(member: Member) -> None:
    told: list[bool] = []
    hold(member.server, member.server.node.applied + 1, 10, told.append)
    learn(member)
    assert told == [True] and member.server.held_bytes == 0
    hold(member.server, member.server.node.applied + 1, MAX_HELD_BYTES, told.append)
    assert told == [True, False] and member.server.held_bytes == 0


def test_a_change_between_checking_and_answering(member: Member) -> None:
    now = member.server.auth.revision
    check_current(member.server, Identity("u", now))
    check_current(member.server, ANONYMOUS)
    with pytest.raises(AuthOldRevision):
        check_current(member.server, Identity("u", now - 1))
    with pytest.raises(AuthOldRevision):
        check_current(member.server, Identity("u", now + 1))  # signed by who knows whom


def test_a_long_range_ends_when_users_change(member: Member, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ratifyd.api.kv.SLICE_KEYS", "ratifyd.apply.ranges.SLICE_KEYS", "ratifyd.apply.ranges.LONG_KEYS"):
        monkeypatch.setattr(name, 2)
    learn(member)
    token = f"{LETTERS}.1"
    for number in range(9):
        assert client.call(f"{KV}Put", PutRequest(key=b"k%d" % number), token=token).status == OK
    everything = RangeRequest(key=b"k", range_end=b"l")
    assert client.call(f"{KV}Range", everything, token=token).status == OK
    read = member.server.store.range_slices

    def changing(*args: object, **options: object) -> object:
        for rows in read(*args, **options):  # type: ignore[arg-type]
            yield rows
            member.server.auth.revision += 1

    patched = lambda self, *args, **options: changing(*args, **options)  # noqa: E731
    monkeypatch.setattr(type(member.server.store), "range_slices", patched)
    answer = client.call(f"{KV}Range", everything, token=token)
    assert (answer.status, answer.message) == (INVALID_ARGUMENT, "etcdserver: revision of auth store is old")
    stream = client.open(f"{KV}RangeStream", everything, token=token)
    assert client.answer(stream).message == "etcdserver: revision of auth store is old"


def test_nothing_is_looked_up_while_auth_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Member().start()
    client = Client(member)
    monkeypatch.setattr(type(member.server.tokens), "identify", lambda *args: pytest.fail("looked up"))
    for path, request in (("Put", PutRequest(key=b"k")), ("Range", READ), ("Range", RangeRequest(key=b"k"))):
        assert client.call(KV + path, request, token="whatever.999").status == OK


@pytest.fixture
def old_root(member: Member, client: Client) -> str:
    """A signed token of root from before the last change of users."""
    tokens = JwtTokens("HS256", Keys("HS256", b"", b"k" * 32), ttl_s=300, wall=member.clock.time)
    member.server.tokens = member.server.auth.tokens = tokens
    token = tokens.assign("root", member.server.auth.revision, "", 1, wanted=True)
    assert client.call("/etcdserverpb.Auth/RoleAdd", AuthRoleAddRequest(name="r"), token=token).status == OK
    return token


def test_an_older_signed_token_of_root_may_see_leases(member: Member, client: Client, old_root: str) -> None:
    """etcd asks whether users changed meanwhile, not whether they changed since."""
    for lease in (7, 8):
        assert client.call(f"{LEASE}LeaseGrant", LeaseGrantRequest(ID=lease, TTL=60), token=old_root).status == OK
    fresh = member.server.tokens.assign("root", member.server.auth.revision, "", 1, wanted=True)
    assert client.call(f"{KV}Put", PutRequest(key=b"k", lease=7), token=fresh).status == OK
    listed = client.call(f"{LEASE}LeaseLeases", LeaseLeasesRequest(), token=old_root)
    assert listed.status == OK
    assert [lease.ID for lease in listed.parse(LeaseLeasesResponse)[0].leases] == [7, 8]
    left = client.call(f"{LEASE}LeaseTimeToLive", LeaseTimeToLiveRequest(ID=7, keys=True), token=old_root)
    assert left.status == OK and list(left.parse(LeaseTimeToLiveResponse)[0].keys) == [b"k"]


def test_an_admin_s_revocation_is_never_out_of_date(
    member: Member, client: Client, old_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the log, too, where etcd up to 3.5.12 would refuse it."""
    proposed: list[Identity] = []
    add = Proposals.add

    def noted(self: Proposals, row: Any, body: bytes, answer: Any, request: Any, identity: Identity) -> None:
        proposed.append(identity)
        add(self, row, body, answer, request, identity)

    client.call(f"{LEASE}LeaseGrant", LeaseGrantRequest(ID=7, TTL=60), token=old_root)
    monkeypatch.setattr(Proposals, "add", noted)
    assert client.call(f"{LEASE}LeaseRevoke", LeaseRevokeRequest(ID=7), token=old_root).status == OK
    assert proposed == [Identity("root", NEWEST_REVISION)]


NESTED = TxnRequest(success=[RequestOp(request_txn=TxnRequest(failure=[RequestOp(request_put=PutRequest(key=b"k"))]))])


@pytest.mark.parametrize(
    ("path", "request_", "alarms"),
    [
        (f"{KV}DeleteRange", DeleteRangeRequest(key=b"k"), [(5, NOSPACE)]),
        (
            f"{KV}Txn",
            TxnRequest(success=[RequestOp(request_delete_range=DeleteRangeRequest(key=b"k"))]),
            [(5, NOSPACE)],
        ),
        (f"{KV}Txn", NESTED, []),
        (f"{AUTH}UserAdd", AuthUserAddRequest(name="new", password="pw"), [(5, NOSPACE)]),
        (f"{AUTH}RoleAdd", AuthRoleAddRequest(name="r"), [(5, CORRUPT)]),
        (f"{AUTH}AuthDisable", AuthDisableRequest(), [(5, CORRUPT)]),
    ],
)
def test_what_members_of_etcd_might_do_for_nobody_is_not_proposed(
    member: Member, client: Client, path: str, request_: Any, alarms: list[tuple[int, int]]
) -> None:
    """While an alarm is on they do not look at rights."""
    member.state.alarms |= dict.fromkeys(alarms)
    before = member.server.node.raft.log.last_index
    answer = client.call(path, request_)
    assert (answer.status, answer.message) == (INVALID_ARGUMENT, UserEmpty.message)
    assert member.server.node.raft.log.last_index == before
