"""Fixed scenarios that need time to pass, alarms or large messages; each must give equal answers on both sides.

A scenario is a coroutine over one `Probe`; what it returns is compared, so it returns facts without clock or ids.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from differential.pairs import start_pair
from harness.servers import EtcdServer
from harness.stubs import AsyncClient, status_of
from ratifyd.proto import auth_pb2, election_pb2, kv_pb2, lock_pb2, rpc_pb2

Fact = Any
Scenario = Callable[["Probe"], Awaitable[list[Fact]]]

_Alarm = rpc_pb2.AlarmRequest
_TICK_S = 0.05


class Probe:
    """One server under a scenario: stubs and the few helpers scenarios share."""

    def __init__(self, server: EtcdServer, client: AsyncClient) -> None:
        self.server = server
        self.client = client

    async def outcome(self, call: Awaitable[Any]) -> Fact:
        """The answer, or the (code, text) of the error."""
        try:
            return await call
        except Exception as error:  # status_of raises again what is not a gRPC status
            return status_of(error)

    async def put(self, key: bytes, value: bytes = b"v", lease: int = 0) -> Fact:
        answer = await self.outcome(self.client.kv.Put(rpc_pb2.PutRequest(key=key, value=value, lease=lease)))
        return answer if isinstance(answer, tuple) else answer.header.revision

    async def get(self, key: bytes, range_end: bytes = b"") -> list[tuple[bytes, bytes, int, int]]:
        answer = await self.client.kv.Range(rpc_pb2.RangeRequest(key=key, range_end=range_end))
        return [(kv.key, kv.value, kv.mod_revision, kv.lease) for kv in answer.kvs]

    async def grant(self, ttl: int, lease: int) -> Fact:
        answer = await self.outcome(self.client.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=lease)))
        return answer if isinstance(answer, tuple) else (answer.ID, answer.TTL)

    async def gone_after_s(self, key: bytes, timeout_s: float) -> float | None:
        """Seconds until the key is gone; None when it is still there at the deadline."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while loop.time() - started < timeout_s:
            if not await self.get(key):
                return loop.time() - started
            await asyncio.sleep(_TICK_S)
        return None

    async def events(self, create: rpc_pb2.WatchCreateRequest, count: int, timeout_s: float) -> list[kv_pb2.Event]:
        """The first `count` events of a new watcher; fewer when they do not come in time."""
        call = self.client.watch.Watch()
        await call.write(rpc_pb2.WatchRequest(create_request=create))
        events: list[kv_pb2.Event] = []
        try:
            async with asyncio.timeout(timeout_s):
                while len(events) < count:
                    events += (await call.read()).events
        except TimeoutError:
            pass
        call.cancel()
        return events


async def lease_expiry(probe: Probe) -> list[Fact]:
    """An expired lease takes its keys along in one revision, in key order, seen by watchers as deletions."""
    facts: list[Fact] = [await probe.grant(2, 10)]
    for key in (b"c", b"a", b"b"):
        facts.append(await probe.put(key, lease=10))
    gone_s = await probe.gone_after_s(b"a", 10)
    facts.append(gone_s is not None and 1.4 < gone_s < 5)
    events = await probe.events(rpc_pb2.WatchCreateRequest(key=b"\0", range_end=b"\0", start_revision=2), 6, 5)
    facts += [(event.type, event.kv.key, event.kv.mod_revision) for event in events]
    answer = await probe.client.lease.LeaseTimeToLive(rpc_pb2.LeaseTimeToLiveRequest(ID=10, keys=True))
    return [*facts, answer.TTL, answer.grantedTTL, list(answer.keys)]


async def lease_keepalive(probe: Probe) -> list[Fact]:
    """Renewals keep a lease past its time; without them it goes; a detached key stays."""
    facts: list[Fact] = [await probe.grant(2, 11), await probe.put(b"k", lease=11), await probe.put(b"free", lease=11)]
    facts.append(await probe.put(b"free"))
    call = probe.client.lease.LeaseKeepAlive()
    for _ in range(8):
        await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=11))
        facts.append((await call.read()).TTL)
        await asyncio.sleep(0.5)
    facts.append(await probe.get(b"k"))
    facts.append(await probe.gone_after_s(b"k", 10) is not None)
    await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=11))
    facts.append((await call.read()).TTL)
    call.cancel()
    return [*facts, await probe.get(b"free")]


async def lease_minimum(probe: Probe) -> list[Fact]:
    """Short and negative times to live are raised to the minimum."""
    return [await probe.grant(ttl, 20 + at) for at, ttl in enumerate((0, 1, -5, 2, 3))]


async def lease_survives_restart(probe: Probe) -> list[Fact]:
    """Leases and attachments are found again after a kill."""
    facts: list[Fact] = [await probe.grant(600, 30), await probe.put(b"r", lease=30)]
    await asyncio.to_thread(probe.server.restart, hard=True)
    deadline = asyncio.get_running_loop().time() + 15
    while asyncio.get_running_loop().time() < deadline:
        if not isinstance(await probe.outcome(probe.get(b"r")), tuple):
            break
        await asyncio.sleep(_TICK_S)
    answer = await probe.client.lease.LeaseTimeToLive(rpc_pb2.LeaseTimeToLiveRequest(ID=30, keys=True))
    facts += [answer.grantedTTL, list(answer.keys), answer.TTL > 500, await probe.get(b"r")]
    revoked = await probe.client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=30))
    return [*facts, revoked.header.revision, await probe.get(b"r")]


async def alarms(probe: Probe) -> list[Fact]:
    """NOSPACE and CORRUPT raised by hand refuse what they must and nothing else, and go again."""
    facts: list[Fact] = [await probe.put(b"x", b"1")]
    put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"x", value=b"2"))
    delete = rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=b"nothing"))
    for alarm in (rpc_pb2.NOSPACE, rpc_pb2.CORRUPT):
        activate = _Alarm(action=_Alarm.ACTIVATE, memberID=77, alarm=alarm)
        facts += [_alarms(await probe.client.maintenance.Alarm(activate)) for _ in range(2)]
        facts.append(await probe.put(b"x", b"3"))
        facts.append(await probe.grant(600, 40 + alarm))
        for operation in (put, delete):
            txn = probe.client.kv.Txn(rpc_pb2.TxnRequest(success=[operation]))
            facts.append(_revision(await probe.outcome(txn)))
        delete_range = probe.client.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=b"nothing"))
        facts.append(_revision(await probe.outcome(delete_range)))
        facts.append(_revision(await probe.outcome(probe.client.kv.Compact(rpc_pb2.CompactionRequest(revision=1)))))
        facts.append(await probe.outcome(probe.client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=1))))
        facts.append(await probe.get(b"x"))
        status = await probe.client.maintenance.Status(rpc_pb2.StatusRequest())
        facts.append([text.strip() for text in status.errors])
        deactivate = _Alarm(action=_Alarm.DEACTIVATE, memberID=77, alarm=alarm)
        facts += [_alarms(await probe.client.maintenance.Alarm(deactivate)) for _ in range(2)]
        facts.append(await probe.put(b"x", b"4"))
    return facts


async def fragments(probe: Probe) -> list[Fact]:
    """A large response is cut into fragments where asked for, and sent whole where not."""
    operations = [
        rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"f%d" % n, value=bytes([n]) * 700_000)) for n in range(2)
    ]
    facts: list[Fact] = []
    for _ in range(3):
        answer = await probe.client.kv.Txn(rpc_pb2.TxnRequest(success=operations))
        facts.append(answer.header.revision)
    for fragment in (False, True):
        create = rpc_pb2.WatchCreateRequest(key=b"f", range_end=b"g", start_revision=2, fragment=fragment)
        call = probe.client.watch.Watch()
        await call.write(rpc_pb2.WatchRequest(create_request=create))
        seen = 0
        while seen < 6:
            response = await asyncio.wait_for(call.read(), 10)
            seen += len(response.events)
            facts.append((response.fragment, [(event.kv.key, event.kv.mod_revision) for event in response.events]))
        call.cancel()
    return facts


async def locks_and_elections(probe: Probe) -> list[Fact]:
    """The lock and election services built on KV and leases."""
    facts: list[Fact] = [await probe.grant(600, 50), await probe.grant(600, 51)]
    lock, election = probe.client.lock, probe.client.election
    held = await lock.Lock(lock_pb2.LockRequest(name=b"l", lease=50))
    facts.append(held.key)
    waiting = asyncio.ensure_future(lock.Lock(lock_pb2.LockRequest(name=b"l", lease=51)))
    while len(await probe.get(b"l/", b"l0")) < 2:
        await asyncio.sleep(_TICK_S)
    facts.append(waiting.done())
    await lock.Unlock(lock_pb2.UnlockRequest(key=held.key))
    facts.append((await asyncio.wait_for(waiting, 10)).key)
    facts.append(await probe.outcome(lock.Lock(lock_pb2.LockRequest(name=b"l", lease=999))))
    won = await election.Campaign(election_pb2.CampaignRequest(name=b"e", lease=50, value=b"one"))
    facts.append((won.leader.name, won.leader.key, won.leader.rev, won.leader.lease))
    await election.Proclaim(election_pb2.ProclaimRequest(leader=won.leader, value=b"two"))
    leader = await election.Leader(election_pb2.LeaderRequest(name=b"e"))
    facts.append((leader.kv.key, leader.kv.value, leader.kv.mod_revision))
    await election.Resign(election_pb2.ResignRequest(leader=won.leader))
    facts.append(await probe.outcome(election.Leader(election_pb2.LeaderRequest(name=b"e"))))
    facts.append(await probe.outcome(election.Proclaim(election_pb2.ProclaimRequest(leader=won.leader, value=b"x"))))
    facts.append(await probe.outcome(election.Proclaim(election_pb2.ProclaimRequest(value=b"x"))))
    return facts


async def auth_on(probe: Probe) -> list[Fact]:
    """With auth on, users see and change what their roles allow."""
    auth, kv = probe.client.auth, probe.client.kv
    facts: list[Fact] = [await probe.outcome(auth.AuthEnable(rpc_pb2.AuthEnableRequest()))]
    for name in ("root", "u"):
        await auth.UserAdd(rpc_pb2.AuthUserAddRequest(name=name, password=name + "pw"))
    facts.append(await probe.outcome(auth.AuthEnable(rpc_pb2.AuthEnableRequest())))
    await auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name="r"))
    kinds = auth_pb2.Permission
    permissions = [(kinds.READ, b"a", b"c"), (kinds.READWRITE, b"k", b""), (kinds.WRITE, b"w", b"")]
    for kind, key, end in permissions:
        permission = auth_pb2.Permission(permType=kind, key=key, range_end=end)
        await auth.RoleGrantPermission(rpc_pb2.AuthRoleGrantPermissionRequest(name="r", perm=permission))
    await auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user="root", role="root"))
    await auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user="u", role="r"))
    await auth.AuthEnable(rpc_pb2.AuthEnableRequest())
    facts.append(await probe.outcome(kv.Range(rpc_pb2.RangeRequest(key=b"a"))))
    for name, password in (("u", "bad"), ("nobody", "x")):
        facts.append(await probe.outcome(auth.Authenticate(rpc_pb2.AuthenticateRequest(name=name, password=password))))
    for name in ("u", "root"):
        token = (await auth.Authenticate(rpc_pb2.AuthenticateRequest(name=name, password=name + "pw"))).token
        metadata = (("token", token),)
        facts += [_revision(await probe.outcome(call(metadata))) for call in _auth_calls(probe)]
    facts.append(_revision(await probe.outcome(_auth_calls(probe)[0]((("token", "bogus.1"),)))))
    return facts


def _auth_calls(probe: Probe) -> list[Callable[[Any], Awaitable[Any]]]:
    kv, auth = probe.client.kv, probe.client.auth
    put_read_only = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"a"))
    requests: list[tuple[Any, Any]] = [
        (kv.Range, rpc_pb2.RangeRequest(key=b"a")),
        (kv.Range, rpc_pb2.RangeRequest(key=b"a", range_end=b"c")),
        (kv.Range, rpc_pb2.RangeRequest(key=b"a", range_end=b"d")),
        (kv.Range, rpc_pb2.RangeRequest(key=b"w")),
        (kv.Put, rpc_pb2.PutRequest(key=b"a")),
        (kv.Put, rpc_pb2.PutRequest(key=b"k")),
        (kv.Put, rpc_pb2.PutRequest(key=b"w")),
        (kv.Put, rpc_pb2.PutRequest(key=b"w", prev_kv=True)),
        (kv.DeleteRange, rpc_pb2.DeleteRangeRequest(key=b"k", prev_kv=True)),
        (kv.DeleteRange, rpc_pb2.DeleteRangeRequest(key=b"w", prev_kv=True)),
        (kv.Txn, rpc_pb2.TxnRequest(failure=[put_read_only])),
        (kv.Txn, rpc_pb2.TxnRequest(compare=[rpc_pb2.Compare(key=b"w")])),
        (kv.Txn, rpc_pb2.TxnRequest()),
        (auth.UserList, rpc_pb2.AuthUserListRequest()),
        (auth.UserGet, rpc_pb2.AuthUserGetRequest(name="u")),
        (auth.UserGet, rpc_pb2.AuthUserGetRequest(name="root")),
        (auth.RoleGet, rpc_pb2.AuthRoleGetRequest(role="r")),
        (auth.RoleGet, rpc_pb2.AuthRoleGetRequest(role="root")),
        (auth.RoleAdd, rpc_pb2.AuthRoleAddRequest(name="r2")),
        (auth.AuthStatus, rpc_pb2.AuthStatusRequest()),
        (auth.UserChangePassword, rpc_pb2.AuthUserChangePasswordRequest(name="nobody", password="x")),
        (auth.UserDelete, rpc_pb2.AuthUserDeleteRequest(name="root")),
    ]
    return [partial(_with_metadata, call, request) for call, request in requests]


def _with_metadata(call: Any, request: Any, metadata: Any) -> Awaitable[Any]:
    answer: Awaitable[Any] = call(request, metadata=metadata)
    return answer


def _alarms(answer: Any) -> Fact:
    return sorted((alarm.memberID, alarm.alarm) for alarm in answer.alarms)


def _revision(answer: Any) -> Fact:
    """The header revision of an answer, or its error."""
    return answer if isinstance(answer, tuple) else answer.header.revision


SCENARIOS: dict[str, Scenario] = {
    "lease expiry": lease_expiry,
    "lease keep-alive": lease_keepalive,
    "lease minimum": lease_minimum,
    "lease survives a kill": lease_survives_restart,
    "alarms": alarms,
    "fragments": fragments,
    "locks and elections": locks_and_elections,
    "auth on": auth_on,
}


async def run_scenario(name: str, left: str, right: str) -> list[str]:
    """Run one scenario on a fresh pair; where the two lists of facts differ."""
    servers = await asyncio.to_thread(start_pair, left, right)
    try:
        clients = [AsyncClient(server.client_endpoint) for server in servers]
        probes = [Probe(server, client) for server, client in zip(servers, clients)]
        one, other = await asyncio.gather(*(SCENARIOS[name](probe) for probe in probes))
        for client in clients:
            await client.close()
    finally:
        for server in servers:
            await asyncio.to_thread(server.stop)
    differences = [
        f"fact {at}: {first} and {second}" for at, (first, second) in enumerate(zip(one, other)) if first != second
    ]
    if len(one) != len(other):
        differences.append(f"{len(one)} and {len(other)} facts")
    return differences


async def run_scenarios(left: str, right: str, report: Callable[[str], None]) -> int:
    """Run all; the number that differ."""
    failed = 0
    for name in SCENARIOS:
        try:
            found = await run_scenario(name, left, right)
        except Exception as error:
            found = [f"{type(error).__name__}: {error}"]
        report(f"{name}: {'agree' if not found else 'differ'}" + "".join(f"\n  {text}" for text in found))
        failed += bool(found)
    return failed
