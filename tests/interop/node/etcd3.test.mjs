// The npm client etcd3 (its own gRPC stack, @grpc/grpc-js) against one server: node --test, endpoint in ENDPOINT.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { EtcdLockFailedError, Etcd3 } from "etcd3";

const client = new Etcd3({ hosts: process.env.ENDPOINT });
const prefix = process.env.PREFIX ?? "node/";

after(() => client.close());

test("values, absent keys and deletions", async () => {
  await client.put(`${prefix}a`).value("one");
  assert.equal(await client.get(`${prefix}a`).string(), "one");
  assert.equal(await client.get(`${prefix}none`).string(), null);
  await client.put(`${prefix}n`).value(42);
  assert.equal(await client.get(`${prefix}n`).number(), 42);
  const removed = await client.delete().key(`${prefix}a`);
  assert.equal(removed.deleted, "1");
});

test("many keys: prefix, limit, sort, count", async () => {
  for (const name of ["3", "1", "2"]) {
    await client.put(`${prefix}many/${name}`).value(`v${name}`);
  }
  const all = await client.getAll().prefix(`${prefix}many/`).strings();
  assert.deepEqual(all, { [`${prefix}many/1`]: "v1", [`${prefix}many/2`]: "v2", [`${prefix}many/3`]: "v3" });
  assert.equal(await client.getAll().prefix(`${prefix}many/`).count(), 3);
  const sorted = await client.getAll().prefix(`${prefix}many/`).sort("Key", "Descend").limit(2).keys();
  assert.deepEqual(sorted, [`${prefix}many/3`, `${prefix}many/2`]);
  assert.equal((await client.delete().prefix(`${prefix}many/`)).deleted, "3");
});

test("a megabyte there and back", async () => {
  const value = Buffer.alloc(1024 * 1024, 7);
  await client.put(`${prefix}big`).value(value);
  assert.ok(value.equals(await client.get(`${prefix}big`).buffer()));
});

test("conditions take the right branch", async () => {
  const key = `${prefix}if`;
  const request = () =>
    client.if(key, "Create", "==", 0).then(client.put(key).value("created")).else(client.get(key)).commit();
  assert.equal((await request()).succeeded, true);
  const second = await request();
  assert.equal(second.succeeded, false);
  assert.equal(second.responses[0].response_range.kvs[0].value.toString(), "created");
});

test("software transactional memory retries on conflict", async () => {
  await client.put(`${prefix}counter`).value("0");
  const add = () =>
    client.stm({ retries: 20 }).transact(async (tx) => {
      const now = await tx.get(`${prefix}counter`).number();
      await tx.put(`${prefix}counter`).value(now + 1);
    });
  await Promise.all([add(), add(), add()]);
  assert.equal(await client.get(`${prefix}counter`).number(), 3);
});

test("namespaces", async () => {
  const inside = client.namespace(`${prefix}space/`);
  await inside.put("k").value("v");
  assert.equal(await client.get(`${prefix}space/k`).string(), "v");
  assert.deepEqual(await inside.getAll().keys(), ["k"]);
});

test("a watcher sees puts and deletions in order", async () => {
  const watcher = await client.watch().prefix(`${prefix}w/`).create();
  const seen = [];
  const done = new Promise((resolve) => {
    watcher.on("put", (kv) => seen.push(["put", kv.key.toString(), kv.value.toString()]));
    watcher.on("delete", (kv) => {
      seen.push(["delete", kv.key.toString()]);
      resolve();
    });
  });
  await client.put(`${prefix}w/1`).value("x");
  await client.put(`${prefix}w/2`).value("y");
  await client.delete().key(`${prefix}w/1`);
  await done;
  assert.deepEqual(seen, [
    ["put", `${prefix}w/1`, "x"],
    ["put", `${prefix}w/2`, "y"],
    ["delete", `${prefix}w/1`],
  ]);
  await watcher.cancel();
});

test("a watcher replays the past", async () => {
  const first = await client.put(`${prefix}past`).value("1");
  await client.put(`${prefix}past`).value("2");
  const watcher = await client.watch().key(`${prefix}past`).startRevision(first.header.revision).create();
  const values = [];
  await new Promise((resolve) =>
    watcher.on("put", (kv) => {
      values.push(kv.value.toString());
      if (values.length === 2) resolve();
    }),
  );
  assert.deepEqual(values, ["1", "2"]);
  await watcher.cancel();
});

test("leases keep and drop keys", async () => {
  const lease = client.lease(30);
  await lease.put(`${prefix}leased`).value("v");
  const live = await lease.keepaliveOnce();
  assert.equal(live.TTL, "30");
  await lease.revoke();
  assert.equal(await client.get(`${prefix}leased`).string(), null);
});

test("locks exclude", async () => {
  const lock = client.lock(`${prefix}lock`);
  await lock.acquire();
  await assert.rejects(client.lock(`${prefix}lock`).acquire(), EtcdLockFailedError);
  await lock.release();
  const again = client.lock(`${prefix}lock`);
  await again.acquire();
  await again.release();
});

test("elections", async () => {
  const election = client.election(`${prefix}election`, 5);
  const campaign = election.campaign("first");
  await new Promise((resolve, reject) => campaign.on("elected", resolve).on("error", reject));
  assert.equal(await election.leader(), "first");
  await campaign.resign();
});

test("errors have types", async () => {
  await assert.rejects(client.put("").value("x"), /key is not provided/);
  await assert.rejects(client.get(`${prefix}a`).revision(10_000_000).string(), /future revision/);
});

test("maintenance and cluster", async () => {
  const status = await client.maintenance.status();
  assert.match(status.version, /^\d+\.\d+\.\d+$/);
  const { members } = await client.cluster.memberList({});
  assert.equal(members.length, 1);
});

test("a snapshot is a bolt file with its digest", async () => {
  const stream = await client.maintenance.snapshot();
  const chunks = [];
  for await (const part of stream) chunks.push(part.blob);
  const size = Buffer.concat(chunks).length;
  assert.equal(size % 512, 32);
});

test("users and roles", async () => {
  const role = client.role(`${prefix}role`);
  await role.create();
  await role.grant({ permission: "Readwrite", range: client.range({ prefix: "r/" }) });
  const user = client.user(`${prefix}user`);
  await user.create("password");
  await user.addRole(role);
  assert.deepEqual((await user.roles()).map((each) => each.name), [`${prefix}role`]);
  assert.equal((await role.permissions()).length, 1);
  await user.delete();
  await role.delete();
  assert.ok(Array.isArray(await client.getRoles()));
});
