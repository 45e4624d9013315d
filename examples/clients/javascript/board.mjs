#!/usr/bin/env node
// Edits a board in a terminal: node board.mjs [ADDRESS [USER [BOARD]]]
//
// It shows the board whenever that changes, here or elsewhere. A line that is typed
// changes it: `cpu {"x": 3}` sets members of the widget cpu, `cpu` deletes it,
// `layout {"columns": 2}` replaces the layout. Try it in two terminals, and stop the
// hub meanwhile. A token is taken from TOKEN in the environment. Node 20 has no
// WebSocket of its own: `npm install` brings one.

import { createInterface } from 'node:readline';
import { sync } from './sync.mjs';

const [address = '127.0.0.1:8765', user = 'ana', name] = process.argv.slice(2);
const WebSocket = globalThis.WebSocket ?? (await import('ws')).WebSocket;
let shown = '';

const board = sync(address.includes('://') ? address : `http://${address}`, {
  user,
  board: name,
  token: process.env.TOKEN,
  WebSocket,
  onchange: show,
  onstatus({ state, reason, retryInMs }) {
    if (state === 'waiting') console.error(`lost: ${reason}; again in ${Math.round(retryInMs)} ms`);
    if (state === 'closed') process.exit(reason === 'closed here' ? 0 : 1);
  },
  onconflict({ widgetId, layoutId, server, client }) {
    console.error(`${widgetId ?? layoutId} has changed meanwhile: both changes are kept`);
    return { ...server.data, ...client.data };
  },
});

function show() {
  const line = (kind) => ([id, { version, data }]) => `  ${kind} ${id} v${version} ${JSON.stringify(data)}`;
  const lines = [...[...board.widgets].map(line('widget')), ...[...board.layouts].map(line('layout'))];
  const now = [`board, ${board.pending.length} pending`, ...lines].join('\n');
  if (now !== shown) console.log(now);
  shown = now;
}

for await (const line of createInterface({ input: process.stdin })) {
  const [id, ...json] = line.trim().split(/\s+/);
  // What waits to be safe does not hold up what is typed next.
  if (id) change(id, json.join(' ')).catch(({ message }) => console.error(`${id}: ${message}`));
}
// Whoever has nothing more to say waits until all of it is safe.
while (board.pending.length > 0) await new Promise((look) => { setTimeout(look, 50); });
board.close();

async function change(id, json) {
  if (!json) await board.deleteWidget(id);
  else if (id === 'layout') await board.saveLayout(JSON.parse(json));
  else await board.updateWidget(id, JSON.parse(json));
}
