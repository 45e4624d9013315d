// Shows the events of rooms, over Socket.IO, and misses none: after a break it
// asks each room for what has come since.
//
//   node watch.mjs http://127.0.0.1:8765 TOKEN project:1 project:2

import { io } from "socket.io-client";

const [origin = "http://127.0.0.1:8765", token = "", ...rooms] = process.argv.slice(2);

const socket = io(`${origin}/ws`, {
  auth: { token },
  reconnectionDelay: 100,
  reconnectionDelayMax: 2000,
});

/** Everything up to here has come: {epoch, offset}. One for all rooms. */
let position;
/** All rooms are entered, and what was missed has come. */
let isSettled = false;
/** The last events that were shown, by id: some may come again after a break. */
const shown = new Set();

const ask = (...command) => socket.timeout(5000).emitWithAck(...command);

socket.on("connect", async () => {
  isSettled = false;
  try {
    const enter = (room) => ask("subscribe", { room, after: position });
    const answers = await Promise.all(rooms.map(enter));
    // What was missed comes right behind each answer, and so before this one.
    await ask("ping");
    answers.forEach(({ status, message, recovered }, nth) => {
      if (status !== "success") console.log(`not in ${rooms[nth]}: ${message}`);
      else if (position && !recovered) console.log(`events of ${rooms[nth]} were lost`);
      else console.log(`in ${rooms[nth]}`);
    });
    const entered = answers.filter(({ status }) => status === "success");
    if (entered.length === 0) return;
    const offset = Math.min(...entered.map((answer) => answer.offset));
    position = { epoch: entered[0].epoch, offset };
    isSettled = true;
  } catch (error) {
    // The connection broke again: the next one begins where this one did.
    console.log(`not settled: ${error.message}`);
  }
});

socket.onAny((type, event) => {
  if (event?.offset === undefined || event.id === undefined) return; // the hub's own words
  // Events come in the order of their offsets, over all rooms.
  if (isSettled) position.offset = Math.max(position.offset, event.offset);
  if (shown.has(event.id)) return;
  shown.add(event.id);
  if (shown.size > 10_000) shown.delete(shown.values().next().value);
  console.log(event.timestamp, type, JSON.stringify(event.data));
});

socket.on("connection.error", ({ data }) => console.log(`${data.code}: ${data.message}`));

socket.on("connect_error", (error) => {
  // A refusal has data; anything else is tried again.
  if (error.data?.content?.code === "AUTH_FAILED") {
    console.log("the token was refused");
    process.exitCode = 1;
  }
});

socket.on("disconnect", (reason) => console.log(`disconnected: ${reason}`));
