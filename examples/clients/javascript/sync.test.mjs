// Runs with `npm install && npm test`. Hubs here say what a test has them say.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { sync } from './sync.mjs';

/** How long anything is waited for. */
const LIMIT_MS = 20_000;

/** Waits until there is something, and takes it. */
async function take(list, what) {
  const end = performance.now() + LIMIT_MS;
  while (list.length === 0) {
    assert.ok(performance.now() < end, `waited too long for ${what}`);
    await new Promise((look) => { setTimeout(look, 1); });
  }
  return list.shift();
}

/** A hub that does nothing by itself. */
class FakeHub {
  connections = [];
  posts = [];
  /** What the next posts are answered with. */
  answers = [];
  /** Connections are refused. */
  refuses = false;

  static async start(t) {
    const hub = new FakeHub();
    hub.sockets = new WebSocketServer({ noServer: true });
    hub.server = createServer(async (request, response) => {
      const parts = [];
      for await (const part of request) parts.push(part);
      const [operation] = JSON.parse(Buffer.concat(parts)).operations;
      hub.posts.push(operation);
      const result = hub.answers.shift();
      if (!result) response.statusCode = 503;
      response.end(JSON.stringify({ success: true, results: [{ operationId: operation.operationId, ...result }] }));
    });
    hub.server.on('upgrade', (request, socket, head) => {
      if (hub.refuses) socket.destroy();
      else hub.sockets.handleUpgrade(request, socket, head, (client) => hub.connections.push(new Connection(client, request)));
    });
    hub.server.listen(0, '127.0.0.1');
    await once(hub.server, 'listening');
    t.after(() => {
      hub.sockets.clients.forEach((client) => client.terminate());
      hub.server.close();
      hub.server.closeAllConnections();
    });
    return hub;
  }

  get url() {
    return `http://127.0.0.1:${this.server.address().port}`;
  }

  /** The next client, which has been told this state. */
  async accept(state) {
    const connection = await take(this.connections, 'a connection');
    connection.asked = await connection.next('SYNC_REQUEST');
    if (state) connection.state(state);
    return connection;
  }
}

class Connection {
  messages = [];

  constructor(socket, { url }) {
    this.socket = socket;
    this.url = url;
    socket.on('message', (data) => {
      const message = JSON.parse(data);
      if (message.type !== 'PING') this.messages.push(message);
    });
  }

  async next(type) {
    const message = await take(this.messages, type);
    assert.equal(message.type, type, JSON.stringify(message));
    return message;
  }

  say(type, payload, correlationId) {
    this.socket.send(JSON.stringify({ type, id: 'x', timestamp: '', userId: '', payload, correlationId }));
  }

  state(state) {
    this.say('SYNC_RESPONSE', { epoch: 'e', full: true, widgets: [], layouts: [], deleted: [], ...state });
  }

  /** Waits for an operation and confirms it. */
  async ack(type, answer) {
    const message = await this.next(type);
    this.say('ACK', { received: true, ...answer }, message.id);
    return message;
  }
}

function client(t, hub, options = {}) {
  const board = sync(hub.url, { user: 'ana', WebSocket, random: () => 0, ...options });
  t.after(() => board.close());
  return board;
}

const widget = (widgetId, version, data) => ({ widgetId, version, data });
const plain = (objects) => Object.fromEntries([...objects].map(([id, { version, data }]) => [id, [version, data]]));

/** Waits until a board shows this. */
async function shows(board, widgets) {
  const end = performance.now() + LIMIT_MS;
  for (;;) {
    try {
      assert.deepEqual(plain(board.widgets), widgets);
      return;
    } catch (error) {
      if (performance.now() > end) throw error;
      await new Promise((look) => { setTimeout(look, 1); });
    }
  }
}

test('a change shows at once, and stays over those of others', async (t) => {
  const hub = await FakeHub.start(t);
  const board = client(t, hub, { board: 'b', token: 't' });
  const connection = await hub.accept({ version: 3, widgets: [widget('w', 2, { a: 1, b: 1 })] });
  assert.equal(connection.url, '/api/realtime?userId=ana&token=t&board=b');
  await shows(board, { w: [2, { a: 1, b: 1 }] });
  const safe = board.updateWidget('w', { a: 2 });
  assert.deepEqual(plain(board.widgets), { w: [2, { a: 2, b: 1 }] });
  connection.say('WIDGET_UPDATE', { widgetId: 'w', data: { a: 5, b: 5 }, version: 3, syncVersion: 4 });
  await shows(board, { w: [3, { a: 2, b: 5 }] });
  await connection.ack('WIDGET_UPDATE', { version: 4, syncVersion: 5 });
  assert.deepEqual(await safe, { version: 4, versions: undefined, syncVersion: 5 });
  assert.deepEqual(plain(board.widgets), { w: [4, { a: 2, b: 5 }] });
  assert.deepEqual(board.pending, []);
});

test('an answer that is ahead of what came before it waits for that', async (t) => {
  const hub = await FakeHub.start(t);
  const board = client(t, hub);
  const connection = await hub.accept({ version: 0 });
  const safe = board.updateWidget('w', { a: 1 });
  await connection.ack('WIDGET_UPDATE', { version: 3, syncVersion: 3 });
  await safe;
  assert.deepEqual(plain(board.widgets), { w: [0, { a: 1 }] });
  connection.say('WIDGET_UPDATE', { widgetId: 'w', data: { a: 8, b: 8 }, version: 1, syncVersion: 1 });
  connection.say('WIDGET_UPDATE', { widgetId: 'w', data: { a: 9 }, version: 2, syncVersion: 2 });
  await shows(board, { w: [3, { a: 1, b: 8 }] });
});

test('what is missing is asked for, and what does not say what comes out', async (t) => {
  const hub = await FakeHub.start(t);
  const board = client(t, hub);
  const connection = await hub.accept({ version: 1, widgets: [widget('w', 1, { a: 1 })] });
  connection.say('WIDGET_DELETE', { widgetId: 'w', version: 3, syncVersion: 3 });
  const { payload } = await connection.next('SYNC_REQUEST');
  assert.deepEqual(payload, { since: 1, epoch: 'e' });
  connection.state({ version: 3, full: false, widgets: [widget('v', 1, {})], deleted: [{ widgetId: 'w', version: 3 }] });
  await shows(board, { v: [1, {}] });
  const safe = board.restoreLayout(1);
  await connection.ack('LAYOUT_RESTORE', { version: 7, syncVersion: 4 });
  await safe;
  assert.equal((await connection.next('SYNC_REQUEST')).payload.since, 3);
  connection.state({ version: 4, full: false, layouts: [{ layoutId: 'default', version: 7, layout: { c: 2 } }] });
  while (board.layouts.size === 0) await new Promise(setImmediate);
  assert.deepEqual(plain(board.layouts), { default: [7, { c: 2 }] });
});

test('an older state than the one that is known changes nothing', async (t) => {
  const hub = await FakeHub.start(t);
  const board = client(t, hub);
  const connection = await hub.accept({ version: 1, widgets: [widget('w', 1, { a: 1 })] });
  const safe = board.updateWidget('w', { a: 2 });
  await connection.ack('WIDGET_UPDATE', { version: 2, syncVersion: 2 });
  await safe;
  connection.state({ version: 1, full: false, widgets: [widget('w', 1, { a: 1 })] });
  connection.say('WIDGET_UPDATE', { widgetId: 'v', data: {}, version: 1, syncVersion: 3 });
  await shows(board, { w: [2, { a: 2 }], v: [1, {}] });
});

test('the queue is replayed in order with its ids, after what was missed', async (t) => {
  const hub = await FakeHub.start(t);
  const board = client(t, hub);
  let connection = await hub.accept({ version: 0 });
  board.updateWidget('w', { a: 1 });
  board.updateWidget('w', { a: 2 });
  board.batch([{ type: 'WIDGET_DELETE', payload: { widgetId: 'w' } }, { type: 'WIDGET_UPDATE', payload: { widgetId: 'v', data: {} } }]);
  const first = await connection.next('WIDGET_UPDATE');
  assert.deepEqual(connection.messages, [], 'one at a time');
  const pending = board.pending.map(({ id }) => id);
  assert.equal(pending[0], first.id);
  assert.match(first.id, /^msg-\d+-[0-9a-z]{7}$/);
  connection.socket.terminate();
  connection = await hub.accept();
  assert.deepEqual(connection.asked.payload, { since: 0, epoch: 'e' });
  assert.deepEqual(connection.messages, []);
  // The first was done, although nobody said so.
  connection.state({ version: 1, full: false, widgets: [widget('w', 1, { a: 1 })] });
  const ids = [
    (await connection.ack('WIDGET_UPDATE', { version: 1, syncVersion: 1 })).id,
    (await connection.ack('WIDGET_UPDATE', { version: 2, syncVersion: 2 })).id,
    (await connection.ack('WIDGET_BATCH', { versions: [{ widgetId: 'w', version: 3 }, { widgetId: 'v', version: 1 }], syncVersion: 3 })).id,
  ];
  assert.deepEqual(ids, pending);
  await shows(board, { v: [1, {}] });
});

test('what is refused for now is tried again, what is refused for good is undone', async (t) => {
  const hub = await FakeHub.start(t);
  const board = client(t, hub);
  const connection = await hub.accept({ version: 0 });
  const refused = board.updateWidget('w', { a: 1 });
  const { id } = await connection.next('WIDGET_UPDATE');
  connection.say('NACK', { error: 'r', temporary: true, retryAfterMs: 1 }, id);
  assert.equal((await connection.next('WIDGET_UPDATE')).id, id);
  connection.say('NACK', { error: 'no' }, id);
  await assert.rejects(refused, /no/);
  assert.deepEqual(plain(board.widgets), {});
  const many = Array.from({ length: 257 }, (_, n) => board.updateWidget(`w${n}`, {}));
  await assert.rejects(many.at(-1), /256/);
  board.close();
  await assert.rejects(many[0], /closed/);
});

test('without a connection operations are posted, and a state tells the rest', async (t) => {
  const hub = await FakeHub.start(t);
  hub.refuses = true;
  const statuses = [];
  const board = client(t, hub, { onstatus: ({ state }) => statuses.push(state) });
  hub.answers.push({ status: 'applied', version: 4 }, { status: 'error', error: 'no' });
  const [first, second] = [board.updateWidget('w', { a: 1 }), board.deleteWidget('v')];
  assert.deepEqual(await first, { version: 4, versions: undefined, syncVersion: undefined });
  await assert.rejects(second, /no/);
  assert.deepEqual(plain(board.widgets), { w: [4, { a: 1 }] });
  const third = board.updateWidget('w', { a: 2 });
  const [{ operationId: id, type, payload }] = [await take(hub.posts, 'a post')];
  assert.deepEqual([type, payload], ['WIDGET_UPDATE', { widgetId: 'w', data: { a: 1 } }]);
  assert.equal((await take(hub.posts, 'a post')).type, 'WIDGET_DELETE');
  // This one is not answered.
  const lost = await take(hub.posts, 'a post');
  assert.notEqual(lost.operationId, id);
  hub.refuses = false;
  const connection = await hub.accept({ version: 9, widgets: [widget('w', 6, { a: 7, b: 7 })] });
  assert.equal(connection.asked.payload.since, undefined);
  assert.equal((await connection.ack('WIDGET_UPDATE', { version: 7, syncVersion: 10 })).id, lost.operationId);
  await third;
  await shows(board, { w: [7, { a: 2, b: 7 }] });
  assert.ok(statuses.includes('waiting'));
});

test('a conflict is resolved by who made the change', async (t) => {
  const hub = await FakeHub.start(t);
  const conflicts = [];
  const onconflict = (conflict) => {
    conflicts.push(conflict);
    return conflicts.length < 3 ? { ...conflict.server.data, ...conflict.client.data } : undefined;
  };
  const board = client(t, hub, { onconflict });
  const connection = await hub.accept({ version: 1, widgets: [widget('w', 1, { a: 1 })] });
  await shows(board, { w: [1, { a: 1 }] });
  const [first, second] = [board.updateWidget('w', { a: 2 }), board.updateWidget('w', { c: 2 })];
  const { id, payload } = await connection.next('WIDGET_UPDATE');
  assert.equal(payload.baseVersion, 1);
  const server = { version: 2, data: { a: 1, b: 5 } };
  connection.say('WIDGET_UPDATE', { widgetId: 'w', data: { b: 5 }, version: 2, syncVersion: 2 });
  const conflict = { widgetId: 'w', server, client: { version: 1, data: { a: 2 } }, base: null };
  connection.say('CONFLICT_DETECTED', conflict, id);
  const early = await connection.next('CONFLICT_RESOLVED');
  assert.deepEqual(early.payload, { widgetId: 'w', data: { a: 2, b: 5 }, baseVersion: 2 });
  // Faster once more: what was wanted is still one member, and not what was resolved.
  connection.say('WIDGET_UPDATE', { widgetId: 'w', data: { b: 6 }, version: 3, syncVersion: 3 });
  const now = { widgetId: 'w', server: { version: 3, data: { a: 1, b: 6 } }, client: { version: 2, data: { a: 2, b: 5 } }, base: server };
  connection.say('CONFLICT_DETECTED', now, early.id);
  const { payload: resolved } = await connection.ack('CONFLICT_RESOLVED', { resolved: true, version: 4, syncVersion: 4 });
  assert.deepEqual(resolved, { widgetId: 'w', data: { a: 2, b: 6 }, baseVersion: 3 });
  // The other one was made on what has changed, too.
  const other = await connection.next('WIDGET_UPDATE');
  assert.equal(other.payload.baseVersion, 1);
  connection.say('CONFLICT_DETECTED', conflict, other.id);
  await assert.rejects(second, /meanwhile/);
  assert.equal((await first).version, 4);
  await shows(board, { w: [4, { a: 2, b: 6 }] });
});

test('changes on top of one another are no conflict', async (t) => {
  const hub = await FakeHub.start(t);
  const board = client(t, hub, { onconflict: assert.fail });
  const connection = await hub.accept({ version: 0 });
  const all = [board.updateWidget('w', { a: 1 }), board.deleteWidget('w'), board.updateWidget('w', { b: 1 }), board.saveLayout({})];
  const bases = [];
  for (const [i, type] of ['WIDGET_UPDATE', 'WIDGET_DELETE', 'WIDGET_UPDATE'].entries()) {
    // It was there before, and was deleted.
    bases.push((await connection.ack(type, { version: 5 + i, syncVersion: 1 + i })).payload.baseVersion);
  }
  bases.push((await connection.ack('LAYOUT_UPDATE', { version: 1, syncVersion: 4 })).payload.baseVersion);
  await Promise.all(all);
  assert.deepEqual(bases, [0, 5, 6, 0]);
  await shows(board, { w: [7, { b: 1 }] });
});

test('a log that was lost starts anew, and what an earlier page left is done', async (t) => {
  const hub = await FakeHub.start(t);
  const pending = [{ id: 'kept', type: 'WIDGET_UPDATE', payload: { widgetId: 'w', data: { a: 1 } } }];
  const board = client(t, hub, { pending });
  let connection = await hub.accept({ version: 9, widgets: [widget('v', 4, {})] });
  assert.equal((await connection.next('WIDGET_UPDATE')).id, 'kept');
  connection.socket.terminate();
  connection = await hub.accept({ version: 1, epoch: 'other', widgets: [widget('u', 1, {})] });
  assert.equal((await connection.ack('WIDGET_UPDATE', { version: 1, syncVersion: 2 })).id, 'kept');
  await shows(board, { u: [1, {}], w: [1, { a: 1 }] });
});

test('who may not come in does not come back', async (t) => {
  const hub = await FakeHub.start(t);
  const statuses = [];
  const board = client(t, hub, { onstatus: (status) => statuses.push(status) });
  const refused = board.updateWidget('w', {});
  (await hub.accept()).socket.close(1008, 'Unauthorized');
  await assert.rejects(refused, /Unauthorized/);
  assert.deepEqual(statuses.at(-1), { state: 'closed', reason: 'Unauthorized' });
});
