// nats.js as the responder or the requester of a pair. See run_pair.py for what the two say to each other.
//
// Call-backs are called in the order in which messages came, whatever their subscription.

import assert from "node:assert/strict";
import process from "node:process";
import { Empty, errors, headers as natsHeaders } from "@nats-io/transport-node";
import { checkNoResponders, connect, numbers, QUIET_MS, subscribe, WAIT_MS } from "./support.mjs";

const COUNT = 200;
const JOB_COUNT = 300;
const PAYLOAD_MAX = 1024 * 1024;

function publishNumbers(connection, subject) {
  numbers(COUNT).forEach((payload, i) => {
    const headers = natsHeaders();
    headers.set("Number", payload);
    connection.publish(subject, payload, i % 2 ? { headers } : {});
  });
}

// What ask.count answers.
function judgeNumbers(messages) {
  for (const [i, message] of messages.entries()) {
    const pairs = [...(message.headers ?? [])];
    const wanted = i % 2 ? [["Number", [String(i)]]] : [];
    if (message.string() !== String(i) || JSON.stringify(pairs) !== JSON.stringify(wanted)) {
      return `message ${i} is ${message.string()} with ${JSON.stringify(pairs)}`;
    }
  }
  return `${messages.length} in order`;
}

async function respond(connection) {
  const sink = subscribe(connection, "sink");
  const work = subscribe(connection, "work", { queue: "workers" });
  const asked = connection.subscribe("ask.*");
  await connection.flush();
  console.log("ready");
  for await (const request of asked) {
    switch (request.subject.replace("ask.", "")) {
      case "upper":
        request.respond(request.string().toUpperCase());
        break;
      case "headers":
        ["1", "2"].forEach((value) => request.headers.append("Answer", value));
        request.respond(request.data, { headers: request.headers });
        break;
      case "send":
        publishNumbers(connection, "source");
        request.respond();
        break;
      case "count":
        request.respond(judgeNumbers(sink.messages));
        break;
      case "share":
        request.respond(work.payloads().join(" "));
        break;
      case "leave":
        request.respond("bye");
        await connection.drain();
        return;
    }
  }
}

async function ask(connection, what, payload = Empty) {
  return (await connection.request(`ask.${what}`, payload, { timeout: WAIT_MS })).string();
}

async function request_reply(connection) {
  for (const i of numbers(100)) {
    assert.equal(await ask(connection, "upper", `one-${i}`), `ONE-${i}`);
  }
}

async function requests_in_flight(connection) {
  const replies = await Promise.all(numbers(100).map((i) => ask(connection, "upper", `many-${i}`)));
  assert.deepEqual(replies, numbers(100).map((i) => `MANY-${i}`));
}

async function large_payload(connection) {
  const payload = "abcdefghijklmnopqrstuvwxyz".repeat(PAYLOAD_MAX / 26 + 1).slice(0, PAYLOAD_MAX);
  assert(await ask(connection, "upper", payload) === payload.toUpperCase(), "1 MiB came back changed");
}

async function headers(connection) {
  const sent = natsHeaders();
  sent.append("Alpha", "one");
  sent.append("Alpha", "two");
  sent.append("alpha", "three");
  sent.append("Empty", "");
  sent.append("Text", "größer: 1, 2");
  const reply = await connection.request("ask.headers", "body", { timeout: WAIT_MS, headers: sent });
  const wanted = {
    Alpha: ["one", "two"],
    alpha: ["three"],
    Empty: [""],
    Text: ["größer: 1, 2"],
    Answer: ["1", "2"],
  };
  assert.deepEqual(Object.fromEntries(reply.headers), wanted, "headers of the reply");
  assert.equal(reply.string(), "body", "payload after headers");
}

async function publish(connection) {
  publishNumbers(connection, "sink");
  assert.equal(await ask(connection, "count"), `${COUNT} in order`, "what the responder received");
}

async function subscribe_to_responder(connection) {
  const source = subscribe(connection, "source");
  assert.equal(await ask(connection, "send"), "", "reply without payload");
  assert.equal(judgeNumbers(source.messages), `${COUNT} in order`, "what was received");
}

async function queue_group(connection) {
  const work = subscribe(connection, "work", { queue: "workers" });
  await connection.flush();
  numbers(JOB_COUNT).forEach((job) => connection.publish("work", job));
  const theirs = (await ask(connection, "share")).split(" ").filter((job) => job !== "");
  const ours = work.payloads();
  assert(theirs.length > 0 && ours.length > 0, "each member of the group gets a share");
  assert.deepEqual([...theirs, ...ours].sort(), numbers(JOB_COUNT).sort(), "each message reaches one member");
}

async function no_responders(connection) {
  await checkNoResponders(connection, "nobody");
  await assert.rejects(connection.request("ask.silent", Empty, { timeout: QUIET_MS }), errors.TimeoutError);
}

async function responder_leaves(connection) {
  assert.equal(await ask(connection, "leave"), "bye");
  for (const end = Date.now() + WAIT_MS; ; ) {
    try {
      await connection.request("ask.upper", Empty, { timeout: QUIET_MS });
    } catch (error) {
      if (error instanceof errors.RequestError && error.isNoResponders()) {
        return;
      }
    }
    assert(Date.now() < end, "the responder is still there");
  }
}

async function request(connection) {
  const scenarios = {
    request_reply,
    requests_in_flight,
    large_payload,
    headers,
    publish,
    subscribe: subscribe_to_responder,
    queue_group,
    no_responders,
    responder_leaves,
  };
  for (const [name, scenario] of Object.entries(scenarios)) {
    try {
      await scenario(connection);
    } catch (error) {
      console.error(`fail ${name}:`, error);
      process.exit(1);
    }
    console.log(`ok ${name}`);
  }
  await connection.close();
}

export async function run(role) {
  await { responder: respond, requester: request }[role](await connect());
}
