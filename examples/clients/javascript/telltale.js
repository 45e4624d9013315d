/**
 * A client of telltale's native protocol (docs/protocol.md), for browsers and
 * for Node. One module, no dependencies.
 *
 *     import { connect } from './telltale.js';
 *     const hub = connect('http://127.0.0.1:8765');
 *     const load = hub.subscribe({ channel: 'metrics', filter: { name: 'system.cpu.load*' } }, {
 *       onchange: () => { for (const { name, value } of load.series.values()) show(name, value); },
 *     });
 *
 * A connection that is lost comes back by itself: its subscriptions are made
 * again, state channels start with all that is known, and log channels go on
 * after the last entry that was seen, so that each entry comes once.
 *
 * @module telltale
 */

/** The first wait before a connection is tried again is at most this long; each
 * further one may be twice as long as the one before. */
const BACKOFF_MS = 500;
/** The longest wait. A connection that held for so long was a good one, after
 * which the waits start from the beginning. */
const BACKOFF_MAX_MS = 30_000;
/** How long a connection may take to stand. */
const OPEN_MAX_MS = 10_000;
/** How long a reply may take: several times what the hub gives a history. */
const REPLY_MAX_MS = 30_000;
/** Silence after which the hub is asked whether it is there, until it has said
 * what it wants. */
const PING_MS = 25_000;
/** Commands of the caller that wait for a reply; one more is refused. */
const COMMANDS_MAX = 256;
/** When a subscription that was refused for now is tried again, unless the hub
 * says. */
const RETRY_MS = 10_000;

/** Whether a connection that was closed with this code is over for good: the
 * hub says so, or this client broke the WebSocket protocol. */
const isFinal = (code) => (code >= 3500 && code <= 3999) || [1002, 1003, 1007, 1009].includes(code);

/**
 * @typedef {object} Options
 * @property {string} [token] Shown to the hub on each connection.
 * @property {typeof globalThis.WebSocket} [WebSocket] For runtimes without one of
 *   their own, such as Node 20: that of the package `ws`.
 * @property {(status: Status) => void} [onstatus] How the connection is doing.
 * @property {Clock} [clock] Another clock, for tests.
 * @property {() => number} [random] Other chance, for tests: from 0 up to 1.
 */
/**
 * @typedef {object} Status
 * @property {'connecting'|'open'|'waiting'|'closed'} state
 * @property {number} [retryInMs] `waiting`: when it connects again.
 * @property {number} [code] `waiting`, `closed`: the close code, if there was one.
 * @property {string} [reason] `waiting`, `closed`: why, in words.
 * @property {object} [hub] `open`: the hub's terms, as in the reply to `connect`.
 */
/**
 * @typedef {object} Clock
 * @property {() => number} now Milliseconds since whenever.
 * @property {(ms: number, act: () => void) => () => void} after Acts later; what it
 *   returns prevents that.
 */
/**
 * @typedef {object} Wanted
 * @property {'metrics'|'documents'|'findings'|'hub'} channel
 * @property {{plugin?: string, name?: string, labels?: Object<string, string>}} [filter] Globs.
 * @property {number} [maxRateMs] `metrics`: not more often than this.
 * @property {'delta'|'full'} [form] `metrics`: what has changed, or all of it each time.
 * @property {string[]} [fields] Only these members.
 * @property {Position} [resume] Log channels: go on from here, which a page may have kept.
 */
/** @typedef {{epoch: string, offset: number}} Position Where a client is in the log. */
/**
 * @typedef {object} Handlers
 * @property {(push: object) => void} [onchange] State channels: what is kept is
 *   now as this push says: `full` if it was replaced, with `skipped` if pushes were
 *   left out, or with `snapshot` if this is no push but the reply that it starts with.
 * @property {(entry: object, at: {offset: number, time: string}) => void} [onentry]
 *   Log channels: each entry, once, in order.
 * @property {(gap: {from: number, to: number, recovered: boolean}) => void} [ongap]
 *   Log channels: these entries did not come when they were due. They follow,
 *   unless `recovered` is false: then `onfresh` says where it goes on.
 * @property {(state: {first: boolean, epoch: string, offset: number, open?: object[],
 *   plugins?: object[]}) => void} [onfresh]
 *   Log channels: it starts here, with what stands now. Unless it is the first
 *   time, entries were lost before.
 * @property {(error: HubError) => void} [onerror] The hub does not allow this
 *   subscription; it has ended.
 */
/**
 * @typedef {object} Series
 * @property {number} id
 * @property {number|null} value
 * @property {number|null} [min] With `maxRateMs`: the least since the last push.
 * @property {number|null} [max]
 * @property {null|{since: string, code: string, reason: string}} stale
 * @property {string} [plugin]
 * @property {string} [name]
 * @property {string} [kind]
 * @property {string} [unit]
 * @property {string} [description]
 * @property {Object<string, string>} [labels]
 * @property {number} [interval_ms]
 */

/** Why a command was not obeyed. */
export class HubError extends Error {
  /** @param {{code: string, reason: string, temporary?: boolean, retry_after_ms?: number}} error */
  constructor({ code, reason, temporary = false, retry_after_ms }) {
    super(`${code}: ${reason}`);
    this.name = 'HubError';
    /** A word that programs can compare. */
    this.code = code;
    /** The same command may do later … */
    this.temporary = temporary;
    /** … after this long, if the hub says. @type {number|undefined} */
    this.retryAfterMs = retry_after_ms;
  }
}

/**
 * Connects to a hub, and stays connected until `close`.
 *
 * @param {string} url The hub's address (`http://127.0.0.1:8765`), or that of its
 *   stream (`ws://127.0.0.1:8765/v1/stream`).
 * @param {Options} [options]
 * @returns {Hub}
 */
export function connect(url, options = {}) {
  return new Hub(url, options);
}

/** One subscription, and what it keeps current. */
export class Subscription {
  /** `metrics`: the series by id. @type {Map<number, Series>} */
  series = new Map();
  /** `documents`: the documents by `plugin/name`. @type {Map<string, object>} */
  documents = new Map();
  /** `findings`: those that are open, by id. @type {Map<string, object>} */
  open = new Map();
  /** State channels: the tick of what is kept. @type {number|null} */
  tick = null;
  /** State channels: the time of that tick. @type {string|null} */
  time = null;
  /** `metrics`: ticks between two pushes. */
  every = 1;
  /** Log channels: where it is, to be shown with `resume`. @type {Position|null} */
  position;
  /** The hub's number of it on this connection. @type {number|null} */
  sub = null;
  /** Nothing comes any more. */
  ended = false;

  #end;

  /** Made by `Hub.subscribe`. */
  constructor(wanted, handlers, end) {
    const { channel, filter, maxRateMs, form, fields, resume = null } = wanted;
    this.channel = channel;
    /** The command, without id and position; what is undefined is not sent. */
    this.command = { op: 'subscribe', channel, filter, max_rate_ms: maxRateMs, form, fields };
    this.position = resume && { epoch: resume.epoch, offset: resume.offset };
    this.handlers = handlers;
    this.#end = end;
  }

  /** Ends it. Nothing is told after this. */
  unsubscribe() {
    this.#end(this);
  }

  /** Whether it is one of the numbered log. */
  get isLog() {
    return this.channel !== 'metrics' && this.channel !== 'documents';
  }

  /** Tells one of the handlers. What it throws is its own affair. */
  tell(handler, ...said) {
    if (this.ended && handler !== 'onerror') return;
    try {
      this.handlers[handler]?.(...said);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }

  /** Takes over what the hub replied to the subscription. */
  begin(reply) {
    this.sub = reply.sub;
    if (!this.isLog) {
      this.every = reply.every ?? 1;
      this.change({ push: this.channel, full: true, snapshot: true, ...reply.snapshot });
      return;
    }
    if (!reply.recovered) {
      this.fresh(reply);
      return;
    }
    for (const { offset, time, entry } of reply.entries) this.enter(offset, time, entry);
    this.position = { epoch: reply.epoch, offset: reply.offset };
  }

  /** A log channel starts here, with what stands. */
  fresh({ epoch, offset, open, plugins }) {
    const first = this.position === null;
    this.position = { epoch, offset };
    this.open = new Map(open?.map((finding) => [finding.id, finding]));
    this.tell('onfresh', { first, epoch, offset, open, plugins });
  }

  /** Takes an entry, unless it was seen before. */
  enter(offset, time, entry) {
    if (offset <= this.position.offset) return;
    this.position.offset = offset;
    if (this.channel === 'findings') {
      if (entry.state === 'open') this.open.set(entry.id, entry);
      else this.open.delete(entry.id);
    }
    this.tell('onentry', entry, { offset, time });
  }

  /** Takes over what a push of a state channel says. */
  change(push) {
    this.tick = push.tick;
    this.time = push.time;
    if (this.channel === 'metrics') changeSeries(this.series, push);
    else changeDocuments(this.documents, push);
    this.tell('onchange', push);
  }
}

function changeSeries(known, { full, series, gone, declare, values, stale }) {
  const learn = (told) => known.set(told.id, { value: null, stale: null, ...told });
  if (full) known.clear();
  series?.forEach(learn);
  gone?.forEach((id) => known.delete(id));
  declare?.forEach(learn);
  for (const [id, value, min, max] of values ?? []) {
    const one = known.get(id);
    // A value also ends what was stale.
    if (one) Object.assign(one, { value, stale: null }, min === undefined ? null : { min, max });
  }
  for (const { id, ...why } of stale ?? []) {
    const one = known.get(id);
    if (one) one.stale = why;
  }
}

function changeDocuments(known, { full, documents, gone }) {
  const key = ({ plugin, name }) => `${plugin}/${name}`;
  if (full) known.clear();
  gone?.forEach((document) => known.delete(key(document)));
  documents?.forEach((document) => known.set(key(document), document));
}

/** A hub, as seen through one connection at a time. */
export class Hub {
  #url;
  #options;
  #WebSocket;
  #clock;
  #socket = null;
  #ended = false;
  /** @type {Set<Subscription>} */
  #subscriptions = new Set();
  /** Those that the hub has confirmed on this connection, by its number: equal
   * ones share it. @type {Map<number, Set<Subscription>>} */
  #confirmed = new Map();
  /** Subscriptions that were asked for and not yet answered. */
  #asking = 0;
  /** What waits for a reply, by its id: the caller's commands and our own. */
  #commands = new Map();
  #nextId = 1;
  /** Waits since the last good connection. */
  #attempt = 0;
  #openedAt = null;
  /** When the hub, stopping, wants us back. */
  #comeBackAt = null;
  #pingMs = PING_MS;
  #heardAt = 0;
  #pingedAt = null;
  /** Prevents what is to happen next: a ping, a loss, a new connection. */
  #cancel = () => {};

  /** Use `connect`. */
  constructor(url, options) {
    const address = new URL(url);
    address.protocol = address.protocol.replace(/^http/, 'ws');
    if (address.pathname === '/') address.pathname = '/v1/stream';
    this.#url = address.href;
    this.#options = options;
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (!this.#WebSocket) throw new TypeError('no WebSocket here: pass one as an option');
    this.#clock = options.clock ?? systemClock;
    this.#connect();
  }

  /**
   * Subscribes now and on each later connection.
   *
   * @param {Wanted} wanted
   * @param {Handlers} [handlers]
   * @returns {Subscription}
   */
  subscribe(wanted, handlers = {}) {
    if (this.#ended) throw closedError();
    const subscription = new Subscription(wanted, handlers, (ended) => this.#unsubscribe(ended));
    this.#subscriptions.add(subscription);
    if (this.#isOpen()) this.#ask(subscription);
    return subscription;
  }

  /**
   * The samples of a series.
   *
   * @param {{series: number, from?: string|number, to?: string|number, points?: number,
   *   raw?: boolean}} query
   * @returns {Promise<object>} As the reply in docs/protocol.md.
   */
  history({ series, from, to, points, raw }) {
    return this.#call({ op: 'history', series, from, to, points, raw });
  }

  /**
   * What a subscription would be told if it began now. What is kept of a state
   * channel becomes that.
   *
   * @param {Subscription} subscription
   * @returns {Promise<object>}
   */
  async snapshot(subscription) {
    if (subscription.sub === null) {
      throw new HubError({ code: 'not_subscribed', reason: 'not confirmed yet', temporary: true });
    }
    const reply = await this.#call({ op: 'snapshot', sub: subscription.sub });
    // One from before a push that has come meanwhile is old.
    if (!subscription.isLog && !(reply.snapshot.tick < subscription.tick)) {
      subscription.change({ push: reply.channel, full: true, snapshot: true, ...reply.snapshot });
    }
    return reply;
  }

  /** Asks the hub for a sign of life. @returns {Promise<void>} */
  async ping() {
    await this.#call({ op: 'ping' });
  }

  /** Ends the connection and all that hangs on it. */
  close() {
    this.#end({ reason: 'closed here' }, 1000);
  }

  #isOpen() {
    return this.#openedAt !== null;
  }

  #tellStatus(status) {
    try {
      this.#options.onstatus?.(status);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }

  // The life of a connection.

  #connect() {
    const socket = new this.#WebSocket(this.#url, 'telltale.v1.json');
    this.#socket = socket;
    // A socket that was given up may still have something to say.
    const current = (act) => (event) => this.#socket === socket && act(event);
    socket.onopen = current(() => this.#opened());
    socket.onmessage = current(({ data }) => this.#hear(data));
    // What went wrong is told by the close that follows.
    socket.onerror = () => {};
    socket.onclose = current(({ code, reason }) => this.#lost({ code, reason }));
    this.#schedule(OPEN_MAX_MS, () => this.#lost({ reason: 'the hub did not answer in time' }));
    this.#tellStatus({ state: 'connecting' });
  }

  #opened() {
    this.#openedAt = this.#heardAt = this.#clock.now();
    this.#pingedAt = null;
    this.#command({ op: 'connect', token: this.#options.token }, (error, hub) => {
      if (error) {
        this.#refused(error);
        return;
      }
      this.#pingMs = hub.ping_ms ?? PING_MS;
      this.#beat();
      this.#tellStatus({ state: 'open', hub });
    });
    for (const subscription of this.#subscriptions) this.#ask(subscription);
    for (const [id, command] of this.#commands) if (!command.sent) this.#transmit(id, command);
    this.#beat();
  }

  /** The hub does not let us in. */
  #refused(error) {
    if (error.temporary) this.#lost({ reason: error.message }, error.retryAfterMs);
    else this.#end({ reason: error.message });
  }

  /** Looks whether the hub is still there. */
  #beat() {
    const now = this.#clock.now();
    if (this.#pingedAt !== null && this.#heardAt >= this.#pingedAt) this.#pingedAt = null;
    if (this.#pingedAt === null && now - this.#heardAt >= this.#pingMs) {
      this.#pingedAt = now;
      this.#command({ op: 'ping' }, () => {});
    }
    const since = this.#pingedAt ?? this.#heardAt;
    if (this.#pingedAt !== null && now - since >= this.#pingMs) {
      this.#lost({ reason: 'the hub has gone silent' });
      return;
    }
    this.#schedule(since + this.#pingMs - now, () => this.#beat());
  }

  /** The connection is gone, or is given up. It comes back, unless that is
   * pointless. */
  #lost({ code, reason }, waitAtLeastMs = 0) {
    const now = this.#clock.now();
    const held = this.#openedAt === null ? 0 : now - this.#openedAt;
    if (held >= BACKOFF_MAX_MS || this.#comeBackAt !== null) this.#attempt = 0;
    this.#drop();
    if (isFinal(code)) {
      this.#end({ code, reason });
      return;
    }
    const comeBackAt = this.#comeBackAt;
    this.#comeBackAt = null;
    const waitMs = comeBackAt === null ? this.#backOffMs() : comeBackAt - now;
    const retryInMs = Math.max(0, waitMs) + waitAtLeastMs;
    this.#schedule(retryInMs, () => this.#connect());
    this.#tellStatus({ state: 'waiting', retryInMs, code, reason });
  }

  /** Chance spreads the clients of a hub that has gone over all of the time in
   * which they may come back. */
  #backOffMs() {
    const most = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** this.#attempt);
    this.#attempt = Math.min(this.#attempt + 1, 16);
    return (this.#options.random ?? Math.random)() * most;
  }

  /** Forgets the connection, and what was asked on it. */
  #drop(code) {
    const socket = this.#socket;
    this.#socket = this.#openedAt = null;
    this.#cancel();
    // Not awaited: a half-open one would take minutes.
    socket?.close(code);
    this.#confirmed.clear();
    this.#asking = 0;
    for (const subscription of this.#subscriptions) subscription.sub = null;
    const gone = new HubError({
      code: 'disconnected',
      reason: 'the connection was lost before the reply',
      temporary: true,
    });
    for (const [id, command] of this.#commands) {
      if (!command.sent) continue;
      this.#commands.delete(id);
      if (command.isCall) command.answer(gone);
    }
  }

  #end({ code, reason }, closeCode) {
    if (this.#ended) return;
    this.#ended = true;
    this.#drop(closeCode);
    this.#cancel();
    for (const command of this.#commands.values()) command.answer(closedError());
    this.#commands.clear();
    for (const subscription of this.#subscriptions) subscription.ended = true;
    this.#subscriptions.clear();
    this.#tellStatus({ state: 'closed', code, reason });
  }

  #schedule(ms, act) {
    this.#cancel();
    this.#cancel = this.#clock.after(ms, act);
  }

  // Commands and their replies.

  /** A command of the caller's. It waits for a connection, but not for ever. */
  #call(command) {
    return new Promise((resolve, reject) => {
      if (this.#ended) throw closedError();
      const calls = [...this.#commands.values()].filter(({ isCall }) => isCall);
      if (calls.length >= COMMANDS_MAX) {
        const reason = `${COMMANDS_MAX} commands are waiting for their replies`;
        throw new HubError({ code: 'too_many', reason, temporary: true });
      }
      const id = this.#command(command, (error, ok) => {
        cancel();
        if (error) reject(error);
        else resolve(ok);
      }, true);
      const cancel = this.#clock.after(REPLY_MAX_MS, () => {
        this.#commands.delete(id);
        reject(new HubError({ code: 'timeout', reason: 'no reply in time', temporary: true }));
      });
    });
  }

  /** Sends a command, or keeps it until there is a connection. Its answer is told
   * by a call and not by a promise: what follows it may be in the same packet. */
  #command(body, answer, isCall = false) {
    const id = this.#nextId++;
    const command = { body, answer, isCall, sent: false };
    this.#commands.set(id, command);
    if (this.#isOpen()) this.#transmit(id, command);
    return id;
  }

  #transmit(id, command) {
    command.sent = true;
    this.#socket.send(JSON.stringify({ id, ...command.body }));
  }

  #hear(data) {
    this.#heardAt = this.#clock.now();
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      this.#lost({ reason: 'the hub sent what is not JSON' });
      return;
    }
    if (message.push === undefined) this.#reply(message);
    else if (message.push === 'bye') this.#comeBackAt = this.#heardAt + (message.reconnect_after_ms ?? 0);
    else this.#pushed(message);
  }

  #reply({ id, ok, error }) {
    const command = this.#commands.get(id);
    if (!command) return;
    this.#commands.delete(id);
    command.answer(error && new HubError(error), ok);
  }

  // Subscriptions.

  /** Asks the hub for a subscription, from where it was if it has been. */
  #ask(subscription) {
    this.#asking += 1;
    const resume = subscription.position ?? undefined;
    this.#command({ ...subscription.command, resume }, (error, reply) => {
      this.#asking -= 1;
      if (error) this.#notAllowed(subscription, error);
      else this.#confirm(subscription, reply);
      this.#tidy();
    });
  }

  #confirm(subscription, reply) {
    const equals = this.#confirmed.get(reply.sub) ?? new Set();
    this.#confirmed.set(reply.sub, equals);
    if (subscription.ended) return;
    equals.add(subscription);
    subscription.begin(reply);
  }

  #notAllowed(subscription, error) {
    if (subscription.ended) return;
    if (error.temporary) {
      const socket = this.#socket;
      this.#clock.after(error.retryAfterMs ?? RETRY_MS, () => {
        if (this.#socket === socket && !subscription.ended) this.#ask(subscription);
      });
      return;
    }
    subscription.ended = true;
    this.#subscriptions.delete(subscription);
    subscription.tell('onerror', error);
  }

  #unsubscribe(subscription) {
    subscription.ended = true;
    this.#subscriptions.delete(subscription);
    this.#confirmed.get(subscription.sub)?.delete(subscription);
    this.#tidy();
  }

  /** Ends, at the hub, what nobody here wants any more. Not while a subscription
   * is being asked for: it may turn out to be the same one. */
  #tidy() {
    if (this.#asking > 0) return;
    for (const [sub, equals] of this.#confirmed) {
      if (equals.size > 0) continue;
      this.#confirmed.delete(sub);
      this.#command({ op: 'unsubscribe', sub }, () => {});
    }
  }

  #pushed(push) {
    const equals = this.#confirmed.get(push.sub);
    // One that has just been given up.
    if (!equals) return;
    if (push.push === 'gap') {
      this.#gap(push, equals);
    } else if (push.offset === undefined) {
      for (const subscription of equals) subscription.change(push);
    } else {
      this.#entry(push, equals);
    }
  }

  /** The hub says that we could not keep up. What is missing follows, or is lost. */
  #gap(push, equals) {
    const { from, to, recovered = true } = push;
    for (const subscription of equals) {
      subscription.tell('ongap', { from, to, recovered });
      if (!recovered) subscription.fresh(push);
    }
  }

  #entry({ sub, offset, prev, time, entry }, equals) {
    const missing = [...equals].filter(({ position }) => prev > position.offset);
    if (missing.length > 0) {
      for (const subscription of missing) {
        const from = subscription.position.offset + 1;
        subscription.tell('ongap', { from, to: prev, recovered: true });
      }
      this.#askAgain(sub, equals);
      return;
    }
    for (const subscription of equals) subscription.enter(offset, time, entry);
    // One sequence numbers all log channels, and it comes in order: whoever has
    // seen this entry has seen, on each of them, all that is before it. The
    // entry itself may still be to come on another.
    for (const [, confirmed] of this.#confirmed) {
      for (const { position } of confirmed) {
        if (position && position.offset < offset - 1) position.offset = offset - 1;
      }
    }
  }

  /** Gives a subscription up at the hub, and asks for what was missed. */
  #askAgain(sub, equals) {
    this.#confirmed.delete(sub);
    this.#command({ op: 'unsubscribe', sub }, () => {
      // An equal one that was asked for before, and has ended with it.
      const early = this.#confirmed.get(sub) ?? [];
      this.#confirmed.delete(sub);
      for (const subscription of early) this.#ask(subscription);
    });
    for (const subscription of equals) {
      subscription.sub = null;
      this.#ask(subscription);
    }
  }
}

/** @type {Clock} */
const systemClock = {
  now: () => performance.now(),
  after(ms, act) {
    const timer = setTimeout(act, ms);
    return () => clearTimeout(timer);
  },
};

const closedError = () => new HubError({ code: 'closed', reason: 'this connection has ended' });
