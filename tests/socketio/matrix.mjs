// The real JavaScript client: each namespace on each path over each transport.

import { ask, check, client, greeted, heard, recorded, same, token, unique, within } from "./kit.mjs";

const TRANSPORTS = [["websocket"], ["polling"], ["polling", "websocket"]];

/** Waits until everything that was published before has come. */
async function settle(publisher, socket, room) {
  const marker = unique("marker");
  const come = heard(socket, "test.marker", (event) => event.data.marker === marker);
  const told = await ask(publisher, "publish", {
    type: "test.marker",
    source: "test",
    data: { marker },
    rooms: [room],
  });
  same(told.status, "success", "a marker is published");
  await come;
}

async function rooms(socket, publisher, user) {
  const room = `project:${unique("p")}`;
  const entered = await ask(socket, "subscribe", { room });
  same([entered.status, entered.room, entered.recovered], ["success", room, false], "entered");
  const denied = await ask(socket, "subscribe", { room: "agent:7" });
  same([denied.status, denied.code], ["error", "DENIED"], "a room that it may not enter");
  const others = await ask(socket, "subscribe", { room: "user:somebody-else" });
  same(others.status, "error", "another user's room");
  const unasked = heard(socket, "connection.error");
  socket.emit("subscribe", { room: "agent:7" });
  same((await unasked)[0].data.code, "DENIED", "refused without an acknowledgement");

  const listed = await ask(socket, "debug:rooms");
  same(listed.rooms, ["global", room, `user:${user}`].sort(), "the rooms that it is in");
  const present = await ask(socket, "presence", { room });
  same(present.users, [{ connections: 1, user }], "who is there");

  const all = recorded(socket);
  const published = await ask(publisher, "publish", {
    type: "pr.created",
    source: "ci",
    data: { number: 7 },
    rooms: [room, `user:${user}`, "global"],
  });
  same(published.status, "success", "published");
  await settle(publisher, socket, room);
  const [[name, event], ...more] = all.filter(([name, body]) => body.id === published.id);
  same([name, more.length], ["pr.created", 0], "an event to three of its rooms comes once");
  same(
    [event.type, event.source, event.data, event.offset],
    ["pr.created", "ci", { number: 7 }, published.offset],
    "the event",
  );
  check(!Number.isNaN(Date.parse(event.timestamp)), event.timestamp);

  const left = await ask(socket, "unsubscribe", { room });
  same([left.status, left.room], ["success", room], "left");
  same((await ask(socket, "unsubscribe", { room })).status, "error", "left twice");
  const unheard = await ask(publisher, "publish", { type: "pr.closed", data: {}, rooms: [room] });
  await settle(publisher, socket, `user:${user}`);
  check(!all.some(([, body]) => body.id === unheard.id), "nothing comes from a room that it left");
}

async function filters(socket, publisher) {
  const room = `project:${unique("f")}`;
  await ask(socket, "subscribe", { room, types: ["pr.*", "test.*"] });
  const all = recorded(socket);
  for (const type of ["issue.created", "pr.created"]) {
    await ask(publisher, "publish", { type, data: {}, rooms: [room] });
  }
  await settle(publisher, socket, room);
  same(all.map(([name]) => name), ["pr.created", "test.marker"], "only what is wanted comes");
}

async function payloads(socket) {
  const bytes = Buffer.from([0, 255, 1, 254, ...Buffer.from("binary")]);
  const acked = await ask(socket, "ping", bytes);
  check(acked.status === "success" && bytes.equals(Buffer.from(acked.data)), "binary comes back");
  const pong = heard(socket, "pong");
  socket.emit("ping", { deep: [bytes, { other: bytes }] });
  const [{ data }] = await pong;
  check(bytes.equals(Buffer.from(data.deep[0])), "binary within an event");
  check(bytes.equals(Buffer.from(data.deep[1].other)), "a second attachment");
  const long = "ä".repeat(450_000);
  check((await ask(socket, "ping", long)).data === long, "a message of 900 kB");
  same((await ask(socket, "dance")).code, "UNKNOWN_COMMAND", "an unknown command");
  const unasked = heard(socket, "connection.error");
  socket.emit("dance");
  same((await unasked)[0].data.code, "UNKNOWN_COMMAND", "without an acknowledgement");
}

async function missed(socket, publisher) {
  const room = `project:${unique("m")}`;
  const { epoch, offset } = await ask(socket, "subscribe", { room });
  const publish = async (n) => {
    const event = { type: "issue.updated", data: { n }, rooms: [room, "global"] };
    return (await ask(publisher, "publish", event)).offset;
  };
  const all = recorded(socket);
  const numbers = () => all.filter(([name]) => name === "issue.updated").map(([, body]) => body.data);
  await publish(1);
  await settle(publisher, socket, room);
  const last = all.at(-1)[1].offset;
  check(last > offset, "offsets rise");
  socket.disconnect();
  await publish(2);
  await publish(3);
  const greeting = heard(socket, "connection.established");
  socket.connect();
  await greeting;
  // In whatever order: each comes once.
  await publish(4);
  const [one, other] = await Promise.all([
    ask(socket, "subscribe", { room, after: { epoch, offset: last } }),
    ask(socket, "subscribe", { room: "global", after: last }),
  ]);
  check(one.recovered && other.recovered, "it goes on where it stopped");
  await publish(5);
  await settle(publisher, socket, room);
  const mine = numbers().map(({ n }) => n).filter((n) => n);
  same([...mine].sort(), [1, 2, 3, 4, 5], "each event comes once");
  const lost = await ask(socket, "subscribe", { room, after: { epoch: "another", offset: 1 } });
  same([lost.status, lost.recovered], ["success", false], "of another log nothing is known");
}

async function tooLong(socket) {
  const closed = heard(socket, "disconnect");
  const back = heard(socket, "connect");
  socket.emit("ping", "x".repeat(1_100_000));
  const [reason] = await closed;
  check(["transport close", "transport error"].includes(reason), reason);
  await back;
}

async function each(path, namespace, transports) {
  const user = unique("ana");
  const auth = { token: token({ sub: user }) };
  const { socket, legacy, dotted } = await greeted(namespace, { path, transports, auth });
  const publisher = (
    await greeted("/", { transports: ["websocket"], auth: { token: token({ sub: "ci" }) } })
  ).socket;
  for (const greeting of [legacy, dotted]) {
    same(
      greeting.data,
      { connection_id: socket.id, rooms: [`user:${user}`, "global"], user_id: user },
      "the greeting",
    );
  }
  same(
    [legacy.type, dotted.type],
    ["connection_established", "connection.established"],
    "the types of the greetings",
  );
  check(socket.id !== socket.io.engine.id, "the transport's number is not shown");
  if (transports.length > 1 && socket.io.engine.transport.name !== "websocket") {
    await heard(socket.io.engine, "upgrade");
  }
  same(socket.io.engine.transport.name, transports.at(-1), "the transport");
  await rooms(socket, publisher, user);
  await filters(socket, publisher);
  await payloads(socket);
  await missed(socket, publisher);
  await tooLong(socket);
  socket.disconnect();
  publisher.disconnect();
}

for (const path of ["/socket.io/", "/ws/socket.io/"]) {
  for (const namespace of ["/", "/ws"]) {
    for (const transports of TRANSPORTS) {
      const what = `${path} ${namespace} ${transports.join("→")}`;
      await within(what, each(path, namespace, transports)).catch((error) => {
        throw new Error(what, { cause: error });
      });
      console.log(`ok ${what}`);
    }
  }
}
