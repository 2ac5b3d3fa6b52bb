"""What is counted about durations, and what is logged when they are long."""

import logging
from typing import Any

import pytest

from ratifyd.apply import requests
from ratifyd.errors import LeaseNotFound
from ratifyd.proto.rpc_pb2 import (
    CompactionRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
)
from ratifyd.raft.roles import Role
from ratifyd.server.timing import Sampler
from tests.support_client import KV, Client
from tests.support_member import Member

SLOW = "apply request took too long"


@pytest.fixture
def member() -> Member:
    return Member().start()


def stepping(member: Member, seconds: float) -> None:
    """From now on every look at the stopwatch finds that so much time has passed."""
    now = member.clock.time()

    def look() -> float:
        nonlocal now
        now += seconds
        return now

    member.server.timing.now = look


def lines(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.getMessage() == message]  # type: ignore[attr-defined]


def test_quick_entries_are_counted_by_operation(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    for row, request in (
        (requests.PUT, PutRequest(key=b"k")),
        (requests.PUT, PutRequest(key=b"k")),
        (requests.TXN, TxnRequest(success=[RequestOp(request_put=PutRequest(key=b"t"))])),
        (requests.PUT, PutRequest(key=b"k", lease=5)),
        (requests.COMPACTION, CompactionRequest(revision=2)),
        (requests.COMPACTION, CompactionRequest(revision=2)),
    ):
        member.call(row, request)
    member.settle()
    counted = {labels[1:]: value.count for labels, value in member.metrics.apply_seconds.items()}
    assert counted["Put", "true"] == 2
    assert counted["Put", "false"] == 1
    assert counted["Txn", "true"] == 1
    assert counted["Compaction", "true"] == 2, "a compaction that comes too late is no failure"
    assert all(value.counts[0] == value.count for value in member.metrics.apply_seconds.values())
    assert not lines(caplog, SLOW)


def test_a_slow_entry_is_counted_and_logged_without_its_value(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    stepping(member, 0.2)
    member.do(requests.PUT, PutRequest(key=b"k", value=b"secret", lease=0))
    (fields,) = lines(caplog, SLOW)
    assert fields["took"] == "200ms"
    assert fields["expected-duration"] == "100ms"
    assert fields["prefix"] == ""
    assert fields["request"].endswith('> put:<key:"k" value_size:6 >')
    assert fields["response"] == "size:4"
    assert "error" not in fields
    assert member.metrics.slow_apply_total == 1
    assert member.metrics.apply_seconds["v3", "Put", "true"].counts[11] == 1  # (0.1024, 0.2048]


def test_the_threshold_is_an_option(caplog: pytest.LogCaptureFixture) -> None:
    member = Member(warning_apply_duration_s=0.5).start()
    stepping(member, 0.2)
    member.do(requests.PUT, PutRequest(key=b"k"))
    assert not lines(caplog, SLOW)
    member = Member(warning_apply_duration_s=1e-9).start()
    caplog.clear()
    stepping(member, 1e-6)
    for _ in range(3):
        member.do(requests.PUT, PutRequest(key=b"k"))
    assert len(lines(caplog, SLOW)) == 3


def test_an_entry_in_vain_is_logged_in_etcds_words(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(LeaseNotFound):
        member.do(requests.PUT, PutRequest(key=b"k", value=b"secret", lease=77))
    (fields,) = lines(caplog, "failed to apply request")
    assert fields["request"].endswith('put:<key:"k" value_size:6 lease:77 >')
    assert (fields["response"], fields["error"]) == ("", "lease not found")
    assert not lines(caplog, SLOW)


def test_single_keys_share_the_time_of_their_batch(member: Member) -> None:
    client = Client(member)
    stepping(member, 0.3)
    streams = [client.begin(KV + "Range", RangeRequest(key=b"k")) for _ in range(3)]
    assert all(client.answer(stream).status == 0 for stream in streams)
    seconds = member.metrics.range_seconds["true",]
    assert seconds.count == 3
    assert len([count for count in seconds.counts if count]) == 1
    client.call(KV + "Range", RangeRequest(key=b"a", range_end=b"z"))
    client.call(KV + "Range", RangeRequest(key=b"a", serializable=True))
    client.call(KV + "Range", RangeRequest(key=b"a", revision=99))
    assert seconds.count == 5
    assert member.metrics.range_seconds["false",].count == 1
    assert member.server.store.counts.gets + member.server.store.counts.ranges == 6


def test_leases_are_counted(member: Member) -> None:
    member.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=7, TTL=60))
    member.do(requests.LEASE_REVOKE, LeaseRevokeRequest(ID=7))
    with pytest.raises(LeaseNotFound):
        member.do(requests.LEASE_REVOKE, LeaseRevokeRequest(ID=7))
    metrics = member.metrics
    assert (metrics.lease_granted_total, metrics.lease_revoked_total) == (1, 1)
    assert metrics.lease_ttl_seconds.sum == 60
    member.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=8, TTL=2))
    member.clock.advance(10)
    assert member.server.leasing.expired_total == 1
    assert metrics.lease_revoked_total == 2


# --- calls


def test_a_slow_call_is_logged(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(member)
    stream = client.begin(KV + "Put", PutRequest(key=b"k", value=b"secret"))
    stepping(member, 0.4)
    assert client.answer(stream).status == 0
    (fields,) = lines(caplog, "request stats")
    assert fields["remote"] == client.link.peer
    assert fields["response type"] == "/etcdserverpb.KV/Put"
    assert (fields["request count"], fields["request size"]) == (1, 11)
    assert fields["request content"] == 'key:"k" value_size:6 '
    assert "secret" not in str(caplog.records)


def test_a_slow_read_is_logged_as_a_slow_request(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(member)
    client.ask(KV + "Put", PutRequest(key=b"k", value=b"secret"), PutResponse)
    stream = client.begin(KV + "Range", RangeRequest(key=b"k"))
    read_only = client.begin(KV + "Txn", TxnRequest(success=[RequestOp(request_range=RangeRequest(key=b"k"))]))
    stepping(member, 0.15)
    assert client.answer(stream).parse(RangeResponse)[0].count == 1
    client.answer(read_only)
    ranged, txn = lines(caplog, SLOW)
    assert (ranged["prefix"], ranged["request"]) == ("read-only range ", 'key:"k" ')
    assert ranged["response"].startswith("range_response_count:1 size:")
    assert txn["prefix"] == "read-only txn "
    assert txn["request"] == 'compare:<> success:<request_range:<key:"k" > > failure:<>'
    assert txn["response"].startswith("responses:<range_response_count:1> size:")
    assert member.metrics.slow_apply_total == 2


def test_quick_calls_are_logged_at_level_debug_only(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(member)
    client.call(KV + "Range", RangeRequest(key=b"k"))
    assert not lines(caplog, "request stats")
    with caplog.at_level(logging.DEBUG, "ratifyd.api"):
        member.clock.advance(0.2)
        client.call(KV + "Range", RangeRequest(key=b"k"))
        client.call("/etcdserverpb.Maintenance/Status")
        client.call(KV + "Range", RangeRequest(key=b"k", revision=99))
    first, status, failed = lines(caplog, "request stats")
    assert (first["request count"], first["response count"], first["request content"]) == (0, 0, 'key:"k" ')
    assert [status[name] for name in ("request count", "request size", "response size")] == [-1, -1, -1]
    assert failed["response size"] == 0


def test_extensive_metrics_time_every_call() -> None:
    member = Member(metrics="extensive").start()
    client = Client(member)
    client.call(KV + "Range", RangeRequest(key=b"k"))
    client.call(KV + "Range", RangeRequest(key=b"k", revision=99))
    key = member.metrics.rpcs[b"/etcdserverpb.KV/Range"].key
    assert member.metrics.rpc_handling_seconds[key].count == 2
    assert not Member().start().metrics.rpc_handling_seconds


# --- the leader's duties


def test_late_heartbeats_are_counted_for_each_member(caplog: pytest.LogCaptureFixture) -> None:
    member = Member().start()
    server = member.server
    other = 0xABC
    server.members.members[other] = server.members.members[server.member_id]
    server._ticked(member.clock.time() + 0.1)
    assert server.node.raft.role is Role.LEADER and not server.metrics.heartbeat_send_failures_total
    server._ticked(member.clock.time() + 0.6)
    (fields,) = [record.fields for record in caplog.records if "heartbeat on time" in record.getMessage()]  # type: ignore[attr-defined]
    assert fields == {
        "to": "abc",
        "heartbeat-interval": "100ms",
        "expected-duration": "200ms",
        "exceeded-duration": "300ms",
    }
    assert server.metrics.heartbeat_send_failures_total == 1


def test_lines_that_say_the_same_are_sampled_as_zap_does() -> None:
    sampler = Sampler()
    picked = [number for number in range(1, 351) if sampler.picks(5.0 + number / 1000)]
    assert picked == [*range(1, 101), 200, 300]
    assert sampler.picks(6.002)


def test_slow_reads_are_all_counted_but_not_all_logged(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(member)
    streams = [client.begin(KV + "Range", RangeRequest(key=b"k")) for _ in range(250)]
    late = member.clock.time() + 1
    member.server.timing.now = lambda: late
    for stream in streams:
        client.answer(stream)
    assert member.metrics.slow_apply_total == 250
    assert len(lines(caplog, SLOW)) == len(lines(caplog, "request stats")) == 101
