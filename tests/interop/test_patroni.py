"""Patroni keeps its leader lock, members and configuration here: its etcd3 code alone, and with real PostgreSQL."""

import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patroni.dcs import get_dcs
from patroni.dcs.etcd3 import Etcd3, LeaseNotFound

from harness.servers import EtcdCluster, EtcdServer
from harness.stubs import Client
from harness.users import READWRITE, enable_auth
from ratifyd.proto import rpc_pb2
from tests.support_patroni import NAMESPACE, SCOPE, Node, obstacle, wait_for

# How the thread that watches is ended.
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread")

_WAKE_S = 10.0
_scopes = itertools.count(1)


# --- Patroni's own client of the JSON gateway ------------------------------------------------------------------------


@pytest.fixture
def open_store() -> Iterator[Callable[..., Etcd3]]:
    """Makes stores as a Patroni node has them, each with its thread that watches; the threads end with the test."""
    stores: list[Any] = []

    def make(server: EtcdServer, scope: str, name: str, **login: str) -> Etcd3:
        settings = {"scope": scope, "name": name, "ttl": 30, "loop_wait": 10, "retry_timeout": 10}
        store = get_dcs({**settings, "etcd3": {"hosts": [server.client_endpoint], **login}})
        assert isinstance(store, Etcd3)
        stores.append(store)
        return store

    yield make
    for store in stores:
        cache = store._client._kv_cache
        cache._build_cache = sys.exit  # the thread's loop goes on after any other end of its watch
        cache.kill_stream()
        cache.join(_WAKE_S)
        assert not cache.is_alive()


@pytest.fixture
def scope() -> str:
    return f"scope{next(_scopes)}"


def _next_leader(store: Etcd3, name: str) -> Any:
    """The cluster as this store's watch has it, once `name` leads."""

    def led() -> Any:
        cluster = store.get_cluster()
        return cluster if cluster.leader and cluster.leader.name == name else None

    return wait_for(f"{name} leads", led, _WAKE_S)


def test_two_nodes_race_for_the_leader_lock(server: EtcdServer, open_store: Callable[..., Etcd3], scope: str) -> None:
    one, two = open_store(server, scope, "one"), open_store(server, scope, "two")
    assert one._client.machines_cache == [server.client_url]
    assert one.initialize(sysid="7") and not two.initialize(sysid="8")
    assert one.attempt_to_acquire_leader() and not two.attempt_to_acquire_leader()
    for store, port in ((one, 1), (two, 2)):
        assert store.touch_member({"conn_url": f"postgres://127.0.0.1:{port}/postgres", "state": "running"})
    wait_for("both nodes are seen", lambda: len(two.get_cluster().members) == 2, _WAKE_S)
    cluster = _next_leader(two, "one")
    assert cluster.initialize == "7" and {member.name for member in cluster.members} == {"one", "two"}
    assert one.update_leader(_next_leader(one, "one"), 4711)
    wait_for("the leader's position is seen", lambda: two.get_cluster().status.last_lsn == 4711, _WAKE_S)


def test_a_released_lock_wakes_the_other_node(server: EtcdServer, open_store: Callable[..., Etcd3], scope: str) -> None:
    one, two = open_store(server, scope, "one"), open_store(server, scope, "two")
    assert one.attempt_to_acquire_leader()
    leader = _next_leader(two, "one").leader
    two.event.clear()
    assert not two._delete_leader(leader) and one.delete_leader(leader)
    assert two.watch(None, _WAKE_S), "the watch brought the deletion"
    assert two.attempt_to_acquire_leader()
    assert _next_leader(one, "two").leader.session == two._lease


def test_a_lost_lease_frees_the_lock_and_is_replaced(
    server: EtcdServer, open_store: Callable[..., Etcd3], scope: str
) -> None:
    one = open_store(server, scope, "one")
    assert one.attempt_to_acquire_leader()
    cluster, lost = _next_leader(one, "one"), one._lease
    assert lost and one._client.lease_keepalive(lost) == "30"
    one._client.call_rpc("/lease/revoke", {"ID": lost})
    assert one._client.lease_keepalive(lost) is None
    with pytest.raises(LeaseNotFound):
        one._client.put(one.leader_path, "one", lost)
    assert one.update_leader(cluster, 1), "the lock is taken again in the transaction's other branch"
    assert one._lease != lost
    wait_for("the lock has the new lease", lambda: one.get_cluster().leader.session == one._lease, _WAKE_S)


def test_configuration_is_changed_by_revision(server: EtcdServer, open_store: Callable[..., Etcd3], scope: str) -> None:
    store = open_store(server, scope, "one")
    assert store.set_config_value('{"ttl": 30}')
    config = wait_for("the configuration is seen", lambda: store.get_cluster().config, _WAKE_S)
    assert not store.set_config_value("{}", version=str(int(config.version) - 1))
    assert store.set_config_value('{"ttl": 40}', version=config.version)
    wait_for("the change is seen", lambda: store.get_cluster().config.data == {"ttl": 40}, _WAKE_S)
    assert store.delete_cluster()
    wait_for("everything is gone", lambda: store.get_cluster().is_empty(), _WAKE_S)


@pytest.fixture
def guarded(kind: str, scope: str) -> Iterator[EtcdServer]:
    """A server with auth on, where the user patroni may write below this scope."""
    prefix = f"/service/{scope}/".encode()
    with EtcdServer(kind, ["--unsafe-no-fsync", "--bcrypt-cost=4"]) as server:
        with Client(server.client_endpoint) as client:
            enable_auth(client, patroni=((READWRITE, prefix, prefix[:-1] + b"0"),))
        yield server


def test_with_a_password(guarded: EtcdServer, open_store: Callable[..., Etcd3], scope: str) -> None:
    store = open_store(guarded, scope, "one", username="patroni", password="patronipw")
    assert store.attempt_to_acquire_leader()
    assert _next_leader(store, "one")
    store._client._token = "forgotten"
    assert store.touch_member({"state": "running"}), "it logs in again"
    assert store._client._token != "forgotten"
    with pytest.raises(SystemExit):
        open_store(guarded, scope, "two", username="patroni", password="wrong")


# --- two nodes with PostgreSQL ---------------------------------------------------------------------------------------


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short enough for the names of sockets, unlike pytest's own."""
    if reason := obstacle():
        pytest.skip(reason)
    path = Path(tempfile.mkdtemp(prefix="patroni-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def nodes(directory: Path) -> Iterator[Callable[..., Node]]:
    """Starts nodes, stops them in reverse order, and prints the log of each for a test that fails."""
    started: list[Node] = []

    def make(name: str, endpoints: list[str]) -> Node:
        node = Node(name, endpoints, directory)
        started.append(node)
        node.start()
        return node

    yield make
    for node in reversed(started):
        node.stop()
        sys.stdout.write(f"--- Patroni {node.name}\n{node.log.read_text()[-8000:]}\n")


@pytest.fixture
def alone(kind: str, directory: Path) -> Iterator[EtcdServer]:
    with EtcdServer(kind) as server:
        yield server


@pytest.fixture
def three(kind: str, directory: Path) -> Iterator[EtcdCluster]:
    with EtcdCluster([kind] * 3) as cluster:
        yield cluster


def _kv(endpoint: str, key: str) -> Any:
    with Client(endpoint) as client:
        request = rpc_pb2.RangeRequest(key=f"{NAMESPACE}{SCOPE}/{key}".encode())
        found = client.kv.Range(request, timeout=30, wait_for_ready=True).kvs
        return found[0] if found else None


def _lead(node: Node) -> None:
    """Wait until this node takes writes."""
    wait_for(f"{node.name} leads", lambda: node.query("SELECT pg_is_in_recovery()") is False)


def _follow(leader: Node, replica: Node, number: int) -> None:
    """A row written on the leader reaches the replica."""
    leader.query("CREATE TABLE IF NOT EXISTS t (number int)")
    leader.query(f"INSERT INTO t VALUES ({number})")
    wait_for("the row is replicated", lambda: replica.query(f"SELECT count(*) FROM t WHERE number = {number}"))
    assert replica.query("SELECT pg_is_in_recovery()")


def _still_leads(node: Node, endpoint: str, fault: Callable[[], None]) -> None:
    """The lock and PostgreSQL outlive the fault, and Patroni writes its status again after it."""
    question = "SELECT pg_postmaster_start_time()::text || (SELECT timeline_id FROM pg_control_checkpoint())"
    lock, since = _kv(endpoint, "leader"), node.query(question)
    fault()
    status = wait_for("the store answers again", lambda: _kv(endpoint, "status")).mod_revision
    node.query("CREATE TABLE IF NOT EXISTS t (number int)")
    node.query("INSERT INTO t VALUES (0)")
    wait_for("the leader writes its status", lambda: _kv(endpoint, "status").mod_revision > status)
    assert _kv(endpoint, "leader") == lock, "same value, lease and revision: never let go"
    assert node.query(question) == since and not node.query("SELECT pg_is_in_recovery()")


@pytest.mark.slow
def test_a_cluster_switches_over_and_outlives_restarts(alone: EtcdServer, nodes: Callable[..., Node]) -> None:
    one = nodes("one", [alone.client_endpoint])
    _lead(one)
    two = nodes("two", [alone.client_endpoint])
    listed = {"one": ("Leader", "running"), "two": ("Replica", "streaming")}
    wait_for("the replica streams", lambda: one.listed() == listed)
    _follow(one, two, 1)

    one.control("switchover", SCOPE, "--leader", "one", "--candidate", "two", "--force")
    _lead(two)
    listed = {"one": ("Replica", "streaming"), "two": ("Leader", "running")}
    wait_for("the roles are changed", lambda: two.listed() == listed)
    _follow(two, one, 2)
    assert one.query("SELECT count(*) FROM t") == 2
    assert _kv(alone.client_endpoint, "leader").value == b"two"

    _still_leads(two, alone.client_endpoint, alone.restart)
    _still_leads(two, alone.client_endpoint, lambda: alone.restart(hard=True))
    wait_for("both are well", lambda: two.listed() == listed)
    _follow(two, one, 3)


def _make_leader(cluster: EtcdCluster, chosen: EtcdServer) -> None:
    def status(member: EtcdServer) -> Any:
        with Client(member.client_endpoint) as client:
            return client.maintenance.Status(rpc_pb2.StatusRequest(), timeout=30)

    statuses = {member.name: status(member) for member in cluster.members}
    wanted, leader = statuses[chosen.name].header.member_id, statuses[chosen.name].leader
    if leader == wanted:
        return
    now = next(member for member in cluster.members if statuses[member.name].header.member_id == leader)
    with Client(now.client_endpoint) as client:
        client.maintenance.MoveLeader(rpc_pb2.MoveLeaderRequest(targetID=wanted), timeout=30)
    assert status(chosen).leader == wanted


@pytest.mark.slow
def test_the_lock_outlives_the_leader_of_the_store(three: EtcdCluster, nodes: Callable[..., Node]) -> None:
    node = nodes("one", three.endpoints)
    _lead(node)
    wait_for("it is listed", lambda: node.listed() == {"one": ("Leader", "running")})
    chosen = next(member for member in three.members if member.client_endpoint == node.endpoint())
    survivor = next(member for member in three.members if member is not chosen)
    _make_leader(three, chosen)
    _still_leads(node, survivor.client_endpoint, chosen.kill)
    assert node.endpoint() != chosen.client_endpoint
    assert node.listed() == {"one": ("Leader", "running")}
