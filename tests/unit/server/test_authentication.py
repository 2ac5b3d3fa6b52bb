"""Logging in: what happens while the worker tries a password."""

import pytest

from ratifyd.apply import requests
from ratifyd.auth.passwords import encode_hash, hash_password
from ratifyd.errors import AuthFailed, AuthNotEnabled, PasswordTooLong, RequestTooManyRequests, Stopped
from ratifyd.proto import rpc_pb2
from ratifyd.server import authentication
from simulation.disk import StepWorker
from tests.support_member import Member, Waiter


def set_password(member: Member, user: str, password: str) -> None:
    hashed = encode_hash(hash_password(password.encode(), bytes(16), 4))
    request = rpc_pb2.AuthUserChangePasswordRequest(name=user, hashedPassword=hashed)
    member.do(requests.AUTH_USER_CHANGE_PASSWORD, request)


@pytest.fixture
def worker() -> StepWorker:
    return StepWorker()


@pytest.fixture
def member(worker: StepWorker) -> Member:
    """One with auth on; the user root has the password "pw". Tries of passwords wait for the test."""
    member = Member(bcrypt_cost=4).start()
    hashed = encode_hash(hash_password(b"pw", bytes(16), 4))
    member.do(requests.AUTH_USER_ADD, rpc_pb2.AuthUserAddRequest(name="root", hashedPassword=hashed))
    member.do(requests.AUTH_USER_GRANT_ROLE, rpc_pb2.AuthUserGrantRoleRequest(user="root", role="root"))
    member.do(requests.AUTH_ENABLE, rpc_pb2.AuthEnableRequest())
    member.server.authentication._worker = worker
    return member


def as_root(member: Member) -> None:
    """Let the next proposals of the test pass: they are root's."""
    propose = member.server.propose
    member.server.propose = lambda row, body, answer: propose(row, body, answer, identity=member.server._root)  # type: ignore[method-assign,misc,assignment]


def begin(member: Member, password: str) -> Waiter:
    waiter = Waiter()
    member.server.authentication.log_in("root", password, waiter)
    member.settle()
    return waiter


def finish(member: Member, worker: StepWorker) -> None:
    while worker.run_one():
        member.settle()


def token_of(waiter: Waiter) -> str:
    return rpc_pb2.AuthenticateResponse.FromString(waiter.body).token


def test_a_token_for_a_password(member: Member, worker: StepWorker) -> None:
    right, wrong = begin(member, "pw"), begin(member, "no")
    assert not right.done and not wrong.done
    finish(member, worker)
    assert isinstance(wrong.error, AuthFailed)
    identity = member.server.tokens.identify(token_of(right).encode(), member.server.auth.revision)
    assert identity is not None and identity.user == "root"


def test_a_password_changed_meanwhile(member: Member, worker: StepWorker) -> None:
    """Tried before the change, it gets no token after it."""
    waiter = begin(member, "pw")
    as_root(member)
    set_password(member, "root", "new")
    finish(member, worker)
    assert isinstance(waiter.error, AuthFailed)
    assert list(member.server.tokens._tokens) != []  # one was made, which nobody got to know


def test_another_change_meanwhile_is_only_a_delay(member: Member, worker: StepWorker) -> None:
    waiter = begin(member, "pw")
    as_root(member)
    member.do(requests.AUTH_ROLE_ADD, rpc_pb2.AuthRoleAddRequest(name="r"))
    finish(member, worker)
    assert token_of(waiter)


def test_auth_switched_off_meanwhile(member: Member, worker: StepWorker) -> None:
    waiter = begin(member, "pw")
    as_root(member)
    member.do(requests.AUTH_DISABLE, rpc_pb2.AuthDisableRequest())
    finish(member, worker)
    assert isinstance(waiter.error, AuthNotEnabled)


def test_a_right_password_is_not_tried_again_for_a_while(member: Member, worker: StepWorker) -> None:
    first = begin(member, "pw")
    finish(member, worker)
    again = begin(member, "pw")
    assert again.done and token_of(again) != token_of(first)
    assert not begin(member, "no").done
    member.clock.advance(authentication.REMEMBERED_S + 1)
    assert not begin(member, "pw").done


def test_a_remembered_password_does_not_outlive_its_change(member: Member, worker: StepWorker) -> None:
    begin(member, "pw")
    finish(member, worker)
    as_root(member)
    set_password(member, "root", "new")
    waiter = begin(member, "pw")
    finish(member, worker)
    assert isinstance(waiter.error, AuthFailed)


def test_too_many_tries(member: Member, worker: StepWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "MAX_WAITING", 2)
    waiters = [begin(member, f"p{at}") for at in range(3)]
    assert isinstance(waiters[2].error, RequestTooManyRequests)
    with pytest.raises(RequestTooManyRequests):
        member.server.authentication.hash("x", lambda text, error: None)
    finish(member, worker)
    assert all(waiter.done for waiter in waiters)
    assert not begin(member, "x").done


def test_a_stopping_member_tries_no_more(member: Member, worker: StepWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "check_password", lambda password, hashed: pytest.fail("tried"))
    waiter = begin(member, "pw")
    hashed: list[object] = []
    member.server.authentication.hash("pw", lambda text, error: hashed.append(error))
    member.server.stop()
    finish(member, worker)
    assert isinstance(waiter.error, Stopped) and isinstance(hashed[0], Stopped)


def test_new_passwords_have_a_length(member: Member) -> None:
    with pytest.raises(PasswordTooLong):
        member.server.authentication.hash("é" * 37, lambda text, error: None)
