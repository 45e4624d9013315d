// The real JavaScript client over a stop of its hub: it is told, and comes back.

import { check, client, greeted, heard, same, token } from "./kit.mjs";

const clients = [];
for (const transports of [["websocket"], ["polling"], ["polling", "websocket"]]) {
  const auth = { token: token({ sub: "ana" }) };
  const { socket } = await greeted("/ws", { transports, auth, timeout: 2000 });
  if (transports.length > 1 && socket.io.engine.transport.name !== "websocket") {
    await heard(socket.io.engine, "upgrade");
  }
  const why = heard(socket, "connection.error");
  const end = heard(socket, "disconnect");
  clients.push({ socket, why, end });
}
console.log("ready");
for (const { socket, why, end } of clients) {
  const [{ data }] = await why;
  same(data.code, "SERVER_STOPPING", "what it is told");
  check(Number.isInteger(data.reconnect_after_ms), "when to come back");
  const [reason] = await end;
  check(["transport close", "transport error"].includes(reason), reason);
  check(socket.active, "it comes back by itself");
}
console.log("told");
await Promise.all(clients.map(({ socket }) => socket.connected || heard(socket, "connect")));
clients.forEach(({ socket }) => socket.disconnect());
console.log("back");
