"""Watch.Watch."""

import pytest

from harness.outcomes import changes, delete, failure, get, op_delete, op_put, put, txn
from harness.stubs import Client
from harness.watch import WatchStream
from ratifyd.proto import rpc_pb2

_NOPUT, _NODELETE = rpc_pb2.WatchCreateRequest.NOPUT, rpc_pb2.WatchCreateRequest.NODELETE


def test_creation_and_events(client: Client, prefix: bytes, stream: WatchStream) -> None:
    now = put(client, prefix + b"other").header.revision
    created = stream.create(prefix)
    assert (created.watch_id, created.canceled, created.header.revision, len(created.events)) == (0, False, now, 0)
    revision = put(client, prefix, b"v").header.revision
    response = stream.take()
    event = response.events[0]
    assert (response.watch_id, response.header.revision, response.created) == (0, revision, False)
    assert (event.type, event.kv.value, event.kv.version, event.kv.create_revision) == (0, b"v", 1, revision)
    assert not event.HasField("prev_kv")


def test_a_deletion_shows_key_and_revision_only(client: Client, prefix: bytes, stream: WatchStream) -> None:
    put(client, prefix, b"v")
    stream.create(prefix)
    revision = delete(client, prefix).header.revision
    event = stream.events(1)[0]
    assert (event.type, event.kv.key, event.kv.mod_revision) == (1, prefix, revision)
    assert (event.kv.value, event.kv.version, event.kv.create_revision, event.kv.lease) == (b"", 0, 0, 0)


def test_ids_are_counted_per_stream_and_skip_taken_ones(client: Client, prefix: bytes, stream: WatchStream) -> None:
    assert stream.create(prefix).watch_id == 0
    assert stream.create(prefix, watch_id=1).watch_id == 1
    assert stream.create(prefix, watch_id=-9).watch_id == -9
    assert stream.create(prefix).watch_id == 2
    with WatchStream(client) as other:
        assert other.create(prefix).watch_id == 0


def test_a_taken_id_is_refused_in_band(client: Client, prefix: bytes, stream: WatchStream) -> None:
    stream.create(prefix, watch_id=5)
    again = stream.create(prefix + b"x", watch_id=5)
    reason = "mvcc: duplicate watch ID provided on the WatchStream"
    assert (again.canceled, again.watch_id, again.cancel_reason) == (True, -1, reason)
    put(client, prefix + b"x")
    revision = put(client, prefix).header.revision
    assert changes(stream.events(1)) == [("PUT", prefix, revision)]


def test_an_empty_range_is_refused_in_band(client: Client, prefix: bytes, stream: WatchStream) -> None:
    for key, range_end in ((b"b", b"a"), (b"b", b"b")):
        answer = stream.create(prefix + key, prefix + range_end)
        reason = "mvcc: watcher range is empty"
        assert (answer.canceled, answer.watch_id, answer.cancel_reason) == (True, -1, reason)
    assert stream.create(prefix).watch_id == 0


def test_ranges(client: Client, prefix: bytes, end: bytes, stream: WatchStream) -> None:
    stream.create(prefix, end, watch_id=1)
    stream.create(prefix + b"b", prefix + b"c", watch_id=2)
    stream.create(prefix + b"b", watch_id=3)
    revisions = {name: put(client, prefix + name).header.revision for name in (b"a", b"b", b"b\0", b"c")}
    put(client, end)
    seen: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for _ in range(7):
        response = stream.take()
        seen[response.watch_id] += [event.kv.mod_revision for event in response.events]
    assert seen == {
        1: list(revisions.values()),
        2: [revisions[b"b"], revisions[b"b\0"]],
        3: [revisions[b"b"]],
    }
    assert stream.nothing_before_fence() == []


def test_an_empty_key_means_the_smallest_and_zero_byte_end_means_everything(fresh: Client) -> None:
    with WatchStream(fresh) as stream:
        stream.create(b"", b"\0")
        for key in (b"\0", b"a", b"\xff\xff"):
            put(fresh, key)
        assert [key for _, key, _ in changes(stream.events(3))] == [b"\0", b"a", b"\xff\xff"]


def test_replay_of_the_past(client: Client, prefix: bytes, stream: WatchStream) -> None:
    first = put(client, prefix, b"1").header.revision
    delete(client, prefix)
    put(client, prefix, b"2")
    stream.create(prefix, start_revision=first)
    put(client, prefix, b"3")
    expected = [
        ("PUT", prefix, first),
        ("DELETE", prefix, first + 1),
        ("PUT", prefix, first + 2),
        ("PUT", prefix, first + 3),
    ]
    assert changes(stream.events(4)) == expected
    assert stream.create(prefix, start_revision=first + 2).watch_id == 1
    assert changes(stream.events(2)) == expected[2:]


def test_a_start_in_the_future_waits(client: Client, prefix: bytes, stream: WatchStream) -> None:
    now = put(client, prefix).header.revision
    stream.create(prefix, start_revision=now + 3)
    for _ in range(4):
        put(client, prefix)
    assert changes(stream.events(2)) == [("PUT", prefix, now + 3), ("PUT", prefix, now + 4)]


def test_a_compacted_start_is_cancelled(fresh: Client) -> None:
    for _ in range(5):
        put(fresh, b"k")
    fresh.kv.Compact(rpc_pb2.CompactionRequest(revision=4, physical=True))
    with WatchStream(fresh) as stream:
        created = stream.create(b"k", start_revision=3)
        assert (created.canceled, created.watch_id) == (False, 0)
        response = stream.take()
        assert (response.canceled, response.watch_id, response.compact_revision) == (True, 0, 4)
        assert (response.cancel_reason, response.header.revision, len(response.events)) == ("", 0, 0)
        stream.create(b"k", start_revision=4)
        assert changes(stream.events(3)) == [("PUT", b"k", 4), ("PUT", b"k", 5), ("PUT", b"k", 6)]


@pytest.mark.only("ratifyd")
def test_a_negative_start_is_cancelled(client: Client, prefix: bytes, stream: WatchStream) -> None:
    """Since 3.5.24 and 3.6.6."""
    answer = stream.create(prefix, start_revision=-1)
    reason = "etcdserver: mvcc: required revision has been compacted"
    assert (answer.canceled, answer.watch_id, answer.cancel_reason) == (True, -1, reason)


def test_cancellation(client: Client, prefix: bytes, stream: WatchStream) -> None:
    stream.create(prefix)
    put(client, prefix)
    stream.events(1)
    stream.cancel(0)
    response = stream.take()
    assert (response.canceled, response.watch_id, response.created, response.cancel_reason) == (True, 0, False, "")
    put(client, prefix)
    assert stream.nothing_before_fence() == []


def test_cancelling_an_unknown_id_has_no_answer(stream: WatchStream) -> None:
    stream.cancel(77)
    assert stream.nothing_before_fence() == []


def test_a_cancelled_id_can_be_used_again(client: Client, prefix: bytes, stream: WatchStream) -> None:
    stream.create(prefix, watch_id=4)
    stream.cancel(4)
    assert stream.take().canceled
    assert stream.create(prefix + b"new", watch_id=4).watch_id == 4
    put(client, prefix)
    revision = put(client, prefix + b"new").header.revision
    assert changes(stream.events(1)) == [("PUT", prefix + b"new", revision)]


def test_a_request_without_content_is_ignored(client: Client, prefix: bytes, stream: WatchStream) -> None:
    stream.send(rpc_pb2.WatchRequest())
    assert stream.create(prefix).watch_id == 0


def test_filters(client: Client, prefix: bytes, stream: WatchStream) -> None:
    stream.create(prefix, watch_id=1, filters=[_NOPUT])
    stream.create(prefix, watch_id=2, filters=[_NODELETE])
    stream.create(prefix, watch_id=3, filters=[_NOPUT, _NODELETE])
    stream.create(prefix, watch_id=4, filters=[9])
    put(client, prefix)
    delete(client, prefix)
    seen = [(response.watch_id, response.events[0].type) for response in (stream.take() for _ in range(4))]
    assert sorted(seen) == [(1, 1), (2, 0), (4, 0), (4, 1)]
    assert stream.nothing_before_fence() == []


def test_filters_on_the_past(client: Client, prefix: bytes, stream: WatchStream) -> None:
    first = put(client, prefix).header.revision
    delete(client, prefix)
    put(client, prefix)
    stream.create(prefix, start_revision=first, filters=[_NOPUT])
    assert changes(stream.events(1)) == [("DELETE", prefix, first + 1)]


def test_previous_values(client: Client, prefix: bytes, stream: WatchStream) -> None:
    stream.create(prefix, prev_kv=True, watch_id=1)
    put(client, prefix, b"1")
    put(client, prefix, b"2")
    delete(client, prefix)
    put(client, prefix, b"3")
    events = stream.events(4)
    assert [event.HasField("prev_kv") for event in events] == [False, True, True, False]
    assert (events[1].prev_kv.value, events[2].prev_kv.value, events[2].prev_kv.version) == (b"1", b"2", 2)


def test_previous_values_on_the_past(client: Client, prefix: bytes, stream: WatchStream) -> None:
    first = put(client, prefix, b"1").header.revision
    put(client, prefix, b"2")
    delete(client, prefix)
    stream.create(prefix, prev_kv=True, start_revision=first)
    events = stream.events(3)
    assert [event.prev_kv.value for event in events] == [b"", b"1", b"2"]


def test_previous_values_that_are_compacted_are_left_out(fresh: Client) -> None:
    for n in range(4):
        put(fresh, b"k", b"%d" % n)
    fresh.kv.Compact(rpc_pb2.CompactionRequest(revision=4, physical=True))
    with WatchStream(fresh) as stream:
        stream.create(b"k", prev_kv=True, start_revision=4)
        events = stream.events(2)
    assert [event.HasField("prev_kv") for event in events] == [False, True]
    assert events[1].prev_kv.value == b"2"


def test_one_response_holds_all_events_of_a_txn(client: Client, prefix: bytes, end: bytes, stream: WatchStream) -> None:
    put(client, prefix + b"old")
    stream.create(prefix, end)
    operations = [op_put(prefix + b"%03d" % n) for n in range(100)]
    revision = txn(client, [*operations, op_delete(prefix + b"old")]).header.revision
    response = stream.take()
    assert (len(response.events), response.header.revision) == (101, revision)
    assert {event.kv.mod_revision for event in response.events} == {revision}


def test_watchers_of_one_range_get_a_response_each(client: Client, prefix: bytes, stream: WatchStream) -> None:
    for watch_id in range(1, 6):
        stream.create(prefix, watch_id=watch_id)
    revision = put(client, prefix).header.revision
    responses = [stream.take() for _ in range(5)]
    assert {response.watch_id for response in responses} == set(range(1, 6))
    assert {response.events[0].kv.mod_revision for response in responses} == {revision}


def test_many_watchers_of_one_range_are_told_the_same(
    client: Client, prefix: bytes, end: bytes, stream: WatchStream
) -> None:
    ids = [*range(1, 60), 127, 128, 129, 16_384, 2**40, -1000]
    for watch_id in ids:
        stream.create(prefix, end, watch_id=watch_id)
    stream.create(prefix, end, watch_id=5000, prev_kv=True)
    stream.create(prefix, end, watch_id=5001, filters=[_NOPUT])
    first = put(client, prefix, b"1").header.revision
    for gone in ids[::2]:
        stream.cancel(gone)
    left = set(ids[1::2])
    answers = [stream.take() for _ in range(len(ids) + 1 + len(ids[::2]))]
    assert {each.watch_id for each in answers if each.canceled} == set(ids[::2])
    told = [each for each in answers if each.events]
    assert {each.watch_id for each in told} == {*ids, 5000}
    assert {each.SerializeToString() for each in map(_without_id, told)} == {_without_id(told[0]).SerializeToString()}
    last = txn(client, success=[op_put(prefix + b"a", b"2"), op_delete(prefix)]).header.revision
    told = [stream.take() for _ in range(len(left) + 2)]
    expected = [("PUT", prefix + b"a", last), ("DELETE", prefix, last)]
    for each in told:
        assert changes(each.events) == (expected[1:] if each.watch_id == 5001 else expected)
        before = [event.prev_kv.mod_revision for event in each.events]
        assert before == ([0, first] if each.watch_id == 5000 else [0] * len(before))
    assert {each.watch_id for each in told} == {*left, 5000, 5001}
    assert stream.nothing_before_fence() == []


def _without_id(response: rpc_pb2.WatchResponse) -> rpc_pb2.WatchResponse:
    other = rpc_pb2.WatchResponse()
    other.CopyFrom(response)
    other.watch_id = 0
    return other


def test_a_progress_request_is_answered_for_the_whole_stream(
    client: Client, prefix: bytes, stream: WatchStream
) -> None:
    stream.create(prefix)
    revision = put(client, prefix).header.revision
    stream.events(1)
    stream.progress()
    response = stream.take()
    assert (response.watch_id, response.header.revision, len(response.events)) == (-1, revision, 0)


@pytest.mark.only("ratifyd")
def test_progress_without_watchers_or_with_one_of_the_future_is_not_answered(
    client: Client, prefix: bytes, stream: WatchStream
) -> None:
    """Since 3.5.8; 3.5.1 always answers."""
    stream.progress()
    now = get(client, prefix).header.revision
    stream.create(prefix, start_revision=now + 1000)
    stream.progress()
    assert stream.nothing_before_fence() == []


def test_periodic_progress(start_server, kind: str) -> None:  # type: ignore[no-untyped-def]
    _, client = start_server("--experimental-watch-progress-notify-interval=200ms")
    put(client, b"k")
    with WatchStream(client) as stream:
        stream.create(b"k", watch_id=1, progress_notify=True)
        stream.create(b"k", watch_id=2)
        for _ in range(2):
            response = stream.take()
            assert (response.watch_id, response.header.revision, len(response.events)) == (1, 2, 0)


def test_half_closing_keeps_the_stream_open(client: Client, prefix: bytes, stream: WatchStream) -> None:
    stream.create(prefix)
    stream.half_close()
    revision = put(client, prefix).header.revision
    assert changes(stream.events(1)) == [("PUT", prefix, revision)]


def test_a_lease_revocation_is_one_response(
    client: Client, prefix: bytes, end: bytes, stream: WatchStream, new_lease
) -> None:  # type: ignore[no-untyped-def]
    lease = new_lease()
    names = [prefix + name for name in (b"c", b"a", b"b")]
    for name in names:
        put(client, name, lease=lease)
    stream.create(prefix, end)
    revision = client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease)).header.revision
    assert changes(list(stream.take().events)) == [("DELETE", name, revision) for name in sorted(names)]


def test_catching_up_over_many_revisions_loses_nothing(client: Client, prefix: bytes, stream: WatchStream) -> None:
    first = put(client, prefix).header.revision
    for _ in range(1500):
        put(client, prefix)
    stream.create(prefix, start_revision=first)
    events = stream.events(1501)
    assert [event.kv.mod_revision for event in events] == list(range(first, first + 1501))


def test_fragments(client: Client, prefix: bytes, end: bytes) -> None:
    operations = [op_put(prefix + b"%d" % n, b"x" * 700_000) for n in range(2)]
    first = txn(client, operations).header.revision
    txn(client, operations)
    with WatchStream(client) as stream:
        stream.create(prefix, end, start_revision=first, fragment=True)
        responses = []
        while sum(len(response.events) for response in responses) < 4:
            responses.append(stream.take())
        assert all(response.ByteSize() < 2_097_152 for response in responses)
        assert [response.fragment for response in responses] == [True] * (len(responses) - 1) + [False]
        assert len(responses) > 1
    with WatchStream(client) as stream:
        stream.create(prefix, end, start_revision=first)
        response = stream.take()
        assert (len(response.events), response.fragment) == (4, False)


def test_a_client_that_is_gone_leaves_the_others_alone(client: Client, prefix: bytes, stream: WatchStream) -> None:
    stream.create(prefix)
    with WatchStream(client) as other:
        other.create(prefix)
    revision = put(client, prefix).header.revision
    assert changes(stream.events(1)) == [("PUT", prefix, revision)]


def test_events_come_in_order_to_all_under_load(client: Client, prefix: bytes, end: bytes) -> None:
    streams = [WatchStream(client) for _ in range(4)]
    for each in streams:
        each.create(prefix, end)
    calls = [client.kv.Put.future(rpc_pb2.PutRequest(key=prefix + b"%d" % (n % 7))) for n in range(300)]
    revisions = sorted(call.result().header.revision for call in calls)
    for each in streams:
        assert [revision for _, _, revision in changes(each.events(300))] == revisions
        each.close()


def test_garbage_ends_the_stream(client: Client) -> None:
    call = client.channel.stream_stream("/etcdserverpb.Watch/Watch")(iter([b"\x0a\x7f"]))
    assert failure(next, call)[0] == "INTERNAL"
