"""HashKV, revisions and stored answers against a real etcd that lives through the same history."""

import random
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from ratifyd.keys import KeyRange
from ratifyd.mvcc.buffer import WriteBuffer
from ratifyd.mvcc.hash import finish
from ratifyd.mvcc.store import Store
from ratifyd.mvcc.watch import WatchHub
from ratifyd.proto import rpc_pb2
from ratifyd.storage.memory import MemoryBackend

ETCD = shutil.which("etcd", path=str(Path(sys.executable).parent)) or shutil.which("etcd")


class DirectWorker:
    """Jobs are done at once."""

    def submit(self, job, done):
        done(job(), None)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def etcd(directory):
    """A one-member etcd; yields call(service, method, request, response class)."""
    client, peer = free_ports(2)
    command = [ETCD, "--data-dir", str(directory), "--log-level", "error", "--unsafe-no-fsync"]
    for flag, port in (("client-urls", client), ("peer-urls", peer)):
        command += [f"--listen-{flag}", f"http://127.0.0.1:{port}"]
        prefix = "--advertise-" if flag == "client-urls" else "--initial-advertise-"
        command += [f"{prefix}{flag}", f"http://127.0.0.1:{port}"]
    command += ["--initial-cluster", f"default=http://127.0.0.1:{peer}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{client}") as channel:
            grpc.channel_ready_future(channel).result(30)

            def call(method, request, answer):
                stub = channel.unary_unary(
                    f"/etcdserverpb.{method}",
                    request_serializer=type(request).SerializeToString,
                    response_deserializer=answer.FromString,
                )
                return stub(request, timeout=20)

            yield call
    finally:
        process.kill()
        process.wait()


def random_history(seed, length):
    """Transactions as lists of (key, value) and (key, range_end, None); every key at most once in each."""
    source = random.Random(seed)
    yield [(b"seldom%d-%d" % (seed, number), b"") for number in range(5)]
    names = [b"k%d" % number for number in range(12)]
    for _ in range(length):
        chosen = source.sample(names, source.choice((1, 1, 2, 3)))
        if source.random() < 0.1:
            yield [(chosen[0], b"k%d" % source.randrange(10), None)]
        else:
            yield [(name, b"", None) if source.random() < 0.4 else (name, source.randbytes(8)) for name in chosen]


def apply_to_etcd(call, ops):
    request = rpc_pb2.TxnRequest()
    for op in ops:
        if op[-1] is None:
            request.success.add().request_delete_range.CopyFrom(rpc_pb2.DeleteRangeRequest(key=op[0], range_end=op[1]))
        else:
            request.success.add().request_put.CopyFrom(rpc_pb2.PutRequest(key=op[0], value=op[1]))
    return call("KV/Txn", request, rpc_pb2.TxnResponse).header.revision


def apply_to_store(store, ops):
    with store.write() as txn:
        for op in ops:
            if op[-1] is None:
                txn.delete_range(KeyRange.parse(op[0], op[1]))
            else:
                txn.put(op[0], op[1])
    return store.revision


def compare(call, store, revisions):
    """HashKV and the whole key space at each revision."""
    everything = KeyRange.parse(b"\0", b"\0")
    for revision in revisions:
        answer = call(
            "KV/Range", rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", revision=revision), rpc_pb2.RangeResponse
        )
        result = store.range(everything, revision=revision)
        assert [kv.SerializeToString() for kv in answer.kvs] == result.kvs
        if revision == store.compacted:
            continue  # etcd 3.5.1 refuses to hash the compacted revision itself
        theirs = call("Maintenance/HashKV", rpc_pb2.HashKVRequest(revision=revision), rpc_pb2.HashKVResponse)
        ours = finish(store.hash_kv(revision, rows=7))
        assert (ours.hash, ours.compact_revision) == (theirs.hash, theirs.compact_revision), revision
        assert theirs.header.revision == store.revision


@pytest.mark.skipif(ETCD is None, reason="no etcd binary")
def test_hash_kv_equals_etcds(tmp_path):
    store = Store(WriteBuffer(MemoryBackend(DirectWorker())), WatchHub())
    tombstones = []
    with etcd(tmp_path) as call:
        compare(call, store, [1])
        for seed in range(4):
            for ops in random_history(seed, 40):
                assert apply_to_etcd(call, ops) == apply_to_store(store, ops)
                if all(op[-1] is None for op in ops):
                    tombstones.append(store.revision)
            last = store.revision
            compare(call, store, range(max(store.compacted, 1), last + 1, 3))
            # once to a revision made of deletions only, otherwise to the middle
            target = tombstones[-1] if seed % 2 else last - 10
            assert target > store.compacted
            at_target = call("Maintenance/HashKV", rpc_pb2.HashKVRequest(revision=target), rpc_pb2.HashKVResponse)
            call("KV/Compact", rpc_pb2.CompactionRequest(revision=target, physical=True), rpc_pb2.CompactionResponse)
            store.compact(target)
            compare(call, store, [target, last])
            while store.compaction_step(9):
                pass
            compare(call, store, range(target, last + 1))
            store.check()
            known = store.compaction_hashes[-1]
            assert known[1:] == (at_target.compact_revision, target)
            # with nothing alive, the tombstone that newer releases keep makes the two differ in etcd as well
            if store.range(KeyRange.parse(b"\0", b"\0"), revision=target).count:
                assert known.hash == at_target.hash
