"""Members over loopback: channels, replacement, loss, drops, membership, snapshots, probes."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from ratifyd.peer import streams
from ratifyd.peer.host import Timing
from ratifyd.peer.pipeline import IN_FLIGHT, QUEUE
from ratifyd.raft.messages import Message, MessageKind
from tests.unit.peer.support_peer import FAST, Member, append, members, serving, snapshot, until

Run = Callable[[Coroutine[Any, Any, None]], None]


def heartbeat(to: int, sender: int, term: int = 3) -> Message:
    return Message(MessageKind.HEARTBEAT, to, sender, term, entries=[])


def test_messages_reach_each_member_in_order_and_once(run: Run) -> None:
    async def main() -> None:
        async with members(3) as (one, two, three):
            sent = [
                append(2, 1, 3, 10, 2),
                append(3, 1, 3, 10, 2),
                append(2, 1, 3, 12, 5, commit=11),
                append(3, 1, 3, 12, 5, commit=11),
                append(2, 1, 3, 17, 0, commit=17),
            ]
            one.transport.send(sent)
            two.transport.send([heartbeat(1, 2), heartbeat(3, 2)])
            await until(lambda: len(two.host.received) == 3 and len(three.host.received) == 3)
            assert two.host.received == [sent[0], sent[2], sent[4]]
            assert [each for each in three.host.received if each.kind is MessageKind.APP] == [sent[1], sent[3]]
            assert heartbeat(3, 2) in three.host.received
            await until(lambda: one.host.received == [heartbeat(1, 2)])
            assert not one.host.unreachable
            assert one.transport.active_since(2) is not None
            assert one.transport.active_peers == 2
            assert one.transport.active_since(9) is None
            assert one.host.metrics.known_peers() == {("1", "2"): 1, ("1", "3"): 1}
            assert one.host.metrics.active_peers == {("1", "2"): 1, ("1", "3"): 1}

    run(main())


def test_all_messages_of_one_send_to_one_member_are_one_write(run: Run) -> None:
    async def main() -> None:
        async with members(2) as (one, two):
            one.transport.send([append(2, 1, 3, 10 + number) for number in range(50)])
            await until(lambda: len(two.host.received) == 50)
            assert len(two.host.batches) == 1

    run(main())


def test_unknown_receivers_are_ignored(run: Run) -> None:
    async def main() -> None:
        async with members(2) as (one, two):
            one.transport.send([heartbeat(77, 1), heartbeat(2, 1)])
            await until(lambda: two.host.received)
            assert one.host.unreachable == []

    run(main())


def test_messages_for_others_and_from_removed_members_are_not_delivered(run: Run) -> None:
    async def main() -> None:
        async with members(2) as (one, two):
            two.host.removed.add(66)
            writer = one.transport.peer(2).writers["message"]  # type: ignore[union-attr]
            for message in (heartbeat(5, 1), heartbeat(2, 66), snapshot(2, 1), heartbeat(2, 1)):
                assert writer.push(message)
            writer.flush()
            await until(lambda: two.host.received)
            assert two.host.received == [heartbeat(2, 1)]

    run(main())


def test_a_snapshot_does_not_go_by_send(run: Run) -> None:
    async def main() -> None:
        async with members(2) as (one, _):
            with pytest.raises(ValueError, match="send_snapshot"):
                one.transport.send([snapshot(2, 1)])

    run(main())


def test_streams_stay_open_when_nothing_is_said(run: Run) -> None:
    async def main() -> None:
        timing = FAST._replace(io_timeout_s=0.15)
        async with members(2, timing) as (one, two):
            since = one.transport.active_since(2)
            await asyncio.sleep(0.6)  # several timeouts
            assert one.transport.active_since(2) == since
            assert one.host.unreachable == two.host.unreachable == []

    run(main())


def test_a_member_that_restarts_is_found_again(run: Run) -> None:
    async def main() -> None:
        async with members(2) as (one, two):
            port = two.listener.port
            await two.stop()
            await until(lambda: one.transport.active_since(2) is None)
            assert 2 in one.host.unreachable
            again = Member(2, port=port)
            try:
                again.knows(one)
                await again.serve()
                await until(lambda: one.writers_up(again) and one.transport.active_since(2) is not None)
                one.transport.send([append(2, 1, 3, 10)])
                await until(lambda: again.host.received == [append(2, 1, 3, 10)])
            finally:
                await again.stop()

    run(main())


def test_a_new_stream_replaces_the_old_one(run: Run) -> None:
    async def main() -> None:
        async with members(2) as (one, two):
            head = (
                "GET /raft/stream/msgapp/2 HTTP/1.1\r\nHost: x\r\nX-Server-From: 2\r\nX-Server-Version: 3.5.1\r\n"
                "X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: cafe\r\nX-Raft-To: 1\r\n\r\n"
            )
            reader, writer = await asyncio.open_connection("127.0.0.1", one.listener.port)
            writer.write(head.encode())
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"X-Server-Version: 3." in answer and b"X-Etcd-Cluster-ID: cafe" in answer
            # The reader of member 2 lost its stream, dials again and takes it back from us.
            await asyncio.wait_for(reader.read(), 5)
            writer.close()
            await until(lambda: one.writers_up(two))
            one.transport.send([append(2, 1, 3, 10)])
            await until(lambda: two.host.received == [append(2, 1, 3, 10)])

    run(main())


def test_without_streams_messages_are_posted(run: Run) -> None:
    async def main() -> None:
        async with members(2, connected=False) as (one, two):
            one.knows(two)  # but two does not dial one
            one.transport.send([append(2, 1, 3, 10), heartbeat(2, 1)])
            await until(lambda: len(two.host.received) == 2)
            assert sorted(message.kind for message in two.host.received) == [MessageKind.APP, MessageKind.HEARTBEAT]
            assert one.host.unreachable == []

    run(main())


def test_an_answer_reaches_a_member_that_is_not_known_yet(run: Run) -> None:
    async def main() -> None:
        async with members(2, connected=False) as (one, two):
            one.knows(two)
            one.transport.send([heartbeat(2, 1)])
            await until(lambda: two.host.received)
            two.transport.send([heartbeat(1, 2)])  # at the URLs of X-PeerURLs
            await until(lambda: one.host.received == [heartbeat(1, 2)])
            assert two.transport.active_since(1) is None
            two.knows(one)
            await until(lambda: one.writers_up(two))

    run(main())


def test_a_dead_member_costs_drops_and_reports_but_no_waiting(run: Run) -> None:
    async def main() -> None:
        async with members(1) as (one,):
            one.transport.add_peer(2, ["http://127.0.0.1:1"])
            one.transport.send([heartbeat(2, 1)] * (QUEUE + IN_FLIGHT + 10))
            assert len(one.host.unreachable) >= 10  # what did not fit, at once
            await until(lambda: len(one.host.unreachable) == QUEUE + IN_FLIGHT + 10)

    run(main())


def test_a_reader_that_does_not_read_is_dropped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "QUEUE_LIMIT", 1 << 20)

    async def main() -> None:
        async with members(1) as (one,):
            one.transport.add_peer(2, ["http://127.0.0.1:1"])
            head = (
                "GET /raft/stream/msgapp/2 HTTP/1.1\r\nHost: x\r\nX-Server-Version: 3.5.1\r\n"
                "X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: cafe\r\nX-Raft-To: 1\r\n\r\n"
            )
            _, writer = await asyncio.open_connection("127.0.0.1", one.listener.port, limit=1 << 10)
            writer.write(head.encode())
            peer = one.transport.peer(2)
            assert peer is not None
            stream = peer.writers["msgapp"]
            await until(lambda: stream.working)
            index, size = 10, 1 << 18
            while 2 not in one.host.unreachable:
                one.transport.send([append(2, 1, 3, index, size=size)])
                index += 1
                await asyncio.sleep(0)
                assert index < 400, "nothing was ever dropped"
            # Nothing is taken for longer than the timeout: the connection is cut.
            await until(lambda: not stream.working)
            writer.close()

    run(main())


def test_messages_are_on_their_way_before_send_returns(run: Run) -> None:
    """Our own sync may block the loop right after `send`: the other member's shall run beside it, not behind it."""

    async def main() -> None:
        async with members(1) as (one,):
            one.transport.add_peer(2, ["http://127.0.0.1:1"])
            head = (
                "GET /raft/stream/msgapp/2 HTTP/1.1\r\nHost: x\r\nX-Server-Version: 3.5.1\r\n"
                "X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: cafe\r\nX-Raft-To: 1\r\n\r\n"
            )
            with socket.create_connection(("127.0.0.1", one.listener.port)) as other:
                other.sendall(head.encode())
                peer = one.transport.peer(2)
                assert peer is not None
                await until(lambda: peer.writers["msgapp"].working)
                other.settimeout(10)
                while not other.recv(1 << 16).endswith(b"\r\n\r\n"):  # the head of the answer
                    pass
                one.transport.send([append(2, 1, 3, 10, size=1000)])
                assert len(other.recv(1 << 16)) > 1000

    run(main())


def test_silence_ends_a_stream(run: Run) -> None:
    async def main() -> None:
        timing = FAST._replace(io_timeout_s=0.15)
        dials: list[bytes] = []

        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = await reader.readuntil(b"\r\n\r\n")
            if b"/raft/stream/" in request:
                dials.append(request)
            head = b"HTTP/1.1 200 OK\r\nX-Server-Version: 3.5.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            writer.write(head + b"1\r\n\x00\r\n")
            await reader.read()

        async with serving(mute) as url, members(1, timing) as (one,):
            one.transport.add_peer(2, [url])
            await until(lambda: one.transport.active_since(2) is not None)
            await until(lambda: one.transport.active_since(2) is None)
            await until(lambda: len(dials) >= 4)  # both dialled again

    run(main())


def test_removed_members_are_told_so(run: Run) -> None:
    async def main() -> None:
        async with members(2) as (one, two):
            one.host.removed.add(2)
            one.transport.remove_peer(2)
            await until(lambda: two.host.removed_from)
            assert one.transport.active_since(2) is None
            one.transport.remove_peer(2)  # twice is harmless

    run(main())


def test_a_removed_member_that_posts_is_told_so(run: Run) -> None:
    async def main() -> None:
        async with members(2, connected=False) as (one, two):
            one.knows(two)
            one.transport.send([heartbeat(2, 1)])
            await until(lambda: two.host.received)
            two.host.removed.add(1)
            count = one.host.removed_from
            one.transport.send([heartbeat(2, 1)])
            await until(lambda: one.host.removed_from > count)

    run(main())


def test_another_members_message_is_no_removal(run: Run) -> None:
    async def main() -> None:
        async with members(2, connected=False) as (one, two):
            one.transport.add_peer(3, [two.url])
            one.transport.send([heartbeat(3, 1)])
            await until(lambda: 3 in one.host.unreachable)
            assert not one.host.removed_from and not two.host.received

    run(main())


def test_urls_can_change(run: Run) -> None:
    async def main() -> None:
        async with members(2, connected=False) as (one, two):
            one.transport.add_peer(2, ["http://127.0.0.1:1"])
            two.knows(one)
            await until(lambda: one.writers_up(two))  # two dials us, we cannot dial it
            one.transport.update_peer(2, ["http://127.0.0.1:1", two.url])
            await until(lambda: two.writers_up(one))
            one.transport.update_peer(99, [two.url])
            assert one.transport.active_since(99) is None
            for urls in ([], ["http://no-port"], ["gopher://x:1"]):
                with pytest.raises(ValueError):
                    one.transport.add_peer(5, urls)

    run(main())


def test_another_cluster_is_refused(run: Run) -> None:
    async def main() -> None:
        one, two = Member(1), Member(2, cluster_id=0xBEEF)
        try:
            await one.serve()
            await two.serve()
            one.knows(two)
            two.knows(one)
            one.transport.send([heartbeat(2, 1)])
            await until(lambda: 2 in one.host.unreachable)
            assert not one.writers_up(two) and not two.host.received
        finally:
            await one.stop()
            await two.stop()

    run(main())


# ---- snapshots


def test_a_snapshot_arrives_whole_and_is_reported(run: Run) -> None:
    async def main() -> None:
        async with members(2) as (one, two):
            threads = set()
            pieces = [bytes([number]) * 300_000 for number in range(20)]

            def image() -> Iterator[bytes]:
                for piece in pieces:
                    threads.add(threading.current_thread().name)
                    yield piece

            dones: list[bool] = []
            one.transport.send_snapshot(snapshot(2, 1), 6_000_000, image, dones.append)
            await until(lambda: one.host.snapshot_reports)
            assert dones == [True] and one.host.snapshot_reports == [(2, True)]
            assert two.host.images == [(snapshot(2, 1), b"".join(pieces))]
            assert two.host.received == [snapshot(2, 1)]
            assert len(threads) == 1 and "MainThread" not in threads
            assert one.host.metrics.snapshot_send_success[("2",)] == 1
            assert two.host.metrics.snapshot_receive_success[("1",)] == 1
            assert one.host.metrics.snapshot_send_inflights[("2",)] == 0

    run(main())


def test_one_snapshot_at_a_time(run: Run) -> None:
    async def main() -> None:
        async with members(2) as (one, _):
            gate = threading.Event()

            def image() -> Iterator[bytes]:
                gate.wait(5)
                yield b"image"

            dones: list[bool] = []
            one.transport.send_snapshot(snapshot(2, 1), 5, image, dones.append)
            one.transport.send_snapshot(snapshot(2, 1), 5, image, dones.append)
            one.transport.send_snapshot(snapshot(9, 1), 5, image, dones.append)
            await until(lambda: len(dones) == 2)
            assert one.host.snapshot_reports == [(2, False), (9, False)]
            gate.set()
            await until(lambda: len(dones) == 3)
            assert dones == [False, False, True]

    run(main())


def broken_image() -> Iterator[bytes]:
    yield b"half"
    raise OSError("disk gone")


def unreadable_image() -> Iterator[bytes]:
    raise ValueError("no such image")


@pytest.mark.parametrize("image", [broken_image, unreadable_image])
def test_an_image_that_cannot_be_read_is_not_taken_for_whole(run: Run, image: Callable[[], Iterator[bytes]]) -> None:
    async def main() -> None:
        async with members(2) as (one, two):
            dones: list[bool] = []
            one.transport.send_snapshot(snapshot(2, 1), 9, image, dones.append)
            await until(lambda: one.host.snapshot_reports == [(2, False)])
            assert dones == [False]
            await until(lambda: two.host.broken_image is not None)
            assert isinstance(two.host.broken_image, ConnectionError)
            assert not two.host.images and 2 in one.host.unreachable

    run(main())


def test_a_receiver_may_refuse_an_image(run: Run) -> None:
    async def main() -> None:
        async with members(2) as (one, two):
            two.host.refuse_image = OSError("disk full")
            big = [bytes(1 << 20)] * 64  # more than any buffer holds: the answer comes before the upload ends
            dones: list[bool] = []
            one.transport.send_snapshot(snapshot(2, 1), 64 << 20, lambda: iter(big), dones.append)
            await until(lambda: dones == [False])
            assert two.host.metrics.snapshot_receive_failures[("1",)] == 1

    run(main())


def test_stopping_breaks_a_snapshot_off(run: Run) -> None:
    async def main() -> None:
        async with members(2) as (one, two):
            sent = threading.Event()

            def image() -> Iterator[bytes]:
                yield b"first"
                while True:
                    yield bytes(1 << 16)
                    sent.set()

            dones: list[bool] = []
            one.transport.send_snapshot(snapshot(2, 1), 9, image, dones.append)
            await until(sent.is_set)
            await one.transport.stop()
            assert dones == [False]
            assert not two.host.images

    run(main())


def test_a_snapshot_cancelled_before_it_began_is_reported(run: Run) -> None:
    async def main() -> None:
        async with members(2) as (one, _):
            dones: list[bool] = []
            one.transport.send_snapshot(snapshot(2, 1), 5, lambda: iter([b"x"]), dones.append)
            one.transport.remove_peer(2)
            await until(lambda: dones == [False])
            assert one.host.snapshot_reports == [(2, False)]

    run(main())


# ---- probes


def test_round_trips_are_measured_and_clocks_compared(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with members(2) as (one, two):
            await until(lambda: one.host.metrics.peer_round_trip_seconds[("2",)].count >= 2)
            assert "clock drift" not in caplog.text
            two.endpoints._wall = lambda: 1e9  # far behind
            await until(lambda: "prober found high clock drift" in caplog.text)
            await two.stop()
            await until(lambda: "prober detected unhealthy status" in caplog.text)

    run(main())


def test_etcd_timing() -> None:
    timing = Timing()
    assert (timing.io_timeout_s, timing.redial_s, timing.probe_s) == (5.0, 0.1, 4.0)
