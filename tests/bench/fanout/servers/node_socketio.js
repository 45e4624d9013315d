// Socket.IO, as its documentation broadcasts: `io.emit`.
"use strict";
const { createServer } = require("node:http");
const { Server } = require("socket.io");
const { now, plan, port, ticks } = require("./common.js");

const http = createServer();
const io = new Server(http, { pingInterval: 3_600_000 });
const updates = plan.updates.map((update) => JSON.parse(update));

ticks(() => {
  const stamp = now();
  for (const update of updates) {
    update.time = stamp;
    io.emit("metrics", update);
  }
});
http.listen(port, "127.0.0.1");
