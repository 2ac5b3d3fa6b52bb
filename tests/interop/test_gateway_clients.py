"""Independent clients of the JSON gateway: etcd3gw and tooz (requests), etcd3-py (requests, aiohttp), httpetcd."""

import asyncio
import itertools
import threading
import warnings
from typing import Any

import etcd3gw
import httpetcd.clients
import pytest
from etcd3gw.exceptions import Etcd3Exception
from httpetcd.exceptions import KVCreateError
from httpetcd.raw.managers.kv import RawKVManager
from httpetcd.raw.managers.lease import RawLeaseManager
from tooz import coordination

from harness.servers import EtcdServer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import etcd3
    from etcd3.errors import ErrLeaseNotFound


# --- etcd3gw ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def gw(server: EtcdServer) -> Any:
    return etcd3gw.client(host="127.0.0.1", port=server.client_port, timeout=10)


def test_etcd3gw_keys(gw: Any, prefix: str) -> None:
    assert gw.put(prefix + "a", "1")
    assert gw.get(prefix + "a") == [b"1"]
    assert gw.create(prefix + "b", "new") and not gw.create(prefix + "b", "again")
    assert gw.replace(prefix + "b", "new", "newer") and not gw.replace(prefix + "b", "new", "newest")
    assert [(value, kv["key"]) for value, kv in gw.get_prefix(prefix)] == [
        (b"1", (prefix + "a").encode()),
        (b"newer", (prefix + "b").encode()),
    ]
    assert gw.delete(prefix + "a") and not gw.delete(prefix + "a")
    assert gw.delete_prefix(prefix)
    assert gw.get_prefix(prefix) == []
    assert gw.status()["version"] and len(gw.members()) == 1


def test_etcd3gw_leases_and_locks(gw: Any, prefix: str) -> None:
    lease = gw.lease(60)
    assert gw.put(prefix + "leased", "x", lease=lease)
    assert lease.keys() == [(prefix + "leased").encode()]
    assert lease.refresh() == 60 and 0 < lease.ttl() <= 60
    assert lease.revoke() and gw.get(prefix + "leased") == []
    with pytest.raises(Etcd3Exception) as refused:
        lease.revoke()
    assert "requested lease not found" in refused.value.detail_text
    first, second = gw.lock(prefix + "lock", ttl=60), gw.lock(prefix + "lock", ttl=60)
    assert first.acquire() and first.is_acquired() and not second.acquire()
    assert first.refresh() == 60 and first.release()
    assert second.acquire() and second.release()


def test_etcd3gw_watch(gw: Any, prefix: str) -> None:
    events, cancel = gw.watch_prefix(prefix)
    gw.put(prefix + "a", "1")
    gw.delete(prefix + "a")
    found = list(itertools.islice(events, 2))
    cancel()
    assert [(event.get("type"), event["kv"]["key"], event["kv"].get("value")) for event in found] == [
        (None, (prefix + "a").encode(), b"1"),
        ("DELETE", (prefix + "a").encode(), None),
    ]


# --- tooz ------------------------------------------------------------------------------------------------------------


def test_tooz_groups_and_locks(server: EtcdServer, prefix: str) -> None:
    url = f"etcd3+http://127.0.0.1:{server.client_port}"
    group = prefix.strip("/").encode()
    first, second = (coordination.get_coordinator(url, name) for name in (b"first", b"second"))
    for member in (first, second):
        member.start(start_heart=True)
    first.create_group(group).get()
    with pytest.raises(coordination.GroupAlreadyExist):
        second.create_group(group).get()
    first.join_group(group, b"one").get()
    second.join_group(group, b"two").get()
    assert first.get_members(group).get() == {b"first", b"second"}
    assert second.get_member_capabilities(group, b"first").get() == b"one"
    mine, theirs = first.get_lock(group), second.get_lock(group)
    assert mine.acquire() and not theirs.acquire(blocking=False)
    released = threading.Timer(0.0, mine.release)
    released.start()
    assert theirs.acquire(blocking=10.0)
    released.join()
    assert theirs.release()
    second.leave_group(group).get()
    assert first.get_members(group).get() == {b"first"}
    for member in (first, second):
        member.stop()


# --- etcd3-py --------------------------------------------------------------------------------------------------------


@pytest.fixture
def py(server: EtcdServer) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it knows no version above 3.4
        client = etcd3.Client(host="127.0.0.1", port=server.client_port, timeout=10)
    yield client
    client.close()


def test_etcd3py_keys_and_transactions(py: Any, prefix: str) -> None:
    py.put(prefix + "a", "1", prev_kv=True)
    assert py.put(prefix + "a", "2", prev_kv=True).prev_kv.value == b"1"
    found = py.range(prefix, prefix=True)
    assert (found.count, found.kvs[0].value, found.kvs[0].version) == (1, b"2", 2)
    txn = py.Txn()
    txn.compare(txn.key(prefix + "a").value == "2")
    txn.success(txn.put(prefix + "b", "yes"))
    txn.success(txn.range(prefix + "b"))
    txn.failure(txn.delete(prefix + "a"))
    done = txn.commit()
    assert done.succeeded and done.responses[1].response_range.kvs[0].value == b"yes"
    assert py.delete_range(prefix, prefix=True, prev_kv=True).deleted == 2


def test_etcd3py_leases_and_errors(py: Any, prefix: str) -> None:
    lease = py.lease_grant(60)
    assert lease.TTL == 60
    py.put(prefix + "leased", "x", lease=lease.ID)
    assert py.lease_time_to_live(lease.ID, keys=True).keys == [(prefix + "leased").encode()]
    assert py.lease_keep_alive_once(lease.ID).TTL == 60
    py.lease_revoke(lease.ID)
    assert py.range(prefix + "leased").kvs is None
    with pytest.raises(ErrLeaseNotFound):
        py.lease_revoke(12345)


@pytest.mark.filterwarnings("ignore:Exception in thread", "ignore:setDaemon")  # its keepalive thread stops untidily
def test_etcd3py_watch_and_lock(py: Any, prefix: str) -> None:
    seen: list[Any] = []
    both = threading.Event()

    def saw(event: Any) -> None:
        seen.append((event.type.name, event.key, event.value))
        if len(seen) == 2:
            both.set()

    watcher = py.Watcher(prefix, prefix=True, start_revision=py.status().header.revision + 1)
    watcher.onEvent(saw)
    watcher.runDaemon()
    py.put(prefix + "w", "1")
    py.delete_range(prefix + "w")
    assert both.wait(10), seen
    watcher.stop()
    assert seen == [("PUT", (prefix + "w").encode(), b"1"), ("DELETE", (prefix + "w").encode(), None)]
    with py.Lock(prefix + "lock", lock_ttl=30) as lock:
        assert lock.is_acquired
    assert py.member_list().members and py.hash().hash and py.defragment() is not None


def test_etcd3py_asyncio(server: EtcdServer, prefix: str) -> None:
    """Over aiohttp; its streams do not work with the aiohttp of today."""

    async def script() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client = etcd3.AioClient(host="127.0.0.1", port=server.client_port, timeout=10)
        await asyncio.gather(*(client.put(f"{prefix}{number}", f"{number}") for number in range(20)))
        assert (await client.range(prefix, prefix=True)).count == 20
        with pytest.raises(ErrLeaseNotFound):
            await client.lease_revoke(12345)
        await client.close()

    asyncio.run(asyncio.wait_for(script(), 30))


# --- httpetcd --------------------------------------------------------------------------------------------------------


def test_httpetcd_keys_leases_and_locks(server: EtcdServer, prefix: str) -> None:
    """It speaks to /v3beta/."""
    client = httpetcd.clients.get_wrapped_client([server.client_url], prefix.strip("/"), 10)
    keys, leases = RawKVManager(client=client), RawLeaseManager(client=client)
    keys.put(prefix + "a", "1")
    assert keys.get(prefix + "a") == ["1"]
    lease = leases.grant(60)
    assert keys.new(prefix + "b", "2", lease)
    with pytest.raises(KVCreateError):
        keys.new(prefix + "b", "3")
    assert dict(keys.items(prefix)) == {prefix + "a": "1", prefix + "b": "2"}
    lease.revoke()
    assert dict(keys.items(prefix)) == {prefix + "a": "1"}
    assert keys.delete(prefix + "a")
