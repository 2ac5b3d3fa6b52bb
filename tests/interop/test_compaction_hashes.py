"""The hashes of compactions: what members since 3.6 (and 3.5.5) compare, so every bit must be another etcd's.

Needs an etcd that has them: RATIFYD_TEST_ETCD.
"""

import json
import random
from collections.abc import Iterator

import pytest

from harness import stubs
from harness.binaries import other_etcd_binary
from harness.servers import EtcdServer
from ratifyd.proto import rpc_pb2
from tests.interop.test_peer_pages import Answer, ask

pytestmark = pytest.mark.skipif(other_etcd_binary() is None, reason="RATIFYD_TEST_ETCD names no other etcd")

Found = tuple[int, int, int, int]
"""Hash, compacted revision, hashed revision, current revision."""


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[EtcdServer, EtcdServer]]:
    with EtcdServer("other-etcd", ["--unsafe-no-fsync"]) as etcd, EtcdServer("ratifyd", ["--unsafe-no-fsync"]) as ours:
        yield etcd, ours


def history(seed: int, length: int) -> Iterator[rpc_pb2.TxnRequest]:
    """Transactions of puts and deletions of a few keys, some of them only once."""
    source = random.Random(seed)
    names = [b"k%d" % number for number in range(10)]
    for number in range(length):
        txn = rpc_pb2.TxnRequest()
        for name in source.sample(names, source.choice((1, 1, 2, 4))):
            if source.random() < 0.35:
                txn.success.add().request_delete_range.CopyFrom(rpc_pb2.DeleteRangeRequest(key=name))
            else:
                put = rpc_pb2.PutRequest(key=name, value=source.randbytes(source.choice((0, 5, 900))))
                txn.success.add().request_put.CopyFrom(put)
        txn.success.add().request_put.CopyFrom(rpc_pb2.PutRequest(key=b"once/%d/%d" % (seed, number)))
        yield txn


def told(server: EtcdServer, revision: int) -> Found | str:
    """What a member tells another about a revision."""
    answer: Answer = ask(server, "GET", "/members/hashkv", json.dumps({"revision": revision}).encode())
    if answer.status != 200:
        return answer.body.decode()
    found = json.loads(answer.body)
    return found["hash"], found.get("compact_revision", 0), found["hash_revision"], found["header"]["revision"]


def hashed(server: EtcdServer, revision: int) -> Found:
    """The same for a client."""
    with stubs.Client(server.client_endpoint) as client:
        found = client.maintenance.HashKV(rpc_pb2.HashKVRequest(revision=revision), timeout=10)
    return found.hash, found.compact_revision, found.hash_revision, found.header.revision


@pytest.mark.parametrize("seed", range(4))
def test_equal_after_equal_histories(both: tuple[EtcdServer, EtcdServer], seed: int) -> None:
    """At the compacted revisions, from what compactions left behind, and at those around them; after a restart too."""
    source = random.Random(seed)
    compacted: list[int] = []
    for server in both:
        with stubs.Client(server.client_endpoint) as client:
            current = client.kv.Range(rpc_pb2.RangeRequest(key=b"x"), timeout=10).header.revision
            floor = current
            for place, txn in enumerate(history(seed, 120)):
                current = client.kv.Txn(txn, timeout=10).header.revision
                if place % 15 == 14:
                    at = random.Random(seed * 1000 + place).randint(max(floor, current - 12), current)
                    if at > floor:
                        client.kv.Compact(rpc_pb2.CompactionRequest(revision=at, physical=True), timeout=10)
                        floor = at
                        if server is both[0]:
                            compacted.append(at)
    assert len(compacted) > 4
    etcd, ours = both
    wanted = [*compacted, compacted[-1] + 1, current, 0, source.randint(compacted[-1], current), compacted[-2] + 1]
    for revision in [*wanted, current + 1]:
        assert told(ours, revision) == told(etcd, revision), revision
    for revision in [*compacted, compacted[-1] + 1, current, 0]:
        assert hashed(ours, revision) == hashed(etcd, revision), revision
    for server in both:
        server.restart()
    for revision in [compacted[-1], compacted[-1] + 1, compacted[0], current, 0]:
        assert told(ours, revision) == told(etcd, revision), revision
