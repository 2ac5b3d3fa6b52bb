"""A handler may be asked by another one as well as by a client: none needs what only a client has."""

from typing import Any

import pytest

from ratifyd.api.calls import Call, ClientCall, InnerCall, ask
from ratifyd.api.routes import _UNARY
from ratifyd.errors import EtcdError
from ratifyd.proto.services import METHODS
from ratifyd.wire.headers import Head
from tests.support_member import Member


def test_both_kinds_of_calls_offer_handlers_the_same() -> None:
    assert InnerCall.__abstractmethods__ == ClientCall.__abstractmethods__ == frozenset()
    offered = {name for name in vars(Call) if not name.startswith("_")}
    assert {name for name in vars(InnerCall) if not name.startswith("_")} <= offered
    assert {"session", "route", "began", "stream_id"}.isdisjoint(offered)


@pytest.mark.parametrize("path", sorted(_UNARY))
def test_a_handler_answers_one_of_its_own_kind(path: str) -> None:
    member = Member().start()
    outcomes: list[tuple[bytes, EtcdError | None]] = []
    request: Any = METHODS[path.encode()].request()
    if "key" in request.DESCRIPTOR.fields_by_name:
        request.key = b"k"
    ask(_UNARY[path], member.server, _head(path), request, lambda body, error: outcomes.append((body, error)))
    member.settle()
    member.clock.advance(1)
    assert len(outcomes) == 1, "not answered, or more than once"
    assert not member.failures


def _head(path: str) -> Head:
    return Head(path.encode(), timeout_s=None, metadata={}, authority=b"", user_agent=b"")
