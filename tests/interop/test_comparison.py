"""The comparison itself: it notices when one of two servers lies a little. That it agrees when none does, and that
both sides really are asked, is for test_differential to show."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from differential import shrink
from differential.compare import differences, sorted_range_differences
from differential.generator import Generator
from differential.operations import Kind, Operation
from differential.pairs import start_pair
from differential.runner import Difference, Session
from differential.sides import Side
from differential.watching import structure
from harness.fastgrpc import Answer, FastConnection
from harness.servers import EtcdServer
from ratifyd.proto import kv_pb2, rpc_pb2

_KV, _WATCH = "/etcdserverpb.KV/", "/etcdserverpb.Watch/Watch"


async def _random_run(both: Session, seed: int, count: int) -> Difference | None:
    generator = Generator(seed)
    for _ in range(count):
        found = await both.execute(generator.next(both))
        if found is not None:
            return found
    return await both.finish()


def _lie_about(path: str, change: Callable[[Any], None], response: type[Any]) -> Callable[[str, Answer], Answer]:
    """Change every third successful answer of a method."""
    calls = 0

    def tell(called: str, answer: Answer) -> Answer:
        nonlocal calls
        if called != _KV + path or answer.code != 0:
            return answer
        calls += 1
        if calls % 3:
            return answer
        message = response.FromString(answer.message)
        change(message)
        return answer._replace(message=message.SerializeToString())

    return tell


def _drop_last(answer: Any) -> None:
    if answer.kvs:
        del answer.kvs[-1]


def _older(answer: Any) -> None:
    answer.header.revision -= 1


def _other_text(path: str, answer: Answer) -> Answer:
    return answer._replace(text=answer.text.replace("etcdserver", "server")) if answer.code == 3 else answer


def _other_code(path: str, answer: Answer) -> Answer:
    return answer._replace(code=9) if answer.code == 5 else answer


_LIES: dict[str, Callable[[str, Answer], Answer]] = {
    "a key is missing": _lie_about("Range", _drop_last, rpc_pb2.RangeResponse),
    "the revision is old": _lie_about("Put", _older, rpc_pb2.PutResponse),
    "a branch is mistaken": _lie_about("Txn", lambda answer: answer.ClearField("succeeded"), rpc_pb2.TxnResponse),
    "a count is wrong": _lie_about(
        "DeleteRange", lambda answer: answer.ClearField("deleted"), rpc_pb2.DeleteRangeResponse
    ),
    "an error has another text": _other_text,
    "an error has another code": _other_code,
}


@pytest.fixture(scope="module")
def servers() -> Any:
    pair = start_pair("etcd", "etcd")
    yield pair
    for server in pair:
        server.stop()


class _LyingConnection:
    """A connection whose answers and watch messages pass through a liar; everything else is the real one's."""

    def __init__(self, connection: FastConnection, tell: Any = None, watch: Any = None) -> None:
        self._connection = connection
        self._tell = tell
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def unary(self, path: str, request: bytes, metadata: Any = ()) -> Any:
        async def call() -> Answer:
            answer = await self._connection.unary(path, request, metadata)
            return self._tell(path, answer) if self._tell else answer

        return asyncio.ensure_future(call())

    def open(self, path: str, on_message: Callable[[bytes], None]) -> Any:
        if path != _WATCH or self._watch is None or "tap" in on_message.__name__:
            return self._connection.open(path, on_message)

        def filtered(message: bytes) -> None:
            for each in self._watch(message):
                on_message(each)

        return self._connection.open(path, filtered)


async def _lying_session(servers: tuple[EtcdServer, EtcdServer], **lies: Any) -> Session:
    left = await Side.connect("honest", servers[0].client_endpoint, 2.0)
    right = Side("liar", _LyingConnection(await FastConnection.connect(servers[1].client_endpoint), **lies), 2.0)  # type: ignore[arg-type]
    create = rpc_pb2.WatchCreateRequest(key=b"\0", range_end=b"\0")
    right._tap.send(rpc_pb2.WatchRequest(create_request=create).SerializeToString())
    await right.wait(lambda: right.log_revision > 0, "the tap")
    both = Session(left, right)
    both.revision = left.log_revision
    return both


@pytest.mark.parametrize("lie", _LIES)
def test_wrong_answers_are_noticed(lie: str) -> None:
    async def script() -> Difference | None:
        pair = await asyncio.to_thread(start_pair, "etcd", "etcd")
        try:
            both = await _lying_session(pair, tell=_LIES[lie])
            return await _random_run(both, 3, 400)
        finally:
            for server in pair:
                await asyncio.to_thread(server.stop)

    assert asyncio.run(script()) is not None


def _watch_lies() -> dict[str, Callable[[bytes], list[bytes]]]:
    def with_events(change: Callable[[rpc_pb2.WatchResponse], list[rpc_pb2.WatchResponse]]) -> Any:
        seen = 0

        def tell(message: bytes) -> list[bytes]:
            nonlocal seen
            response = rpc_pb2.WatchResponse.FromString(message)
            if not response.events:
                return [message]
            seen += 1
            return [each.SerializeToString() for each in change(response)] if seen == 2 else [message]

        return tell

    def without_value(response: rpc_pb2.WatchResponse) -> list[rpc_pb2.WatchResponse]:
        response.events[0].kv.ClearField("version")
        return [response]

    def other_watcher(response: rpc_pb2.WatchResponse) -> list[rpc_pb2.WatchResponse]:
        response.watch_id += 1
        return [response]

    return {
        "an event is lost": with_events(lambda response: []),
        "an event comes twice": with_events(lambda response: [response, response]),
        "an event is changed": with_events(without_value),
        "an event goes to another watcher": with_events(other_watcher),
    }


@pytest.mark.parametrize("lie", _watch_lies())
def test_wrong_events_are_noticed(servers: tuple[EtcdServer, EtcdServer], lie: str) -> None:
    async def script() -> Difference | None:
        both = await _lying_session(servers, watch=_watch_lies()[lie])
        create = rpc_pb2.WatchCreateRequest(key=b"watched")
        request = rpc_pb2.WatchRequest(create_request=create)
        found = await both.execute(Operation(Kind.WATCH, _WATCH, request.SerializeToString()))
        for number in range(4):
            put = rpc_pb2.PutRequest(key=b"watched", value=b"%d" % number)
            found = found or await both.execute(Operation(Kind.UNARY, _KV + "Put", put.SerializeToString()))
        found = found or await both.finish()
        for side in both.sides:
            side.close()
        return found

    found = asyncio.run(script())
    assert found is not None and found.operation is None


def test_a_difference_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long sequence only the operation that shows the difference is left."""

    async def lying_replay(operations: list[Operation], left: str, right: str) -> Difference | None:
        for step, operation in enumerate(operations, 1):
            if operation.path.endswith("Compact"):
                return Difference(step, operation, ("header.revision: 1 and 2",))
        return None

    monkeypatch.setattr(shrink, "replay", lying_replay)
    paths = ["Put", "Range", "Put", "DeleteRange", "Put", "Range", "Compact"]
    operations = [Operation(Kind.UNARY, _KV + path, b"%d" % at) for at, path in enumerate(paths)]
    found = Difference(7, operations[-1], ("header.revision: 5 and 6",))
    shortened = shrink.shrink(operations, found, "etcd", "etcd", budget_s=5, progress=lambda text: None)
    best, difference = asyncio.run(shortened)
    assert (best, difference.step) == ([operations[-1]], 1)


def test_fields_of_the_table_may_differ_and_no_others() -> None:
    left = rpc_pb2.StatusResponse(version="3.5.1", dbSize=10, raftIndex=3, leader=1)
    right = rpc_pb2.StatusResponse(version="3.6.6", dbSize=99, raftIndex=9, leader=1, storageVersion="3.6.0")
    assert differences(left, right) == []
    right.leader = 2
    right.dbSize = 0
    assert [text.partition(":")[0] for text in differences(left, right)] == ["dbSize", "leader"]


def test_times_may_differ_by_one_and_lists_without_order_by_order() -> None:
    one = rpc_pb2.LeaseTimeToLiveResponse(TTL=9, keys=[b"a", b"b"])
    other = rpc_pb2.LeaseTimeToLiveResponse(TTL=10, keys=[b"b", b"a"])
    assert differences(one, other) == []
    other.TTL = 11
    other.keys[0] = b"c"
    assert len(differences(one, other)) == 2


def test_presence_and_unknown_fields_count() -> None:
    assert differences(rpc_pb2.PutResponse(), rpc_pb2.PutResponse(header=rpc_pb2.ResponseHeader())) != []
    unknown = kv_pb2.KeyValue.FromString(b"\xa2\x06\x03abc")
    assert differences(kv_pb2.KeyValue(), unknown) != []


def test_ties_in_a_sorted_range_may_come_in_any_order() -> None:
    def answer(*items: tuple[bytes, int], more: bool = False) -> rpc_pb2.RangeResponse:
        kvs = [kv_pb2.KeyValue(key=key, version=version) for key, version in items]
        return rpc_pb2.RangeResponse(kvs=kvs, more=more, count=9)

    request = rpc_pb2.RangeRequest(sort_target=rpc_pb2.RangeRequest.VERSION)
    a, b, c, d = (b"a", 1), (b"b", 1), (b"c", 2), (b"d", 2)
    assert sorted_range_differences(request, answer(a, b, c), answer(b, a, c)) == []
    assert sorted_range_differences(request, answer(a, b, c, more=True), answer(b, a, d, more=True)) == []
    assert sorted_range_differences(request, answer(a, b, c), answer(b, a, d)) != []
    assert sorted_range_differences(request, answer(a, c, b), answer(a, b, c)) != []
    assert sorted_range_differences(request, answer(a, b), answer(a, b, c)) != []


def test_what_every_sequence_of_responses_promises() -> None:
    def response(*revisions: int, header: int = 100, fragment: bool = False) -> rpc_pb2.WatchResponse:
        events = [kv_pb2.Event(kv=kv_pb2.KeyValue(mod_revision=revision)) for revision in revisions]
        full = rpc_pb2.ResponseHeader(cluster_id=1, member_id=1, revision=header)
        return rpc_pb2.WatchResponse(header=full, events=events, fragment=fragment)

    assert structure([response(2, 2, 3), response(4)]) == []
    assert structure([response(2, fragment=True), response(2, 3)]) == []
    for broken in (
        [response(3, 2)],
        [response(2), response(2)],
        [response(3), response(2)],
        [response(3, header=2)],
        [response(2, fragment=True)],
        [response()],
    ):
        assert structure(broken) != [], broken
