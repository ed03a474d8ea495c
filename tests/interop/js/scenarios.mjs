// The interop scenarios with nats.js. See run_client.py for how it is run, run_pair.py for the roles.
//
//     scenarios.mjs [responder|requester]

import assert from "node:assert/strict";
import process from "node:process";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Empty, errors, headers as natsHeaders } from "@nats-io/transport-node";
import * as pair from "./pair.mjs";
import { checkNoResponders, Collector, connect, numbers, QUIET_MS, subscribe, until, WAIT_MS } from "./support.mjs";

const PAYLOAD_MAX = 1024 * 1024;

const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

// Returns when all that was published before has reached its subscribers, surplus included.
async function settle(...connections) {
  for (const connection of connections) {
    await connection.flush();
  }
  await sleep(QUIET_MS);
}

async function request_reply(near, far) {
  far.subscribe("rr.upper", { callback: (_error, m) => m.respond(m.string().toUpperCase()) });
  far.subscribe("rr.silent", { callback: () => {} });
  await far.flush();
  for (const i of numbers(100)) {
    const reply = await near.request("rr.upper", `one-${i}`, { timeout: WAIT_MS });
    assert.equal(reply.string(), `ONE-${i}`);
  }
  const requests = numbers(100).map((i) => near.request("rr.upper", `many-${i}`, { timeout: WAIT_MS }));
  const replies = (await Promise.all(requests)).map((reply) => reply.string());
  assert.deepEqual(replies, numbers(100).map((i) => `MANY-${i}`));
  await assert.rejects(near.request("rr.silent", Empty, { timeout: QUIET_MS }), errors.TimeoutError);
}

async function no_responders(near, far) {
  await checkNoResponders(near, "nr.nobody");
  const service = far.subscribe("nr.service", { callback: () => {} });
  await far.flush();
  service.unsubscribe();
  await far.flush();
  await checkNoResponders(near, "nr.service");
}

async function headers(near, far) {
  const sent = natsHeaders();
  sent.append("Alpha", "one");
  sent.append("Alpha", "two");
  sent.append("alpha", "three");
  sent.append("Empty", "");
  sent.append("Text", "größer: 1, 2");
  const requests = new Collector();
  far.subscribe("hd.request", {
    callback: (error, message) => {
      requests.keep(error, message);
      const answer = natsHeaders();
      ["1", "2", "3"].forEach((value) => answer.append("Answer", value));
      message.respond(message.data, { headers: answer });
    },
  });
  await far.flush();
  const reply = await near.request("hd.request", "body", { timeout: WAIT_MS, headers: sent });
  assert.deepEqual(reply.headers.values("Answer"), ["1", "2", "3"]);
  assert.equal(reply.string(), "body");
  const got = requests.messages[0].headers;
  assert.deepEqual([...got.keys()].sort(), ["Alpha", "Empty", "Text", "alpha"]);
  for (const [name, values] of [
    ["Alpha", ["one", "two"]],
    ["alpha", ["three"]],
    ["Empty", [""]],
    ["Text", ["größer: 1, 2"]],
  ]) {
    assert.deepEqual(got.values(name), values);
  }

  const plain = subscribe(far, "hd.plain");
  await far.flush();
  const only = natsHeaders();
  only.set("Only", "header");
  near.publish("hd.plain", Empty, { headers: only });
  near.publish("hd.plain", "no header");
  await plain.waitFor(2);
  assert.deepEqual(plain.payloads(), ["", "no header"]);
  assert.equal(plain.messages[0].headers.get("Only"), "header");
  assert.equal(plain.messages[1].headers, undefined);
}

async function wildcards(near, far) {
  const patterns = {
    "wc.a.b": ["wc.a.b"],
    "wc.*.b": ["wc.a.b", "wc.c.b"],
    "wc.a.*": ["wc.a.b", "wc.a.d"],
    "*.a.b": ["wc.a.b"],
    "wc.>": ["wc.a", "wc.a.b", "wc.c.b", "wc.a.d", "wc.a.b.e"],
    "wc.a.>": ["wc.a.b", "wc.a.d", "wc.a.b.e"],
    "wc.*": ["wc.a"],
  };
  const collectors = Object.keys(patterns).map((pattern) => [pattern, subscribe(far, pattern)]);
  await far.flush();
  for (const subject of ["wc", "wc.a", "wc.a.b", "wc.c.b", "wc.a.d", "wc.a.b.e", "wcx.a.b.c"]) {
    near.publish(subject);
  }
  await settle(near, far);
  for (const [pattern, collector] of collectors) {
    assert.deepEqual(collector.subjects(), patterns[pattern], `subjects that reached ${pattern}`);
  }
}

async function queue_groups(near, far) {
  const members = [
    subscribe(near, "qg.*", { queue: "workers" }),
    subscribe(far, "qg.*", { queue: "workers" }),
    subscribe(far, "qg.job", { queue: "workers" }),
  ];
  const auditors = subscribe(far, "qg.job", { queue: "auditors" });
  const plain = subscribe(far, "qg.job");
  await near.flush();
  await far.flush();
  numbers(300).forEach((payload) => near.publish("qg.job", payload));
  await plain.waitFor(300);
  await settle(near, far);
  members.forEach((member) => assert(member.messages.length > 0, "every member gets a share"));
  const got = members.flatMap((member) => member.payloads());
  assert.deepEqual(got.sort(), numbers(300).sort(), "each message reaches one member of the group");
  assert.deepEqual(auditors.payloads(), numbers(300), "each message reaches the other group too");
  assert.deepEqual(plain.payloads(), numbers(300), "each message reaches the plain subscription");
}

async function auto_unsubscribe(near, far) {
  const first = subscribe(far, "au.first", { max: 5 });
  const second = new Collector();
  const later = far.subscribe("au.second", { callback: second.keep });
  await far.flush();
  ["0", "1"].forEach((payload) => near.publish("au.second", payload));
  await second.waitFor(2);
  later.unsubscribe(3);
  await far.flush();
  for (let i = 0; i < 10; i++) {
    near.publish("au.first", String(i));
    near.publish("au.second", String(i + 2));
  }
  await settle(near, far);
  assert.deepEqual(first.payloads(), numbers(5), "five messages, then no more");
  assert.deepEqual(second.payloads(), numbers(3), "messages before the limit was set count");
  await checkNoResponders(near, "au.first");
  await checkNoResponders(near, "au.second");
}

async function drain_subscription(near, far) {
  const sub = far.subscribe("ds.work");
  const handled = [];
  const worker = (async () => {
    for await (const message of sub) {
      await sleep(5);
      handled.push(message.string());
    }
  })();
  await far.flush();
  numbers(50).forEach((payload) => near.publish("ds.work", payload));
  await near.flush();
  await sub.drain();
  await worker;
  assert.deepEqual(handled, numbers(50), "messages handled by the end of a drain");
  await checkNoResponders(near, "ds.work");
}

async function drain_connection(near, far) {
  const answers = subscribe(far, "dc.answer");
  await far.flush();
  const worker = await connect();
  worker.subscribe("dc.work", { callback: (_error, m) => worker.publish("dc.answer", m.data) });
  await worker.flush();
  numbers(50).forEach((payload) => near.publish("dc.work", payload));
  await near.flush();
  await worker.drain();
  assert.equal(await worker.closed(), undefined, "a drained connection closes without an error");
  await answers.waitFor(50);
  assert.deepEqual(answers.payloads(), numbers(50), "answers published during the drain");
  await checkNoResponders(near, "dc.work");
}

async function large_payload(near, far) {
  const payload = Uint8Array.from({ length: PAYLOAD_MAX }, (_, i) => (i * 7) % 251);
  far.subscribe("lp.echo", { callback: (_error, message) => message.respond(message.data) });
  await far.flush();
  for (let i = 0; i < 3; i++) {
    const reply = await near.request("lp.echo", payload, { timeout: WAIT_MS });
    assert(Buffer.compare(reply.data, payload) === 0, `1 MiB came back changed, ${reply.data.length} bytes`);
  }
}

async function max_payload(near) {
  assert.equal(near.info.max_payload, PAYLOAD_MAX);
  assert.throws(() => near.publish("mp.over", new Uint8Array(PAYLOAD_MAX + 1)), errors.InvalidArgumentError);
  await near.flush();
}

async function reconnect(near, far) {
  const client = await connect();
  const events = { near: [], far: [], client: [] };
  for (const [name, connection] of Object.entries({ near, far, client })) {
    (async () => {
      for await (const status of connection.status()) {
        events[name].push(status.type);
      }
    })();
  }
  const plain = subscribe(client, "rc.plain");
  const wild = subscribe(client, "rc.*");
  const member = subscribe(client, "rc.plain", { queue: "workers" });
  await client.flush();

  console.log("restart");
  assert.equal((await input.next()).value, "restarted");
  for (const [name, list] of Object.entries(events)) {
    await until(() => list.includes("disconnect") && list.includes("reconnect"), `${name} is not back`);
  }
  await client.flush();
  near.publish("rc.plain", "again");
  await settle(near, client);
  for (const collector of [plain, wild, member]) {
    assert.deepEqual(collector.payloads(), ["again"], "subscription after the restart");
  }
  await client.close();
}

async function main() {
  const near = await connect();
  const far = await connect();
  for (const scenario of [
    request_reply,
    no_responders,
    headers,
    wildcards,
    queue_groups,
    auto_unsubscribe,
    drain_subscription,
    drain_connection,
    large_payload,
    max_payload,
    reconnect,
  ]) {
    try {
      await scenario(near, far);
    } catch (error) {
      console.error(`fail ${scenario.name}:`, error);
      process.exit(1);
    }
    console.log(`ok ${scenario.name}`);
  }
  await near.close();
  await far.close();
}

const role = process.argv[2];

(role ? pair.run(role) : main()).then(() => process.exit(0));
