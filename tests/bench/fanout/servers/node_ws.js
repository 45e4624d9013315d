// ws, as its documentation broadcasts: `client.send` for each of the clients;
// each message is made into bytes once for all of them.
"use strict";
const { WebSocket, WebSocketServer } = require("ws");
const { now, plan, port, ticks } = require("./common.js");

const server = new WebSocketServer({ host: "127.0.0.1", port });
const halves = plan.updates.map((update) => update.split("@"));

ticks(() => {
  const stamp = now();
  for (const [head, tail] of halves) {
    const data = Buffer.from(head + stamp + tail);
    server.clients.forEach((client) => {
      if (client.readyState === WebSocket.OPEN) {
        client.send(data, { binary: false });
      }
    });
  }
});
