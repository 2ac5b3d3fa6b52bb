"""A real etcd 3.5.1 whose other member is our transport around a bare raft core: neither side may notice."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import uvloop

from harness.etcdctl import Output, etcdctl
from harness.servers import EtcdServer, free_port
from harness.stubs import AsyncClient
from ratifyd.membership import cluster_id, member_id
from ratifyd.peer.client import PeerClient
from ratifyd.peer.codec import frame_message
from ratifyd.peer.headers import identity
from ratifyd.peer.host import Timing
from ratifyd.proto.raft_internal_pb2 import InternalRaftRequest
from ratifyd.proto.rpc_pb2 import PutRequest
from ratifyd.raft.codec import change_of_entry
from ratifyd.raft.core import Raft
from ratifyd.raft.log import RaftLog
from ratifyd.raft.messages import ConfState, Entry, EntryKind, HardState, Message, MessageKind, Snapshot, SnapshotMeta
from ratifyd.raft.roles import Role
from tests.unit.peer.support_peer import Host, Member, until
from tests.unit.peer.test_peer_endpoints import REFUSALS

FLAGS = ["--unsafe-no-fsync", "--snapshot-count=10", "--strict-reconfig-check=false"]
WAIT_S = 20.0


class Tracer:
    def mark(self, name: str, **fields: object) -> None:
        """Not traced."""


class Replica(Host):
    """A host with a raft core whose log is memory; every ready is durable at once."""

    def __init__(self, local_id: int, cluster_id: int) -> None:
        super().__init__(local_id, cluster_id)
        self.entries: list[Entry] = []
        self.member: Member
        self.raft = Raft(
            local_id,
            election_ticks=10,
            heartbeat_ticks=1,
            pre_vote=True,
            check_quorum=True,
            max_message_bytes=1 << 20,
            max_inflight=512,
            max_uncommitted_bytes=1 << 30,
            random=random.Random(1),
            log=RaftLog(),
            hard_state=HardState(),
            conf_state=ConfState(),
            applied=0,
            tracer=Tracer(),
        )

    def tick(self) -> None:
        self.raft.tick()
        self.turn()

    def receive(self, messages: Sequence[Message]) -> None:
        super().receive(messages)
        for message in messages:
            self.raft.step(message)
        self.turn()

    def turn(self) -> None:
        while (ready := self.raft.ready()) is not None:
            self.member.transport.send(ready.messages)
            if ready.must_append:
                self.raft.appended(ready)
                self.member.transport.send(ready.messages_after_append)
            for entry in ready.committed:
                self.entries.append(entry)
                if entry.kind is not EntryKind.NORMAL:
                    self.raft.apply_conf_change(change_of_entry(entry))
                self.raft.applied_to(entry.index)
            if ready.snapshot is not None:
                self.raft.applied_to(ready.snapshot.meta.index)

    def report_unreachable(self, member_id: int) -> None:
        super().report_unreachable(member_id)
        self.raft.report_unreachable(member_id)

    @property
    def values(self) -> list[bytes]:
        """Values put, in the order of the log."""
        return [
            request.put.value
            for request in map(
                InternalRaftRequest.FromString, (each.data for each in self.entries if _is_request(each))
            )
            if request.HasField("put")
        ]


def _is_request(entry: Entry) -> bool:
    """Not a membership change, a leader's first entry, or a request of API version 2 (tag 0x12 holds its method)."""
    return entry.kind is EntryKind.NORMAL and bool(entry.data) and b"/0/" not in entry.data


class Pair:
    """etcd, and the replica beside it."""

    def __init__(self, etcd: EtcdServer, etcd_id: int, member: Member, replica: Replica) -> None:
        self.etcd = etcd
        self.etcd_id = etcd_id
        self.member = member
        self.replica = replica

    async def ctl(self, *args: str) -> Output:
        output = await asyncio.to_thread(etcdctl, self.etcd.client_endpoint, *args)
        assert output.status == 0, output.raw_stderr
        return output

    async def until(self, condition: Callable[[], object]) -> None:
        try:
            await until(condition, WAIT_S)
        except TimeoutError:
            raise AssertionError(self.etcd.log_text()[-3000:]) from None

    async def lead(self) -> None:
        """Move leadership to the replica."""
        await self.ctl("move-leader", f"{self.replica.local_id:x}")
        await self.until(lambda: self.replica.raft.role is Role.LEADER)


@asynccontextmanager
async def pair(before: Sequence[str] = ()) -> AsyncIterator[Pair]:
    """A cluster of etcd, which leads, and our replica; `before` are values put while etcd is alone."""
    member = Member(1, Timing())
    with EtcdServer("etcd", FLAGS) as etcd:
        if before:
            async with AsyncClient(etcd.client_endpoint) as client:
                for start in range(0, len(before), 500):
                    await asyncio.gather(
                        *(
                            client.kv.Put(PutRequest(key=b"k", value=each.encode()))
                            for each in before[start : start + 500]
                        )
                    )
        output = await asyncio.to_thread(
            etcdctl, etcd.client_endpoint, "member", "add", "ours", f"--peer-urls={member.url}", "-w", "json"
        )
        assert output.status == 0, output.raw_stderr
        added = json.loads(output.stdout)
        etcd_id = next(each["ID"] for each in added["members"] if each["ID"] != added["member"]["ID"])
        replica = Replica(added["member"]["ID"], added["header"]["cluster_id"])
        replica.member = member
        member.use(replica)
        ticking = asyncio.get_running_loop().create_task(_tick(replica))
        both = Pair(etcd, etcd_id, member, replica)
        try:
            await member.serve()
            member.transport.add_peer(etcd_id, [etcd.peer_url])
            await both.until(lambda: replica.raft.leader_id == etcd_id and member.transport.active_since(etcd_id))
            yield both
        finally:
            ticking.cancel()
            await member.stop()


async def _tick(replica: Replica) -> None:
    while True:
        await asyncio.sleep(0.1)
        replica.tick()


def test_etcd_leads_and_needs_us() -> None:
    async def main() -> None:
        async with pair() as both:
            for number in range(3):
                await both.ctl("put", "k", f"value {number}")  # commits only with our acknowledgement
            replica = both.replica
            await both.until(lambda: replica.values == [b"value 0", b"value 1", b"value 2"])
            kinds = {message.kind for message in replica.received}
            assert {MessageKind.APP, MessageKind.HEARTBEAT} <= kinds
            assert all(message.sender == both.etcd_id for message in replica.received)
            assert "lost TCP streaming" not in both.etcd.log_text()
            assert replica.metrics.disconnected_peers_total == {}

            client = PeerClient()
            answer = await client.get(both.etcd.peer_url, "/members")
            assert answer.status == 200 and answer.headers["x-etcd-cluster-id"] == f"{replica.cluster_id:x}"
            listed = {each["id"]: each["peerURLs"] for each in json.loads(answer.body)}
            assert listed[replica.local_id] == [both.member.url]
            assert listed[both.etcd_id] == [both.etcd.peer_url]
            version = await client.get(both.etcd.peer_url, "/version")
            assert json.loads(version.body)["etcdserver"] == "3.5.1"
            await client.close()

    uvloop.run(main())


def test_an_etcd_that_posts_to_another_member_lives_on() -> None:
    """Someone else has the address by now. To etcd 403 would mean that it was removed: it would end, for good."""

    async def main() -> None:
        etcd = EtcdServer("etcd", FLAGS, start=False)
        address = f"http://127.0.0.1:{free_port()}"
        etcd_id, gone = (member_id([url], "etcd-cluster") for url in (etcd.peer_url, address))
        etcd.initial_cluster = f"default={etcd.peer_url},gone={address}"
        other = Member(0x999, Timing(), cluster_id=cluster_id([etcd_id, gone]), port=int(address.rpartition(":")[2]))
        assert gone != 0x999
        posted = other.host.metrics.peer_received_bytes_total
        await other.serve()
        try:
            etcd.start(wait=False)
            for _ in range(3):
                before = posted[(f"{etcd_id:x}",)]
                await until(lambda before=before: posted[(f"{etcd_id:x}",)] > before or not etcd.running, WAIT_S)  # type: ignore[misc]
            assert etcd.running, etcd.log_text()[-3000:]
        finally:
            etcd.stop()
            await other.stop()

    uvloop.run(main())


def test_we_lead_and_etcd_follows() -> None:
    async def main() -> None:
        async with pair() as both:
            await both.ctl("put", "first", "0")
            await both.lead()
            raft = both.replica.raft
            for batch in range(3):  # the first append of a term is a whole message, the others entries alone
                datas = [
                    InternalRaftRequest(
                        ID=batch * 100 + number + 1, put=PutRequest(key=b"ours%d" % number, value=b"%d" % batch)
                    ).SerializeToString()
                    for number in range(100)
                ]
                assert raft.propose(datas)
                both.replica.turn()
            await both.until(lambda: raft.log.committed == raft.log.last_index)

            def seen() -> str:
                return etcdctl(both.etcd.client_endpoint, "get", "ours", "--prefix", "--consistency=s").stdout

            expected = "".join(f"ours{number}\n2\n" for number in sorted(range(100), key=str))
            async with asyncio.timeout(WAIT_S):
                while await asyncio.to_thread(seen) != expected:
                    await asyncio.sleep(0.05)
            # A client of etcd: forwarded to us as a proposal, appended and committed by us.
            await both.ctl("put", "forwarded", "1")
            await both.until(lambda: b"1" in both.replica.values)
            assert any(message.kind is MessageKind.PROP for message in both.replica.received)
            assert "lost TCP streaming" not in both.etcd.log_text()

    uvloop.run(main())


def test_etcd_takes_a_snapshot_from_us() -> None:
    """An old one: stored, acknowledged, and then of no use to raft. Installing one is the cluster tests' business."""

    async def main() -> None:
        async with pair() as both:
            await both.ctl("put", "a", "b")
            raft = both.replica.raft
            state = ConfState(voters=tuple(sorted((both.replica.local_id, both.etcd_id))))
            message = Message(
                MessageKind.SNAP,
                both.etcd_id,
                both.replica.local_id,
                raft.term,
                entries=[],
                snapshot=Snapshot(SnapshotMeta(1, 1, state), b"{}"),
            )
            image = [b"not looked at " * 5000] * 10
            both.member.transport.send_snapshot(message, sum(map(len, image)), lambda: iter(image), lambda ok: None)
            await both.until(lambda: both.replica.snapshot_reports == [(both.etcd_id, True)])
            saved = both.etcd.data_dir / "member" / "snap" / "0000000000000001.snap.db"
            assert saved.read_bytes() == b"".join(image)

    uvloop.run(main())


def test_etcd_sends_us_a_snapshot() -> None:
    """A log cut at the front: the newcomer gets the state as a file."""

    async def main() -> None:
        # etcd keeps 5,000 entries behind a snapshot.
        async with pair([str(number) for number in range(5100)]) as both:
            await both.until(lambda: both.replica.images)
            message, image = both.replica.images[0]
            assert message.snapshot is not None and message.snapshot.meta.index > 5000
            assert message.snapshot.data.startswith(b"{")  # the members, as 3.5 keeps them
            assert image[16:20] == bytes.fromhex("edda0ced")  # bbolt's magic number, little-endian
            await both.ctl("put", "after", "snapshot")
            await both.until(lambda: both.replica.values[-1:] == [b"snapshot"])

    uvloop.run(main())


def test_etcd_removes_us() -> None:
    async def main() -> None:
        async with pair() as both:
            await both.ctl("put", "a", "b")
            await both.ctl("member", "remove", f"{both.replica.local_id:x}")
            await both.until(lambda: both.replica.removed_from)

    uvloop.run(main())


@pytest.mark.slow
def test_idle_streams_live_on() -> None:
    """Longer than etcd's timeouts of five seconds, and its probes answered."""

    async def main() -> None:
        async with pair() as both:
            await both.ctl("put", "a", "b")
            await asyncio.sleep(12)
            await both.ctl("put", "a", "c")
            assert both.replica.metrics.disconnected_peers_total == {}
            assert both.replica.metrics.peer_round_trip_seconds[(f"{both.etcd_id:x}",)].count >= 2
            assert "unhealthy" not in both.etcd.log_text() and "lost TCP streaming" not in both.etcd.log_text()

    uvloop.run(main())


def test_refusals_are_worded_as_etcd_words_them() -> None:
    """The table of the unit tests, asked of etcd as well."""

    async def main() -> None:
        async with pair() as both:
            replica, client = both.replica, PeerClient()
            for method, path, wanted, status, text in REFUSALS:
                headers = dict(wanted)
                if headers.get("X-Etcd-Cluster-ID") == "cafe":
                    headers["X-Etcd-Cluster-ID"] = f"{replica.cluster_id:x}"
                if "garbage" in headers.values() or status == 410 or path.endswith("msgapp"):
                    continue  # etcd panics on the first, knows no removed member here, and redirects the last
                path = path.replace("msgapp/3", f"msgapp/{replica.local_id:x}")
                answer = await client.request(method, both.etcd.peer_url, path, headers=list(headers.items()))
                assert (answer.status, answer.body) == (status, f"{text}\n".encode()), path
                assert answer.headers["x-content-type-options"] == "nosniff"
            good = identity(replica.local_id, replica.cluster_id, [])
            for path, body, expected in (
                ("/raft", b"\xff\xff", (400, "error unmarshalling raft message")),
                ("/raft/snapshot", b"", (400, "failed to decode raft message (EOF)")),
                ("/raft/snapshot", bytes(7), (400, "failed to decode raft message (unexpected EOF)")),
                ("/raft/snapshot", frame_message(Message(MessageKind.BEAT)), (400, "wrong raft message type")),
            ):
                answer = await client.post(both.etcd.peer_url, path, body, headers=good)
                assert (answer.status, answer.text) == expected
            await client.close()

    uvloop.run(main())
