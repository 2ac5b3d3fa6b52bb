"""Trace lines of slow requests: what they tell, which there are, and that there are never too many."""

import logging
import re
from typing import Any

import pytest

from ratifyd.proto.fast import length_prefixed
from ratifyd.proto.rpc_pb2 import (
    CompactionRequest,
    PutRequest,
    PutResponse,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from ratifyd.server.traces import LINES_PER_TICK
from tests.support_client import KV, Client
from tests.support_member import Member

NUMBER = re.compile(r"^trace\[(\d+)\] ")


@pytest.fixture
def member(caplog: pytest.LogCaptureFixture) -> Member:
    caplog.set_level(logging.INFO, "ratifyd.server")
    return Member().start()


def traces(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    """The operation and the fields of each line; the steps without the number they share with their line."""
    found = []
    for record in caplog.records:
        if (numbered := NUMBER.match(record.getMessage())) is not None:
            fields = dict(record.fields)  # type: ignore[attr-defined]
            fields["steps"] = [step.removeprefix(numbered[0]) for step in fields["steps"]]
            found.append((record.getMessage().removeprefix(numbered[0]), fields))
    return found


def wait_in_line(member: Member, seconds: float) -> None:
    """From the next look at the stopwatch on it is later by so much; the work itself takes no time."""
    now = member.clock.time() + seconds
    member.server.timing.now = lambda: now


def test_a_slow_put(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(member)
    stream = client.begin(KV + "Put", PutRequest(key=b"k\xff", value=b"secret"))
    wait_in_line(member, 0.15)
    answer = client.answer(stream).parse(PutResponse)[0]
    ((operation, fields),) = traces(caplog)
    assert operation == "put"
    assert list(fields) == ["detail", "duration", "start", "end", "steps", "step_count"]
    assert fields["detail"] == f"{{key:k\ufffd; req_size:12; response_revision:{answer.header.revision}; }}"
    assert fields["duration"] == "150ms"
    assert fields["steps"] == ["'process raft request'  (duration: 150ms)"]
    assert fields["step_count"] == 1
    assert fields["start"] < fields["end"]
    assert "secret" not in str([vars(record) for record in caplog.records])


def test_slow_reads_tell_the_wait_from_the_reading(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(member)
    client.ask(KV + "Put", PutRequest(key=b"k", value=b"v"), PutResponse)
    read = RequestOp(request_range=RangeRequest(key=b"k"))
    streams = [
        client.begin(KV + "Range", RangeRequest(key=b"k")),
        client.begin(KV + "Range", RangeRequest(key=b"a", range_end=b"z")),
        client.begin(KV + "Txn", TxnRequest(success=[read])),
        client.begin(KV + "Range", RangeRequest(key=b"k", revision=99)),
    ]
    wait_in_line(member, 0.2)
    for stream in streams:
        client.answer(stream)
    details = [(operation, fields["detail"]) for operation, fields in traces(caplog)]
    assert details == [
        ("range", "{range_begin:k; range_end:; response_count:1; response_revision:2; }"),
        ("range", "{range_begin:a; range_end:z; response_count:1; response_revision:2; }"),
        ("transaction", "{read_only:true; number_of_response:1; response_revision:2; }"),
        ("range", "{range_begin:k; range_end:; }"),
    ]
    for _, fields in traces(caplog):
        assert fields["steps"] == ["'agreement among raft nodes before linearized reading'  (duration: 200ms)"]


def test_slow_reading_itself(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(member)
    now = member.clock.time()

    def look() -> float:
        nonlocal now
        now += 0.06
        return now

    stream = client.begin(KV + "Range", RangeRequest(key=b"a", range_end=b"z", serializable=False))
    member.server.timing.now = look
    client.answer(stream)
    ((_, fields),) = traces(caplog)
    assert [step.partition("  (")[0] for step in fields["steps"]] == [
        "'agreement among raft nodes before linearized reading'",
        "'range keys from bolt db'",
    ]


def test_slow_transactions_and_compactions(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(member)
    client.ask(KV + "Put", PutRequest(key=b"k", value=b"v"), PutResponse)
    put = RequestOp(request_put=PutRequest(key=b"k"))
    streams = [
        client.begin(KV + "Txn", TxnRequest(success=[put])),
        client.begin(KV + "Compact", CompactionRequest(revision=3)),
        client.begin(KV + "Compact", CompactionRequest(revision=1)),
        client.begin(KV + "Put", PutRequest(key=b"k", lease=99)),
        client.begin(KV + "DeleteRange", RangeRequest(key=b"k")),
    ]
    wait_in_line(member, 0.2)
    for stream in streams:
        client.answer(stream)
    assert [(operation, fields["detail"]) for operation, fields in traces(caplog)] == [
        ("transaction", "{read_only:false; response_revision:3; number_of_response:1; }"),
        ("compact", "{revision:3; response_revision:3; }"),
        ("compact", "{revision:1; }"),
    ]


def test_what_the_parser_cannot_take_apart_leaves_none(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does it end the member."""
    deep = TxnRequest(success=[RequestOp(request_put=PutRequest(key=b"k"))]).SerializeToString()
    for _ in range(60):
        deep = length_prefixed(2, length_prefixed(4, deep))
    client = Client(member)
    stream = client.begin(KV + "Txn", deep)
    wait_in_line(member, 0.2)
    assert client.answer(stream).status == 0
    assert not member.failures
    assert not traces(caplog)


def test_what_is_quick_leaves_no_trace(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(member)
    stream = client.begin(KV + "Put", PutRequest(key=b"k"))
    wait_in_line(member, 0.09)
    client.answer(stream)
    assert not traces(caplog)


def test_an_overloaded_member_does_not_drown_in_lines(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(member)
    for _ in range(2):
        streams = [client.begin(KV + "Put", PutRequest(key=b"k")) for _ in range(LINES_PER_TICK + 5)]
        wait_in_line(member, 0.2)
        for stream in streams:
            client.answer(stream)
        assert len(traces(caplog)) == LINES_PER_TICK
        caplog.clear()
        member.server.timing.now = member.clock.time
        member.clock.advance(0.1)


def test_a_batch_of_reads_that_waited(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    reads, clock = member.server.reads, member.clock
    seen: list[object] = []
    applied = member.server.node.applied
    reads.after(lambda argument, error: seen.append(error), "one")
    context = reads.open_batch()
    clock.now += 0.3
    reads.confirm(context, applied + 2, applied)
    clock.now += 0.1
    reads.run(applied + 1)
    assert not seen and not traces(caplog)
    reads.run(applied + 2)
    ((operation, fields),) = traces(caplog)
    assert operation == "linearizableReadLoop"
    assert fields["detail"] == f"{{readStateIndex:{applied + 2}; appliedIndex:{applied}; }}"
    assert fields["duration"] == "400ms"
    assert fields["steps"] == [
        "'read index received'  (duration: 300ms)",
        "'applied index is now lower than readState.Index'  (duration: 100ms)",
    ]
