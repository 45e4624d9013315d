// The real JavaScript client: who comes in, and who is sent away.

import { Manager } from "socket.io-client";
import { admin, ask, check, client, greeted, heard, origin, same, token, unique } from "./kit.mjs";

const TRANSPORTS = [["websocket"], ["polling"], ["polling", "websocket"]];

async function refused(what, options, message = "AUTH_FAILED", namespace = "/ws") {
  const socket = client(namespace, options);
  const error = heard(socket, "connect_error");
  socket.connect();
  const [{ message: told, data }] = await error;
  same(told, message, what);
  if (message === "AUTH_FAILED") same(data.content.code, "AUTH_FAILED", what);
  check(!socket.active, "it does not try again by itself");
  // With another token, on the same connection.
  socket.auth = { token: token({ sub: "ana" }) };
  if (message === "AUTH_FAILED" && !options.extraHeaders && !options.query) {
    const back = heard(socket, "connection.established");
    socket.connect();
    await back;
  }
  socket.disconnect();
}

async function admitted(options) {
  const { socket, dotted } = await greeted("/ws", options);
  same(dotted.data.user_id, "ana", "the user");
  socket.disconnect();
}

async function tokens(transports) {
  const good = token({ sub: "ana" });
  await refused("no token", { transports });
  await refused("an empty token", { transports, auth: { token: "" } });
  await refused("no token at all", { transports, auth: { token: "a.b.c" } });
  await refused("another secret's", { transports, auth: { token: `${good.slice(0, -4)}AAAA` } });
  await refused("an old one", { transports, auth: { token: token({ sub: "ana" }, -5) } });
  await refused("a number", { transports, auth: { token: 7 } });
  await refused("an unknown namespace", { transports, auth: { token: good } }, "Invalid namespace", "/x");
  await admitted({ transports, auth: { token: good } });
  await admitted({ transports, auth: { token: `Bearer ${good}` } });
  await admitted({ transports, query: { token: good } });
  await admitted({ transports, extraHeaders: { Authorization: `Bearer ${good}` } });
  await refused("a bad one in the query", { transports, query: { token: "x" } });
}

async function sentAway(socket, code, act) {
  const why = heard(socket, "connection.error");
  const end = heard(socket, "disconnect");
  await act();
  same((await why)[0].data.code, code, "why it is sent away");
  same((await end)[0], "io server disconnect", "how it ends");
  check(!socket.active, "it does not come back by itself");
}

async function endings(transports) {
  const brief = { transports, auth: { token: token({ sub: "ana" }, 3) } };
  await sentAway((await greeted("/ws", brief)).socket, "TOKEN_EXPIRED", () => {});

  const user = unique("bob");
  const { socket } = await greeted("/ws", { transports, auth: { token: token({ sub: user }) } });
  const bystander = (await greeted("/", { transports, auth: { token: token({ sub: "ana" }) } })).socket;
  await sentAway(socket, "REVOKED", async () => {
    const url = `${origin}/v1/users/${user}/disconnect`;
    const headers = { Authorization: `Bearer ${admin}` };
    const answer = await fetch(url, { method: "POST", headers });
    same(await answer.json(), { disconnected: 1 }, "how many were sent away");
  });
  same((await ask(bystander, "ping")).status, "success", "others stay");
  bystander.disconnect();
}

/** Both namespaces over one connection: each is a client of its own. */
async function shared(transports) {
  const manager = new Manager(origin, { transports, autoConnect: false });
  const [main, ws] = ["/", "/ws"].map((namespace) =>
    manager.socket(namespace, { auth: { token: token({ sub: "ana" }) } }),
  );
  const greetings = [main, ws].map((socket) => heard(socket, "connection.established"));
  main.connect();
  ws.connect();
  await Promise.all(greetings);
  check(main.id !== ws.id, "each has its own number");
  const came = [main, ws].map((socket) => heard(socket, "ai.suggestion"));
  await ask(main, "publish", { type: "ai.suggestion", data: {}, rooms: ["global"] });
  await Promise.all(came);
  main.disconnect();
  same((await ask(ws, "ping")).status, "success", "the other goes on");
  const came2 = heard(ws, "ai.suggestion");
  await ask(ws, "publish", { type: "ai.suggestion", data: {}, rooms: ["global"] });
  await came2;
  ws.disconnect();
}

for (const transports of TRANSPORTS) {
  for (const test of [tokens, endings, shared]) {
    const what = `${test.name} ${transports.join("→")}`;
    await test(transports).catch((error) => {
      throw new Error(what, { cause: error });
    });
    console.log(`ok ${what}`);
  }
}
