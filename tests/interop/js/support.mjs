// What the scenarios and the roles of a pair (pair.mjs) share: a connection, collected messages, checks.

import assert from "node:assert/strict";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as natsConnect, Empty, errors } from "@nats-io/transport-node";

export const WAIT_MS = 10_000;
export const QUIET_MS = 200;

export function connect() {
  return natsConnect({ servers: process.env.NATS_URL, reconnectTimeWait: 100, maxReconnectAttempts: 100 });
}

export function numbers(count) {
  return Array.from({ length: count }, (_, i) => String(i));
}

export async function until(condition, text) {
  for (const end = Date.now() + WAIT_MS; !condition(); await sleep(5)) {
    assert(Date.now() < end, `${text} after ${WAIT_MS} ms`);
  }
}

// Keeps the messages of one subscription, and waits for them.
export class Collector {
  messages = [];

  keep = (error, message) => {
    assert.ifError(error);
    this.messages.push(message);
  };

  payloads() {
    return this.messages.map((message) => message.string());
  }

  subjects() {
    return this.messages.map((message) => message.subject);
  }

  async waitFor(count) {
    await until(() => this.messages.length >= count, `fewer than ${count} messages`);
  }
}

export function subscribe(connection, subject, options = {}) {
  const collector = new Collector();
  connection.subscribe(subject, { callback: collector.keep, ...options });
  return collector;
}

export async function checkNoResponders(connection, subject) {
  await assert.rejects(
    connection.request(subject, Empty, { timeout: WAIT_MS }),
    (error) => error instanceof errors.RequestError && error.isNoResponders(),
    `request to ${subject} must end with no responders`,
  );
}
