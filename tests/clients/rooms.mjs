// Follows two rooms and publishes to them: node rooms.mjs ADDRESS TOKEN_FILE NAME COUNT
// It says what it is told, a line each.

import { readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { WebSocket } from 'ws';
import { connect } from './telltale.js';

const [address, tokenFile, by, count] = process.argv.slice(2);
const ROOMS = ['project:1', 'project:2'];

const hub = connect(`ws://${address}`, {
  WebSocket,
  token: () => readFileSync(tokenFile, 'utf8'),
  onstatus: ({ state, code = 0, reason = '' }) => console.log('status', state, code, reason),
});

const begun = ROOMS.map((room) => new Promise((begin) => {
  hub.subscribe({ room }, {
    onfresh({ first, offset }) {
      console.log(first ? 'fresh' : 'lost', room, offset);
      begin();
    },
    onentry: ({ data }, { offset }) => console.log('entry', room, offset, data.by, data.n),
    onerror: (error) => console.log('refused', room, error.message),
  });
}));

await Promise.all(begun);
for (let n = 0; n < Number(count); n += 1) {
  const rooms = n % 3 === 0 ? ROOMS : [ROOMS[n % 3 - 1]];
  const { offset } = await hub.publish({ type: 'test.done', data: { by, n }, rooms });
  console.log('receipt', n, offset);
  await pause(10);
}
