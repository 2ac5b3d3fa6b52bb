"""The raft paths of the peer port, as etcd answers them (checked against 3.5.1 in tests/interop)."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any

import pytest

from ratifyd.peer.client import Answer, PeerClient
from ratifyd.peer.codec import frame_message
from ratifyd.peer.headers import has_streams, identity, major_minor, parse_id, refusal
from ratifyd.peer.probing import probe_answer, read_probe_answer
from ratifyd.raft.codec import encode_message
from ratifyd.raft.messages import ConfState, Message, MessageKind, Snapshot, SnapshotMeta
from tests.unit.peer.support_peer import CLUSTER_ID, Member, members, snapshot, until

Run = Callable[[Coroutine[Any, Any, None]], None]
GOOD = {
    "X-Server-From": "2",
    "X-Server-Version": "3.5.1",
    "X-Min-Cluster-Version": "3.0.0",
    "X-Etcd-Cluster-ID": "cafe",
    "X-Raft-To": "1",
}
HEARTBEAT = Message(MessageKind.HEARTBEAT, 1, 2, 3, entries=[])


def without(*names: str, **changed: str) -> list[tuple[str, str]]:
    """Good headers without some, and with `name__part` standing for name-part."""
    headers = {name: value for name, value in GOOD.items() if name not in names}
    headers.update({name.replace("__", "-"): value for name, value in changed.items()})
    return list(headers.items())


async def ask(
    member: Member, method: str, path: str, body: bytes = b"", headers: Sequence[tuple[str, str]] = tuple(GOOD.items())
) -> Answer:
    client = PeerClient()
    try:
        return await client.request(method, member.url, path, headers=headers, body=body)
    finally:
        await client.close()


REFUSALS = [
    ("GET", "/raft", GOOD, 405, "Method Not Allowed"),
    ("GET", "/raft/snapshot", GOOD, 405, "Method Not Allowed"),
    ("POST", "/raft/stream/msgapp/2", GOOD, 405, "Method Not Allowed"),
    ("POST", "/raft", without("X-Server-Version"), 412, "incompatible version"),
    ("POST", "/raft", without(X__Server__Version="2.9.0"), 412, "incompatible version"),
    ("POST", "/raft", without(X__Server__Version="garbage"), 412, "incompatible version"),
    ("POST", "/raft", without(X__Min__Cluster__Version="4.0.0"), 412, "incompatible version"),
    ("POST", "/raft", without("X-Etcd-Cluster-ID"), 412, "cluster ID mismatch"),
    ("POST", "/raft", without(X__Etcd__Cluster__ID="beef"), 412, "cluster ID mismatch"),
    ("POST", "/raft/snapshot", without("X-Server-Version"), 412, "incompatible version"),
    ("GET", "/raft/stream/msgapp/2", without("X-Server-Version"), 412, "incompatible version"),
    ("GET", "/raft/stream/other/2", GOOD, 404, "invalid path"),
    ("GET", "/raft/stream/msgapp", GOOD, 404, "invalid path"),
    ("GET", "/raft/stream/msgapp/", GOOD, 404, "invalid from"),
    ("GET", "/raft/stream/msgapp/xyz", GOOD, 404, "invalid from"),
    ("GET", "/raft/stream/msgapp/2", GOOD, 404, "error sender not found"),
    ("GET", "/raft/stream/msgapp/3", without(X__Raft__To="7"), 412, "to field mismatch"),
    ("GET", "/raft/stream/message/9", GOOD, 410, "removed member"),
]


@pytest.mark.parametrize(("method", "path", "headers", "status", "text"), REFUSALS)
def test_refusals(run: Run, method: str, path: str, headers: Any, status: int, text: str) -> None:
    async def main() -> None:
        async with members(1) as (one,):
            one.host.removed.add(9)
            one.transport.add_peer(3, ["http://127.0.0.1:1"])
            answer = await ask(one, method, path, b"", list(dict(headers).items()))
            assert (answer.status, answer.body) == (status, f"{text}\n".encode())
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            if status == 405:
                assert answer.headers["allow"] in ("GET", "POST")
            else:
                assert answer.headers["x-etcd-cluster-id"] == "cafe"

    run(main())


def test_posted_messages(run: Run) -> None:
    async def main() -> None:
        async with members(1) as (one,):
            one.host.removed.add(9)
            answer = await ask(one, "POST", "/raft", encode_message(HEARTBEAT))
            assert (answer.status, answer.body) == (204, b"")
            assert one.host.received == [HEARTBEAT]
            answer = await ask(one, "POST", "/raft", b"\xff\xff")
            assert (answer.status, answer.body) == (400, b"error unmarshalling raft message\n")
            removed = Message(MessageKind.HEARTBEAT, 1, 9, 3)
            answer = await ask(one, "POST", "/raft", encode_message(removed))
            assert (answer.status, json.loads(answer.body)) == (
                403,
                {"message": "cannot process message from removed member"},
            )
            assert answer.headers["content-type"] == "application/json"
            answer = await ask(one, "POST", "/raft", encode_message(Message(MessageKind.HEARTBEAT, 5, 2, 3)))
            assert (answer.status, answer.body) == (412, b"cannot process message to mismatch member\n")
            answer = await ask(one, "POST", "/raft", encode_message(snapshot(1, 2)))
            assert (answer.status, answer.body) == (500, b"error processing raft message\n")
            assert len(one.host.received) == 1

    run(main())


def test_posted_snapshots(run: Run) -> None:
    async def main() -> None:
        async with members(1) as (one,):
            one.host.removed.add(9)
            good = frame_message(snapshot(1, 2))
            state = SnapshotMeta(5, 1, ConfState((1, 2), voters_outgoing=(2, 3)))
            joint = Message(MessageKind.SNAP, 1, 2, 3, snapshot=Snapshot(state, b""))
            answer = await ask(one, "POST", "/raft/snapshot", good + b"image")
            assert answer.status == 204 and one.host.images == [(snapshot(1, 2), b"image")]
            for body, status, text in (
                (b"", 400, "failed to decode raft message (EOF)"),
                (good[:-1], 400, "failed to decode raft message (unexpected EOF)"),
                (b"\x00\x00\x01" + bytes(5), 400, "failed to decode raft message (rafthttp: error limit exceeded)"),
                (frame_message(HEARTBEAT), 400, "wrong raft message type"),
                (frame_message(joint), 400, "wrong raft message type"),
            ):
                answer = await ask(one, "POST", "/raft/snapshot", body)
                assert (answer.status, answer.text) == (status, text)
            answer = await ask(one, "POST", "/raft/snapshot", frame_message(snapshot(1, 9)))
            assert (answer.status, "removed member" in answer.text) == (403, True)
            one.host.refuse_image = OSError("disk full")
            answer = await ask(one, "POST", "/raft/snapshot", good)
            assert (answer.status, answer.text) == (500, "failed to save KV snapshot (disk full)")

    run(main())


def test_a_stalled_snapshot_is_given_up(run: Run) -> None:
    async def main() -> None:
        async with members(1) as (one,):
            body = frame_message(snapshot(1, 2)) + b"half"
            head = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
            reader, writer = await asyncio.open_connection("127.0.0.1", one.listener.port)
            writer.write(
                f"POST /raft/snapshot HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 9999\r\n\r\n".encode() + body
            )
            answer = await asyncio.wait_for(reader.read(), 5)
            assert b"500" in answer and b"no data for 0.5 s" in answer
            writer.close()
            assert isinstance(one.host.broken_image, ConnectionError)

    run(main())


def test_a_sender_that_goes_away_ends_the_image(run: Run) -> None:
    async def main() -> None:
        async with members(1) as (one,):
            body = frame_message(snapshot(1, 2)) + b"half"
            head = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
            _, writer = await asyncio.open_connection("127.0.0.1", one.listener.port)
            writer.write(
                f"POST /raft/snapshot HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 9999\r\n\r\n".encode() + body
            )
            await until(lambda: one.host.metrics.snapshot_receive_inflights[("2",)] == 1)
            writer.transport.abort()
            await until(lambda: one.host.metrics.snapshot_receive_inflights[("2",)] == 0)
            assert not one.host.images

    run(main())


def test_probes_and_other_paths(run: Run) -> None:
    async def main() -> None:
        async with members(1) as (one,):
            answer = await ask(one, "GET", "/raft/probing", headers=())
            assert answer.status == 200
            said = json.loads(answer.body)
            assert said["OK"] is True and datetime.fromisoformat(said["Now"]).tzinfo is not None
            answer = await ask(one, "GET", "/members", headers=())
            assert answer.body == b"fallback /members"

    run(main())


def test_strangers_leave_their_urls_but_not_bad_ones(run: Run) -> None:
    async def main() -> None:
        async with members(2, connected=False) as (one, two):
            for urls, known in (("gopher://x:1", False), (two.url, True)):
                headers = [*GOOD.items(), ("X-PeerURLs", urls)]
                answer = await ask(one, "POST", "/raft", encode_message(HEARTBEAT), headers)
                assert answer.status == 204
                one.transport.send([Message(MessageKind.HEARTBEAT, 2, 1, 3)])
                if known:
                    await until(lambda: two.host.received)
                else:
                    assert not two.host.received

    run(main())


def test_headers() -> None:
    headers = {name.lower(): value for name, value in identity(0xAB, CLUSTER_ID, ["http://a:1", "http://b:2"])}
    assert headers["x-server-from"] == "ab" and headers["x-peerurls"] == "http://a:1,http://b:2"
    assert refusal(headers, CLUSTER_ID) is None
    assert refusal(headers, 1) == "cluster ID mismatch"
    assert has_streams({"x-server-version": "3.5.1"}) and not has_streams({})
    assert major_minor("3.6.0-rc.1+x") == (3, 6)
    assert major_minor("3.6") is None and major_minor("3.x.1") is None
    assert parse_id("00fF") == 255
    for bad in ("", "0", "0x1", "1_0", "-1", "g", "1" + "0" * 16):
        assert parse_id(bad) is None


def test_times_of_probes() -> None:
    assert read_probe_answer(probe_answer(1_700_000_000.25)) == 1_700_000_000.25
    assert read_probe_answer(b'{"OK":true,"Now":"2023-11-14T22:13:20.123456789Z"}') == 1_700_000_000.123456
    assert read_probe_answer(b'{"OK":true,"Now":"2023-11-14T23:13:20+01:00"}\n') == 1_700_000_000
    for bad in (
        b"",
        b"[]",
        b'{"OK":false,"Now":"2023-11-14T22:13:20Z"}',
        b'{"OK":true}',
        b'{"OK":true,"Now":"soon"}',
        b'{"OK":true,"Now":"9999-12-31T23:59:59"}',
        b'{"OK":true,"Now":%b}' % (b"5" * 5000),
        b"[" * 100_000,
    ):
        with pytest.raises(ValueError):
            read_probe_answer(bad)
