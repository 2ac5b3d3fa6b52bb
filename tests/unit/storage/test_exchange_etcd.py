"""Real etcd is the witness: we read the backend it wrote, and it serves from the image that we wrote."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from harness.binaries import etcd_binary
from harness.etcdctl import etcdctl, etcdutl
from harness.servers import EtcdServer
from harness.stubs import Client
from ratifyd import schema
from ratifyd.keys import KeyRange
from ratifyd.mvcc.buffer import WriteBuffer
from ratifyd.mvcc.hash import finish
from ratifyd.mvcc.store import Store
from ratifyd.mvcc.watch import WatchHub
from ratifyd.proto import rpc_pb2 as rpc
from ratifyd.storage.exchange import export_image, import_image, with_digest
from ratifyd.storage.lmdb import LmdbBackend
from simulation.disk import StepWorker

try:
    etcd_binary()
except FileNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

KEYS = 3000
EVERYTHING = rpc.RangeRequest(key=b"\0", range_end=b"\0")


def fill(client: Client) -> None:
    """Thousands of keys with versions, huge and empty values, deletions, leases, users, and a compaction."""
    for start in range(0, KEYS, 100):
        txn = rpc.TxnRequest()
        for number in range(start, start + 100):
            value = b"v%d" % number * (number % 60)
            txn.success.add().request_put.CopyFrom(rpc.PutRequest(key=b"key%05d" % number, value=value))
        client.kv.Txn(txn)
    for number in range(0, 400, 2):
        client.kv.Put(rpc.PutRequest(key=b"key%05d" % number, value=b"second"))
    client.kv.Put(rpc.PutRequest(key=b"huge", value=bytes(range(256)) * 4000))
    lease = client.lease.LeaseGrant(rpc.LeaseGrantRequest(TTL=5000, ID=77)).ID
    client.kv.Put(rpc.PutRequest(key=b"leased", value=b"x", lease=lease))
    client.kv.DeleteRange(rpc.DeleteRangeRequest(key=b"key01000", range_end=b"key01500"))
    client.auth.UserAdd(rpc.AuthUserAddRequest(name="u" * 600, password="secret"))
    client.kv.Compact(rpc.CompactionRequest(revision=KEYS // 100 + 100, physical=True))
    client.kv.Put(rpc.PutRequest(key=b"last", value=b"after the compaction"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, bytes, int]]:
    """(backend file of a stopped etcd, its answer to a range over everything, its HashKV)."""
    data_dir = tmp_path_factory.mktemp("etcd") / "data"
    with EtcdServer("etcd", ["--snapshot-count=20"], data_dir) as server:
        with Client(server.client_endpoint) as client:
            fill(client)
            kvs = b"".join(kv.SerializeToString() for kv in client.kv.Range(EVERYTHING).kvs)
            hash_ = client.maintenance.HashKV(rpc.HashKVRequest()).hash
        server.terminate()
        yield data_dir / "member" / "snap" / "db", kvs, hash_


def open_store(path: Path) -> tuple[Store, LmdbBackend]:
    backend = LmdbBackend(str(path), worker=StepWorker())
    store = Store(WriteBuffer(backend), WatchHub())
    for _ in store.restore():
        pass
    return store, backend


def check_store(path: Path, kvs: bytes, hash_: int) -> None:
    store, backend = open_store(path)
    found = store.range(KeyRange.parse(b"\0", b"\0"))
    assert found.count == KEYS - 500 + 3
    assert b"".join(found.kvs) == kvs
    assert finish(store.hash_kv()).hash == hash_
    assert store.attachments == {b"leased": 77}
    store.check()
    backend.close()


def write_image(source: Path, target: Path) -> None:
    _, backend = open_store(source)
    view = backend.view()
    with target.open("wb") as file:
        file.writelines(with_digest(export_image(view).chunks))
    view.close()
    backend.close()


def test_we_read_what_etcd_wrote(written: tuple[Path, bytes, int], tmp_path: Path) -> None:
    path, kvs, hash_ = written
    imported = import_image(str(path), str(tmp_path / "db"))
    assert imported.skipped == []
    assert imported.rows[schema.LEASE] == 1
    assert imported.rows[schema.AUTH_USERS] == 1
    assert imported.consistent_index > 200
    assert imported.term > 1
    check_store(tmp_path / "db", kvs, hash_)


def test_etcd_serves_what_we_wrote(written: tuple[Path, bytes, int], tmp_path: Path) -> None:
    path, kvs, hash_ = written
    import_image(str(path), str(tmp_path / "db"))
    image = tmp_path / "image.db"
    write_image(tmp_path / "db", image)
    theirs = tmp_path / "theirs.db"
    data = path.read_bytes()
    theirs.write_bytes(data + sha256(data).digest())

    ours_status = etcdutl("snapshot", "status", str(image), "-w", "fields")
    theirs_status = etcdutl("snapshot", "status", str(theirs), "-w", "fields")
    assert ours_status.status == 0, ours_status.stderr
    # Hash, revision and number of keys; the size alone may differ, for ours has no free pages.
    assert ours_status.stdout.splitlines()[:3] == theirs_status.stdout.splitlines()[:3]
    assert image.stat().st_size <= theirs.stat().st_size

    server = EtcdServer("etcd", ["--snapshot-count=20"], tmp_path / "restored", start=False)
    restored = etcdutl(
        "snapshot",
        "restore",
        str(image),
        f"--data-dir={server.data_dir}",
        f"--initial-cluster=default={server.peer_url}",
        f"--initial-advertise-peer-urls={server.peer_url}",
    )
    assert restored.status == 0, restored.stderr
    with server, Client(server.client_endpoint) as client:
        assert b"".join(kv.SerializeToString() for kv in client.kv.Range(EVERYTHING).kvs) == kvs
        assert client.maintenance.HashKV(rpc.HashKVRequest()).hash == hash_
        assert client.auth.UserList(rpc.AuthUserListRequest()).users == ["u" * 600]
        # It goes on from our pages: splits, merges, deletions over all of them, a compaction, and back to us.
        client.kv.DeleteRange(rpc.DeleteRangeRequest(key=b"key00500", range_end=b"key02500"))
        for number in range(300):
            client.kv.Put(rpc.PutRequest(key=b"more%d" % number, value=b"m" * number))
        revision = client.kv.Put(rpc.PutRequest(key=b"last", value=b"again")).header.revision
        client.kv.Compact(rpc.CompactionRequest(revision=revision - 100, physical=True))
        hash_ = client.maintenance.HashKV(rpc.HashKVRequest()).hash
        server.terminate()
        import_image(str(server.data_dir / "member" / "snap" / "db"), str(tmp_path / "back"))
    store, backend = open_store(tmp_path / "back")
    assert finish(store.hash_kv()).hash == hash_
    backend.close()


def test_etcd_refuses_an_image_it_cannot_trust(written: tuple[Path, bytes, int], tmp_path: Path) -> None:
    """The digest we append is the one etcd checks."""
    import_image(str(written[0]), str(tmp_path / "db"))
    image = tmp_path / "image.db"
    write_image(tmp_path / "db", image)
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    refused = etcdutl("snapshot", "restore", str(image), f"--data-dir={tmp_path / 'restored'}")
    assert refused.status != 0
    assert "expected sha256" in refused.stdout + refused.raw_stderr


def test_we_read_the_snapshot_etcd_sends(written: tuple[Path, bytes, int], tmp_path: Path) -> None:
    """The file of `etcdctl snapshot save`, taken from a running server."""
    path, kvs, hash_ = written
    with EtcdServer("etcd", ["--snapshot-count=20"], path.parents[2]) as server:
        saved = etcdctl(server.client_endpoint, "snapshot", "save", str(tmp_path / "saved.db"))
        assert saved.status == 0, saved.stderr
        server.terminate()
    assert import_image(str(tmp_path / "saved.db"), str(tmp_path / "db")).has_digest
    check_store(tmp_path / "db", kvs, hash_)
