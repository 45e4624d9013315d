// Runs with `npm install && npm test`. Hubs here say what a test has them say.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { connect } from './telltale.js';

/** How long anything is waited for. */
const LIMIT_MS = 20_000;

/** What is put in can be waited for. */
class Inbox {
  #items = [];
  #waiting = [];

  put(item) {
    const waiting = this.#waiting.shift();
    if (waiting) waiting(item);
    else this.#items.push(item);
  }

  async take(what) {
    if (this.#items.length > 0) return this.#items.shift();
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`waited too long for ${what}`)), LIMIT_MS);
    });
    const item = new Promise((resolve) => this.#waiting.push(resolve));
    return Promise.race([item, late]).finally(() => clearTimeout(timer));
  }

  get isEmpty() {
    return this.#items.length === 0;
  }
}

/** A hub that does nothing by itself. */
class FakeHub {
  static async start(t) {
    const hub = new FakeHub();
    hub.server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
    hub.connections = new Inbox();
    hub.server.on('connection', (socket) => hub.connections.put(new Connection(socket)));
    await once(hub.server, 'listening');
    t.after(() => {
      for (const socket of hub.server.clients) socket.terminate();
      hub.server.close();
    });
    return hub;
  }

  get url() {
    return `http://127.0.0.1:${this.server.address().port}`;
  }

  /** The next client, which has been told the terms. */
  async accept() {
    const connection = await this.connections.take('a connection');
    await connection.answer('connect', { ping_ms: 25_000 });
    return connection;
  }
}

class Connection {
  commands = new Inbox();

  constructor(socket) {
    this.socket = socket;
    socket.on('message', (data) => this.commands.put(JSON.parse(data)));
  }

  async command(op) {
    const command = await this.commands.take(op);
    assert.equal(command.op, op, JSON.stringify(command));
    return command;
  }

  /** Waits for a command, answers it, and returns it. */
  async answer(op, ok) {
    const command = await this.command(op);
    this.send({ id: command.id, ok });
    return command;
  }

  send(...messages) {
    // In one packet, so that a client may not rely on pauses.
    this.socket._socket.cork();
    for (const message of messages) this.socket.send(JSON.stringify(message));
    this.socket._socket.uncork();
  }
}

const fresh = (sub, offset, more = {}) => (
  { channel: 'hub', sub, recovered: false, epoch: 'e', offset, entries: [], plugins: [], ...more });
const recovered = (sub, offset, ...offsets) => ({
  channel: 'hub', sub, recovered: true, epoch: 'e', offset,
  entries: offsets.map((n) => ({ offset: n, prev: n - 1, time: 't', entry: { n } })),
});
const entry = (sub, offset, prev) => (
  { push: 'hub', sub, epoch: 'e', offset, prev, time: 't', entry: { n: offset } });

/** A client without patience, so that it comes back at once. */
function client(t, hub, options = {}) {
  const statuses = new Inbox();
  const onstatus = (status) => statuses.put(status);
  const connected = connect(hub.url, { WebSocket, random: () => 0, onstatus, ...options });
  t.after(() => connected.close());
  return { hub: connected, statuses };
}

/** Handlers that keep what they are told. */
function recorder() {
  const told = new Inbox();
  return {
    told,
    onentry: ({ n }, { offset }) => told.put(n === offset ? n : `${n} at ${offset}`),
    ongap: ({ from, to, recovered }) => told.put(`gap ${from} ${to} ${recovered}`),
    onfresh: ({ first, offset }) => told.put(`${first ? 'first' : 'fresh'} ${offset}`),
    onchange: (push) => told.put(push),
    onerror: (error) => told.put(error),
  };
}

async function tells(told, ...expected) {
  for (const one of expected) assert.deepEqual(await told.take(JSON.stringify(one)), one);
  assert.ok(told.isEmpty, 'and nothing more');
}

/** Waits until what was sent before has been taken in. */
async function settle(connection, hub) {
  const pinged = hub.ping();
  await connection.answer('ping', {});
  await pinged;
}

async function status(statuses, state) {
  for (;;) {
    const next = await statuses.take(state);
    if (next.state === state) return next;
  }
}

test('a lost connection is resumed from the last entry, and doubles are dropped', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const { told, ...handlers } = recorder();
  const subscription = hub.subscribe({ channel: 'hub', filter: { plugin: 'a' } }, handlers);
  let connection = await fake.accept();
  let asked = await connection.command('subscribe');
  assert.deepEqual(asked, { id: asked.id, op: 'subscribe', channel: 'hub', filter: { plugin: 'a' } });
  connection.send({ id: asked.id, ok: fresh(5, 40) }, entry(5, 42, 40), entry(5, 42, 40), entry(5, 45, 42));
  await tells(told, 'first 40', 42, 45);
  connection.socket.terminate();
  connection = await fake.accept();
  asked = await connection.command('subscribe');
  assert.deepEqual(asked.resume, { epoch: 'e', offset: 45 });
  assert.deepEqual(asked.filter, { plugin: 'a' });
  connection.send({ id: asked.id, ok: recovered(9, 50, 45, 47, 49) }, entry(9, 49, 47), entry(9, 51, 49));
  await tells(told, 47, 49, 51);
  assert.deepEqual(subscription.position, { epoch: 'e', offset: 51 });
});

test('what cannot be resumed starts afresh and says so', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const { told, ...handlers } = recorder();
  const findings = hub.subscribe({ channel: 'findings' }, handlers);
  const finding = (id, state) => ({ id, state });
  const open = (...ids) => ids.map((id) => finding(id, 'open'));
  let connection = await fake.accept();
  await connection.answer('subscribe', fresh(5, 40, { open: open('a', 'b') }));
  connection.send({ ...entry(5, 41, 40), entry: finding('c', 'open') });
  connection.send({ ...entry(5, 42, 41), entry: finding('a', 'close') });
  await told.take('the start');
  await settle(connection, hub);
  assert.deepEqual([...findings.open.keys()], ['b', 'c']);
  connection.socket.terminate();
  connection = await fake.accept();
  await connection.answer('subscribe', fresh(1, 7, { epoch: 'another', open: open('d') }));
  await settle(connection, hub);
  assert.deepEqual([...findings.open.keys()], ['d']);
  assert.deepEqual(findings.position, { epoch: 'another', offset: 7 });
  await tells(told, 'undefined at 41', 'undefined at 42', 'fresh 7');
});

test('a gap shows by prev, and what is missing is asked for', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const { told, ...handlers } = recorder();
  hub.subscribe({ channel: 'hub' }, handlers);
  const connection = await fake.accept();
  await connection.answer('subscribe', fresh(5, 40));
  connection.send(entry(5, 41, 40), entry(5, 44, 43), entry(5, 45, 44));
  assert.equal((await connection.answer('unsubscribe', { sub: 5 })).sub, 5);
  const { resume } = await connection.answer('subscribe', recovered(5, 45, 43, 44, 45));
  assert.deepEqual(resume, { epoch: 'e', offset: 41 });
  connection.send(entry(5, 46, 45));
  await tells(told, 'first 40', 41, 'gap 42 43 true', 43, 44, 45, 46);
});

test('a gap that the hub tells of is told, with a fresh start where it is lost', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const { told, ...handlers } = recorder();
  const subscription = hub.subscribe({ channel: 'hub' }, handlers);
  const connection = await fake.accept();
  await connection.answer('subscribe', fresh(5, 40));
  const gap = { push: 'gap', channel: 'hub', sub: 5 };
  connection.send({ ...gap, from: 41, to: 42 }, entry(5, 41, 40), entry(5, 42, 41));
  const lost = { recovered: false, epoch: 'e', offset: 90, plugins: [] };
  connection.send({ ...gap, from: 43, to: 90, ...lost }, entry(5, 91, 90));
  await tells(
    told, 'first 40', 'gap 41 42 true', 41, 42, 'gap 43 90 false', 'fresh 90', 91);
  assert.equal(subscription.position.offset, 91);
});

test('an entry of one log channel moves the position of the others', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const one = recorder();
  const other = recorder();
  hub.subscribe({ channel: 'hub' }, one);
  hub.subscribe({ channel: 'findings' }, other);
  let connection = await fake.accept();
  await connection.answer('subscribe', fresh(5, 40));
  // The other one is not confirmed yet: what it has missed is in its reply.
  connection.send(entry(5, 41, 40));
  await connection.answer('subscribe', fresh(6, 43));
  connection.send(entry(5, 44, 41), entry(6, 45, 43), entry(5, 47, 44), entry(6, 49, 45));
  await tells(one.told, 'first 40', 41, 44, 47);
  await tells(other.told, 'first 43', 45, 49);
  connection.socket.terminate();
  connection = await fake.accept();
  const asked = [await connection.command('subscribe'), await connection.command('subscribe')];
  // The first may have been about to get that very entry, too.
  assert.deepEqual(asked.map(({ resume }) => resume.offset), [48, 49]);
  // The first goes on before the second is answered, which must not lose by it.
  connection.send({ id: asked[0].id, ok: recovered(5, 50) }, entry(5, 52, 50));
  connection.send({ id: asked[1].id, ok: recovered(6, 52, 51) }, entry(6, 53, 51));
  await tells(one.told, 52);
  await tells(other.told, 51, 53);
});

test('what a reply brings does not move the position of the others', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const one = recorder();
  hub.subscribe({ channel: 'hub' }, one);
  const connection = await fake.accept();
  await connection.answer('subscribe', fresh(5, 40));
  hub.subscribe({ channel: 'findings', resume: { epoch: 'e', offset: 30 } }, {});
  const { resume } = await connection.answer('subscribe', recovered(6, 45, 31, 45));
  assert.deepEqual(resume, { epoch: 'e', offset: 30 });
  connection.send(entry(5, 44, 40));
  await tells(one.told, 'first 40', 44);
});

test('after a bye it comes back when it was told to, and not by chance', async (t) => {
  const fake = await FakeHub.start(t);
  const { clock, hub: { statuses } } = clocked(t, fake);
  const connection = await fake.accept();
  await status(statuses, 'open');
  connection.send({ push: 'bye', reconnect_after_ms: 1234 });
  connection.socket.close(3001, 'the hub is stopping');
  const { retryInMs, code } = await status(statuses, 'waiting');
  assert.deepEqual([retryInMs, code], [1234, 3001]);
  clock.pass(1233);
  assert.ok(fake.connections.isEmpty && statuses.isEmpty);
  clock.pass(1);
  assert.equal((await statuses.take('a new try')).state, 'connecting');
  const again = await fake.accept();
  await status(statuses, 'open');
  again.socket.close(1012, '');
  assert.equal((await status(statuses, 'waiting')).retryInMs, 250, 'the next wait is by chance');
});

/** A client whose time passes when it is told to, and whose chance is ½. */
function clocked(t, fake, options = {}) {
  const clock = new FakeClock();
  return { clock, hub: client(t, fake, { clock, random: () => 0.5, ...options }) };
}

class FakeClock {
  #now = 0;
  #timers = new Set();

  now = () => this.#now;

  after = (ms, act) => {
    const timer = { at: this.#now + ms, act };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  };

  pass(ms) {
    const end = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (!due) break;
      this.#timers.delete(due);
      this.#now = Math.max(this.#now, due.at);
      due.act();
    }
    this.#now = end;
  }
}

/** A socket in this process, which does what the test does to it. */
class FakeSocket {
  static made = [];
  sent = [];

  constructor(url) {
    this.url = url;
    FakeSocket.made.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  say(message) {
    this.onmessage({ data: JSON.stringify(message) });
  }

  close() {
    this.isClosed = true;
  }
}

function inProcess(options = {}) {
  FakeSocket.made = [];
  const clock = new FakeClock();
  const statuses = [];
  const onstatus = (status) => statuses.push(status);
  const hub = connect('ws://hub', { WebSocket: FakeSocket, clock, onstatus, ...options });
  return { hub, clock, statuses, made: FakeSocket.made };
}

test('waits double from half a second to thirty, and are spread by chance', () => {
  for (const [random, least] of [[() => 1, 1], [() => 0.25, 0.25], [() => 0, 0]]) {
    const { hub, clock, statuses, made } = inProcess({ random });
    for (const most of [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]) {
      made.at(-1).onclose({ code: 1006, reason: '' });
      assert.equal(statuses.at(-1).retryInMs, most * least);
      const before = made.length;
      clock.pass(Math.max(0, most * least - 1));
      assert.equal(made.length, most * least === 0 ? before + 1 : before);
      clock.pass(1);
      assert.equal(made.length, before + 1);
    }
    // A connection that breaks at once does not begin them again; a good one does.
    made.at(-1).onopen();
    made.at(-1).onclose({ code: 1006, reason: '' });
    assert.equal(statuses.at(-1).retryInMs, 30_000 * least);
    clock.pass(30_000);
    made.at(-1).onopen();
    for (let second = 0; second < 31; second += 1) {
      made.at(-1).say({ push: 'metrics', sub: 1 });
      clock.pass(1000);
    }
    made.at(-1).onclose({ code: 1006, reason: '' });
    assert.equal(statuses.at(-1).retryInMs, 500 * least);
    hub.close();
  }
});

test('a connection that does not stand in time is given up', () => {
  const { clock, statuses, made } = inProcess({ random: () => 1 });
  clock.pass(9999);
  assert.equal(statuses.at(-1).state, 'connecting');
  clock.pass(1);
  assert.deepEqual([statuses.at(-1).state, made[0].isClosed], ['waiting', true]);
});

test('a hub that has gone silent is pinged, and given up if it stays so', () => {
  const { clock, statuses, made: [socket] } = inProcess();
  socket.onopen();
  socket.say({ id: socket.sent[0].id, ok: { ping_ms: 1000 } });
  const pings = () => socket.sent.filter(({ op }) => op === 'ping');
  clock.pass(999);
  assert.equal(pings().length, 0);
  clock.pass(1);
  assert.equal(pings().length, 1);
  clock.pass(900);
  socket.say({ id: pings()[0].id, ok: {} });
  clock.pass(1000);
  assert.equal(pings().length, 2);
  clock.pass(999);
  assert.equal(statuses.at(-1).state, 'open');
  clock.pass(1);
  assert.deepEqual([statuses.at(-1).state, socket.isClosed], ['waiting', true]);
});

test('some close codes are the end', async (t) => {
  const fake = await FakeHub.start(t);
  for (const code of [3500, 3999, 1002, 1003, 1007, 1009]) {
    const { hub, statuses } = client(t, fake);
    const calls = assert.rejects(hub.history({ series: 1 }), { code: 'disconnected' });
    const connection = await fake.accept();
    await connection.command('history');
    connection.socket.close(code, 'no');
    const { code: told, reason } = await status(statuses, 'closed');
    assert.deepEqual([told, reason], [code, 'no']);
    await calls;
    assert.throws(() => hub.subscribe({ channel: 'hub' }), { code: 'closed' });
    await assert.rejects(hub.ping(), { code: 'closed' });
  }
  for (const code of [3000, 3001, 3008, 1001, 1011, 1012]) {
    const { hub, statuses } = client(t, fake);
    (await fake.accept()).socket.close(code, '');
    await status(statuses, 'waiting');
    await fake.accept();
    hub.close();
  }
  assert.ok(fake.connections.isEmpty);
});

test('a token that the hub does not take is the end', async (t) => {
  const fake = await FakeHub.start(t);
  const { statuses } = client(t, fake, { token: 'wrong' });
  const connection = await fake.connections.take('a connection');
  const { id, token } = await connection.command('connect');
  assert.equal(token, 'wrong');
  connection.send({ id, error: { code: 'unauthorized', reason: 'not valid', temporary: false } });
  assert.equal((await status(statuses, 'closed')).reason, 'unauthorized: not valid');
});

const told = (id, value, more = {}) => ({ id, plugin: 'p', name: `s${id}`, labels: {}, value, ...more });
const metrics = (sub, series, more = {}) => (
  { channel: 'metrics', sub, every: 1, snapshot: { tick: 1, time: 't1', series }, ...more });
const values = (subscription) => [...subscription.series.values()].map(({ id, value }) => [id, value]);

test('series are kept as the hub tells them', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const { told: changes, ...handlers } = recorder();
  const wanted = { channel: 'metrics', filter: { name: 's*' }, form: 'delta', fields: ['name'] };
  const subscription = hub.subscribe(wanted, handlers);
  const connection = await fake.accept();
  const { form, fields } = await connection.answer('subscribe', metrics(5, [told(1, 0.5), told(2, null)]));
  assert.deepEqual([form, fields], ['delta', ['name']]);
  assert.equal((await changes.take('the snapshot')).snapshot, true);
  const push = (tick, more) => connection.send({ push: 'metrics', sub: 5, tick, time: `t${tick}`, ...more });

  push(2, { values: [[2, 7]], declare: [told(3)], gone: [1] });
  assert.equal((await changes.take('a push')).snapshot, undefined);
  assert.deepEqual(values(subscription), [[2, 7], [3, null]]);
  assert.deepEqual([subscription.tick, subscription.time], [2, 't2']);

  push(3, { values: [], stale: [{ id: 2, since: 's', code: 'late', reason: 'r' }] });
  await changes.take('a push');
  assert.deepEqual(subscription.series.get(2).stale, { since: 's', code: 'late', reason: 'r' });
  push(4, { values: [[2, 7], [99, 1]] });
  await changes.take('a push');
  assert.equal(subscription.series.get(2).stale, null);

  push(9, { full: true, skipped: 4, series: [told(2, 8), told(4, 1)] });
  assert.equal((await changes.take('a full push')).skipped, 4);
  assert.deepEqual(values(subscription), [[2, 8], [4, 1]]);
});

test('a thinned subscription has the extremes of its interval', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const { told: changes, ...handlers } = recorder();
  const subscription = hub.subscribe({ channel: 'metrics', maxRateMs: 5000 }, handlers);
  const connection = await fake.accept();
  const asked = await connection.answer('subscribe', metrics(5, [told(1, 0.5)], { every: 5 }));
  assert.equal(asked.max_rate_ms, 5000);
  connection.send({ push: 'metrics', sub: 5, tick: 6, time: 't', values: [[1, 3, 2, 9]] });
  await changes.take('the snapshot');
  await changes.take('a push');
  assert.equal(subscription.every, 5);
  const { value, min, max } = subscription.series.get(1);
  assert.deepEqual([value, min, max], [3, 2, 9]);
});

test('a full push keeps the extremes, and documents are kept by plugin and name', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const series = hub.subscribe({ channel: 'metrics', form: 'full' });
  const documents = hub.subscribe({ channel: 'documents' });
  const connection = await fake.accept();
  await connection.answer('subscribe', metrics(5, [told(1, 0.5)], { every: 5 }));
  const document = (name, data) => ({ plugin: 'p', name, data });
  const snapshot = { tick: 1, time: 't', documents: [document('a', 1), document('b', 1)] };
  await connection.answer('subscribe', { channel: 'documents', sub: 6, snapshot });
  connection.send(
    { push: 'metrics', sub: 5, tick: 6, time: 't', full: true, series: [told(1, 3, { min: 2, max: 9 })] },
    { push: 'documents', sub: 6, tick: 2, time: 't', documents: [document('b', 2)],
      gone: [{ plugin: 'p', name: 'a' }] });
  await settle(connection, hub);
  assert.equal(series.series.get(1).max, 9);
  assert.deepEqual([...documents.documents], [['p/b', document('b', 2)]]);
  connection.send({ push: 'documents', sub: 6, tick: 3, time: 't', full: true, skipped: 2, documents: [] });
  await settle(connection, hub);
  assert.equal(documents.documents.size, 0);
});

test('equal subscriptions share one at the hub, which ends with the last of them', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const [one, two] = [hub.subscribe({ channel: 'metrics' }), hub.subscribe({ channel: 'metrics' })];
  const connection = await fake.accept();
  await connection.answer('subscribe', metrics(5, [told(1, 1)]));
  await connection.answer('subscribe', metrics(5, [told(1, 1)]));
  connection.send({ push: 'metrics', sub: 5, tick: 2, time: 't', values: [[1, 2]] });
  await settle(connection, hub);
  one.unsubscribe();
  connection.send({ push: 'metrics', sub: 5, tick: 3, time: 't', values: [[1, 3]] });
  await settle(connection, hub);
  // One more that is asked for keeps it from ending too early.
  const three = hub.subscribe({ channel: 'metrics' });
  const asked = await connection.command('subscribe');
  two.unsubscribe();
  connection.send({ id: asked.id, ok: metrics(5, [told(1, 3)]) });
  await settle(connection, hub);
  assert.deepEqual([one, two, three].map((each) => each.series.get(1).value), [2, 3, 3]);
  three.unsubscribe();
  assert.equal((await connection.answer('unsubscribe', { sub: 5 })).sub, 5);
  connection.send({ push: 'metrics', sub: 5, tick: 9, time: 't', values: [[1, 9]] });
  await settle(connection, hub);
  assert.equal(three.tick, 1);
});

test('commands are answered, refused, bounded, and kept until there is a hub', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const early = hub.history({ series: 7, points: 2 });
  let connection = await fake.accept();
  const asked = await connection.answer('history', { points: [] });
  assert.deepEqual(asked, { id: asked.id, op: 'history', series: 7, points: 2 });
  assert.deepEqual(await early, { points: [] });

  const refused = hub.history({ series: 8 });
  const { id } = await connection.command('history');
  const error = { code: 'too_slow', reason: 'r', temporary: true, retry_after_ms: 5 };
  connection.send({ id, error });
  await assert.rejects(refused, { code: 'too_slow', temporary: true, retryAfterMs: 5 });

  const many = Array.from({ length: 256 }, () => hub.ping());
  await assert.rejects(hub.ping(), { code: 'too_many', temporary: true });
  const gone = Promise.allSettled(many);
  connection.socket.terminate();
  assert.ok((await gone).every(({ reason }) => reason.code === 'disconnected'));
  connection = await fake.accept();
  await settle(connection, hub);
});

test('a reply that does not come is not waited for for ever', async () => {
  const { hub, clock, made: [socket] } = inProcess();
  socket.onopen();
  const pinged = assert.rejects(hub.ping(), { code: 'timeout', temporary: true });
  clock.pass(30_000);
  await pinged;
});

test('a snapshot renews what is kept', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const subscription = hub.subscribe({ channel: 'metrics' });
  const connection = await fake.accept();
  await assert.rejects(hub.snapshot(subscription), { code: 'not_subscribed' });
  await connection.answer('subscribe', metrics(5, [told(1, 1)]));
  await settle(connection, hub);
  const snapshot = hub.snapshot(subscription);
  const renewed = { tick: 9, time: 't9', series: [told(2, 2)] };
  assert.equal((await connection.answer('snapshot', metrics(5, [], { snapshot: renewed }))).sub, 5);
  assert.equal((await snapshot).snapshot.tick, 9);
  assert.deepEqual(values(subscription), [[2, 2]]);
});

test('a subscription that is refused for now is asked for again, and for good is not', () => {
  const { hub, clock, made: [socket] } = inProcess();
  const { told: errors, ...handlers } = recorder();
  hub.subscribe({ channel: 'hub' }, handlers);
  socket.onopen();
  const asked = () => socket.sent.filter(({ op }) => op === 'subscribe');
  const error = { code: 'too_many', reason: 'r', temporary: true, retry_after_ms: 700 };
  socket.say({ id: asked()[0].id, error });
  clock.pass(699);
  assert.equal(asked().length, 1);
  clock.pass(1);
  assert.equal(asked().length, 2);
  socket.say({ id: asked()[1].id, error: { code: 'bad_glob', reason: 'r', temporary: false } });
  clock.pass(20_000);
  assert.equal(asked().length, 2);
  return errors.take('the error').then(({ code }) => assert.equal(code, 'bad_glob'));
});

const room = (sub, offset, more = {}) => fresh(sub, offset, { channel: 'room:r', ...more });
const event = (sub, offset, prev, more = {}) => ({ ...entry(sub, offset, prev), push: 'room:r', ...more });

test('an event comes by one of the rooms, and moves the position of all', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const [one, other, log] = [recorder(), recorder(), recorder()];
  hub.subscribe({ room: 'a', types: ['pr.*'] }, one);
  hub.subscribe({ channel: 'room:b' }, other);
  hub.subscribe({ channel: 'hub' }, log);
  assert.throws(() => hub.subscribe({ channel: 'room:a' }), { code: 'bad_request' });
  let connection = await fake.accept();
  const { channel, types } = await connection.answer('subscribe', room(5, 40));
  assert.deepEqual([channel, types], ['room:a', ['pr.*']]);
  await connection.answer('subscribe', room(6, 40));
  await connection.answer('subscribe', fresh(7, 40));
  // Of both rooms, of the second, excluding this connection, of the first.
  connection.send(
    event(5, 41, 40), event(6, 42, 41), event(6, 44, 42, { entry: undefined, excluded: true }), event(5, 46, 44));
  await tells(one.told, 'first 40', 41, 46);
  await tells(other.told, 'first 40', 42);
  connection.socket.terminate();
  connection = await fake.accept();
  const asked = [];
  for (let n = 0; n < 3; n += 1) asked.push(await connection.command('subscribe'));
  assert.deepEqual(asked.map(({ resume }) => resume.offset), [46, 46, 45]);
  // 48 is in both rooms; the second is not answered on this connection.
  connection.send({ id: asked[0].id, ok: recovered(5, 48, 47, 48) });
  await tells(one.told, 47, 48);
  connection.socket.terminate();
  connection = await fake.accept();
  const again = [await connection.command('subscribe'), await connection.command('subscribe')];
  assert.deepEqual(again.map(({ resume }) => resume.offset), [48, 46]);
  connection.send({ id: again[0].id, ok: recovered(5, 50, 50) }, { id: again[1].id, ok: recovered(6, 50, 48, 49) });
  await tells(one.told, 50);
  await tells(other.told, 49);
});

test('what is missing in one room is asked for in all of them', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const [one, other] = [recorder(), recorder()];
  const ended = hub.subscribe({ room: 'a' }, one);
  hub.subscribe({ room: 'b' }, other);
  const connection = await fake.accept();
  await connection.answer('subscribe', room(5, 40));
  await connection.answer('subscribe', room(6, 40));
  connection.send(event(5, 43, 42));
  for (const sub of [5, 6]) assert.equal((await connection.answer('unsubscribe', { sub })).sub, sub);
  for (const sub of [7, 8]) {
    const { resume } = await connection.answer('subscribe', recovered(sub, 43, ...(sub === 7 ? [42, 43] : [])));
    assert.equal(resume.offset, 40);
  }
  await tells(one.told, 'first 40', 'gap 41 42 true', 42, 43);
  await settle(connection, hub);
  // An event of a room that is not wanted any more may be the other's too.
  ended.unsubscribe();
  await connection.command('unsubscribe');
  connection.send(event(7, 44, 43));
  assert.equal((await connection.answer('unsubscribe', { sub: 8 })).sub, 8);
  assert.equal((await connection.answer('subscribe', recovered(8, 44, 44))).resume.offset, 43);
  await tells(other.told, 'first 40', 44);
});

test('events of a log that was lost are not taken for those of the new one', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const { told, ...handlers } = recorder();
  hub.subscribe({ room: 'a' }, handlers);
  hub.subscribe({ room: 'b' });
  let connection = await fake.accept();
  await connection.answer('subscribe', room(5, 40));
  await connection.answer('subscribe', room(6, 1));
  connection.socket.terminate();
  connection = await fake.accept();
  await connection.answer('subscribe', recovered(5, 42, 42));
  connection.socket.terminate();
  connection = await fake.accept();
  await connection.answer('subscribe', room(5, 41, { epoch: 'another' }));
  connection.send(event(5, 42, 41));
  await tells(told, 'first 40', 42, 'fresh 41', 42);
});

test('who is in a room is kept as the hub tells it', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const subscription = hub.subscribe({ channel: 'presence:a' });
  const connection = await fake.accept();
  const users = (...names) => names.map((user) => ({ user, connections: 1 }));
  const channel = 'presence:a';
  await connection.answer('subscribe', { channel, sub: 5, users: users('ana', 'bob') });
  connection.send({ push: channel, sub: 5, join: ['cy'], leave: ['bob'] });
  await settle(connection, hub);
  assert.deepEqual([...subscription.users], ['ana', 'cy']);
  connection.send({ push: channel, sub: 5, full: true, skipped: 2, users: users('dan') });
  await settle(connection, hub);
  assert.deepEqual([...subscription.users], ['dan']);
  const present = hub.presence('a');
  const asked = await connection.answer('presence', { room: 'a', users: users('dan') });
  assert.equal(asked.room, 'a');
  assert.deepEqual(await present, users('dan'));
});

test('an event is published until it is safe, with the same key', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const receipt = { id: 'x', offset: 9, rooms: ['a'] };
  const published = hub.publish({ type: 'a.b', data: { n: 1 }, rooms: ['a'], excludeSelf: true });
  let connection = await fake.accept();
  const { id, key, ...asked } = await connection.command('publish');
  assert.match(key, /^[0-9a-f]{32}$/);
  assert.deepEqual(asked, { op: 'publish', type: 'a.b', data: { n: 1 }, rooms: ['a'], exclude_self: true });
  connection.socket.terminate();
  connection = await fake.accept();
  const again = await connection.command('publish');
  assert.deepEqual([again.key, again.data], [key, { n: 1 }]);
  const busy = { code: 'busy', reason: 'r', temporary: true, retry_after_ms: 1 };
  connection.send({ id: again.id, error: busy });
  assert.equal((await connection.answer('publish', receipt)).key, key);
  assert.deepEqual(await published, receipt);

  const refused = hub.publish({ type: 'a.b', key: 'mine' });
  const command = await connection.command('publish');
  assert.equal(command.key, 'mine');
  connection.send({ id: command.id, error: { code: 'denied', reason: 'r', temporary: false } });
  await assert.rejects(refused, { code: 'denied' });
  const many = Array.from({ length: 256 }, () => hub.publish({ type: 'a.b' }));
  await assert.rejects(hub.publish({ type: 'a.b' }), { code: 'too_many' });
  hub.close();
  const ended = await Promise.allSettled(many);
  assert.ok(ended.every(({ reason }) => reason.code === 'closed'));
});

test('an event that is longer than the hub takes is not sent', async (t) => {
  const fake = await FakeHub.start(t);
  const { hub } = client(t, fake);
  const connection = await fake.connections.take('a connection');
  await connection.answer('connect', { ping_ms: 25_000, message_bytes_max: 200 });
  await assert.rejects(hub.publish({ type: 'a.b', data: 'ö'.repeat(100) }), { code: 'too_large' });
  const fits = hub.publish({ type: 'a.b' });
  await connection.answer('publish', {});
  await fits;
});

/** A client in this process that has shown its first token, good for 100 s. */
async function withTokens(...tokens) {
  const made = inProcess({ random: () => 0, token: async () => tokens.shift() });
  const until = (ms) => new Date(Date.now() + ms).toISOString();
  const terms = (more) => ({ ping_ms: 1e9, ...more });
  const connected = async (more) => {
    await turn();
    const socket = made.made.at(-1);
    socket.onopen();
    const [{ id, token }] = socket.sent;
    socket.say({ id, ok: terms(more) });
    return { socket, token };
  };
  const first = await connected({ expires: until(100_000) });
  return { ...made, ...first, until, connected };
}

const turn = () => new Promise((done) => { setImmediate(done); });
const ops = (socket) => socket.sent.map(({ op }) => op);

test('a token is asked for on each connection, and renewed before it expires', async () => {
  const { hub, clock, socket, token, until, connected, statuses } = await withTokens('one', 'two', 'three');
  assert.equal(token, 'one');
  const { told, ...handlers } = recorder();
  const narrowed = hub.subscribe({ room: 'a' }, handlers);
  socket.say({ id: socket.sent.at(-1).id, ok: room(5, 40) });
  clock.pass(74_000);
  await turn();
  assert.deepEqual(ops(socket), ['connect', 'subscribe']);
  clock.pass(1000);
  await turn();
  const { id, ...refresh } = socket.sent.at(-1);
  assert.deepEqual(refresh, { op: 'refresh', token: 'two' });
  socket.say({ id, ok: { expires: until(100_000), ended: [5] } });
  assert.equal(await told.take('the start'), 'first 40');
  assert.equal((await told.take('the end')).code, 'denied');
  assert.ok(narrowed.ended);
  // A token that has expired all the same is followed by another …
  socket.onclose({ code: 3505, reason: 'the token has expired' });
  assert.equal(statuses.at(-1).state, 'waiting');
  clock.pass(0);
  const again = await connected({});
  assert.equal(again.token, 'three');
  // … but a user whose connections were ended does not come back.
  again.socket.onclose({ code: 3503, reason: 'ended' });
  assert.deepEqual([statuses.at(-1).state, statuses.at(-1).code], ['closed', 3503]);
});

test('a refresh is tried again, and one that is refused takes another connection', async () => {
  const { hub, clock, socket, connected } = await withTokens('one', 'two', 'three', 'four');
  clock.pass(75_000);
  await turn();
  const error = { code: 'unavailable', reason: 'r', temporary: true };
  socket.say({ id: socket.sent.at(-1).id, error });
  // Three quarters of what the machine's clock says is left, at least a second.
  clock.pass(75_000);
  await turn();
  assert.deepEqual([socket.sent.at(-1).op, socket.sent.at(-1).token], ['refresh', 'three']);
  socket.say({ id: socket.sent.at(-1).id, error: { code: 'bad_request', reason: 'r', temporary: false } });
  assert.ok(socket.isClosed);
  clock.pass(0);
  assert.equal((await connected({})).token, 'four');
  hub.close();
});

test('without another token an expired one is the end, and without any it is tried again', async (t) => {
  const fake = await FakeHub.start(t);
  const { statuses } = client(t, fake, { token: 'one' });
  (await fake.accept()).socket.close(3505, 'the token has expired');
  assert.equal((await status(statuses, 'closed')).code, 3505);
  let tries = 0;
  const token = () => {
    tries += 1;
    if (tries === 1) throw new Error('nobody there');
    return 'late';
  };
  const other = client(t, fake, { token });
  assert.equal((await status(other.statuses, 'waiting')).reason, 'no token: nobody there');
  const connection = await fake.connections.take('a connection');
  assert.equal((await connection.answer('connect', {})).token, 'late');
});
