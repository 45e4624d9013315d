// What the tests of the real JavaScript client have in common.

import { createHmac } from "node:crypto";
import { io } from "socket.io-client";

export const [origin, secret, admin] = process.argv.slice(2);

/** How long anything is waited for: far longer than it takes. */
const LIMIT = 30_000;

let next = 0;
/** A name that nobody else has. */
export const unique = (word) => `${word}${process.pid}x${next++}`;

const base64 = (text) => Buffer.from(text).toString("base64url");

/** A token of HS256. */
export function token(claims, seconds = 600) {
  const exp = Math.floor(Date.now() / 1000) + seconds;
  const publish = [{ types: ["*"], rooms: ["*"] }];
  const all = { rooms: ["project:*"], publish, exp, ...claims };
  const body = `${base64('{"alg":"HS256","typ":"JWT"}')}.${base64(JSON.stringify(all))}`;
  return `${body}.${createHmac("sha256", secret).update(body).digest("base64url")}`;
}

export function check(holds, what) {
  if (!holds) throw new Error(`not so: ${what}`);
}

export function same(one, other, what) {
  const [a, b] = [JSON.stringify(one), JSON.stringify(other)];
  check(a === b, `${what}: ${a} is ${b}`);
}

/** Awaits a promise, and says what was awaited if it takes too long. */
export function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited for ${what}`)), LIMIT);
    // What nobody waits for any more doesn't keep the program.
    timer.unref();
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The arguments of the next event of that name that is as it is wanted. */
export function heard(emitter, name, wanted = () => true) {
  const event = new Promise((resolve) => {
    const listen = (...all) => {
      if (!wanted(...all)) return;
      emitter.off(name, listen);
      resolve(all);
    };
    emitter.on(name, listen);
  });
  return within(name, event);
}

/** The answer to a command. */
export const ask = (socket, ...command) =>
  within(`the answer to ${command[0]}`, new Promise((resolve) => socket.emit(...command, resolve)));

/** A client that does not connect yet. */
export const client = (namespace, options) =>
  io(`${origin}${namespace === "/" ? "" : namespace}`, {
    autoConnect: false,
    forceNew: true,
    reconnectionDelay: 50,
    reconnectionDelayMax: 200,
    ...options,
  });

/** A client that has been greeted. */
export async function greeted(namespace, options) {
  const socket = client(namespace, options);
  const greetings = Promise.all([
    heard(socket, "connect"),
    heard(socket, "connection_established"),
    heard(socket, "connection.established"),
  ]);
  const refused = heard(socket, "connect_error").then(([error]) => {
    throw error;
  });
  refused.catch(() => {});
  socket.connect();
  const [, [legacy], [dotted]] = await Promise.race([greetings, refused]);
  return { socket, legacy, dotted };
}

/** Everything that a client is told, by name. */
export function recorded(socket) {
  const all = [];
  socket.onAny((name, body) => all.push([name, body]));
  return all;
}
