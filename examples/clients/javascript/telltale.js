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
 * again, state channels start with all that is known, and log channels and rooms
 * go on after the last entry that was seen, so that each entry comes once. What is
 * published is sent again until it is safe, and counts once.
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
/** When a subscription or an event that was refused for now is tried again, unless
 * the hub says. */
const RETRY_MS = 10_000;
/** Events that wait until they are safe; one more is refused. */
const PUBLISHING_MAX = 256;
/** A token is renewed after this part of what is left of it, so that there is time
 * to try again … */
const REFRESH_AFTER = 0.75;
/** … but not more often, nor more seldom, than this. */
const REFRESH_MS = [1000, 86_400_000];
/** Events that are known to have come while another room had not come as far. As
 * many as the hub lets a client catch up with. */
const SEEN_MAX = 10_000;
/** What a command's id takes at most in its message. */
const ID_BYTES = 32;
/** The close code of a token that has expired. */
const EXPIRED = 3505;

/** Whether a connection that was closed with this code is over for good: the
 * hub says so, or this client broke the WebSocket protocol. */
const isFinal = (code) => (code >= 3500 && code <= 3999) || [1002, 1003, 1007, 1009].includes(code);

/**
 * @typedef {object} Options
 * @property {string|(() => string|Promise<string>)} [token] Shown to the hub on each
 *   connection. A function is asked for one each time, and before the last one expires.
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
 * @property {string} [channel] `metrics`, `documents`, `findings`, `hub`, `room:<room>` or
 *   `presence:<room>`.
 * @property {string} [room] Short for the channel `room:<room>`. A room can be had once.
 * @property {string[]} [types] Rooms: globs of the types of events that are wanted.
 * @property {{plugin?: string, name?: string, labels?: Object<string, string>}} [filter] Globs.
 * @property {number} [maxRateMs] `metrics`: not more often than this.
 * @property {'delta'|'full'} [form] `metrics`: what has changed, or all of it each time.
 * @property {string[]} [fields] Only these members.
 * @property {Position} [resume] Log channels: go on from here, which a page may have kept.
 */
/** @typedef {{epoch: string, offset: number}} Position Where a client is in the log. */
/**
 * @typedef {object} Draft An event to be published; docs/events.md has the rules.
 * @property {string} type Such as `pr.created`.
 * @property {*} [data]
 * @property {string} [source] Without it the user.
 * @property {string[]} [rooms] Without these and `user`: where events of this type go.
 * @property {string} [user] All connections of this user.
 * @property {boolean} [excludeSelf] This connection is not told.
 * @property {string} [key] Its idempotency key; a new one without it.
 */
/** @typedef {{id: string, offset: number, rooms: string[]}} Receipt Of an event that is safe. */
/**
 * @typedef {object} Handlers
 * @property {(push: object) => void} [onchange] State channels: what is kept is
 *   now as this push says: `full` if it was replaced, with `skipped` if pushes were
 *   left out, or with `snapshot` if this is no push but the reply that it starts with.
 * @property {(entry: object, at: {offset: number, time: string}) => void} [onentry]
 *   Log channels and rooms: each entry, once, in order. An event that goes to several of the
 *   client's rooms comes to one of them.
 * @property {(gap: {from: number, to: number, recovered: boolean}) => void} [ongap]
 *   Log channels: these entries did not come when they were due. They follow,
 *   unless `recovered` is false: then `onfresh` says where it goes on.
 * @property {(state: {first: boolean, epoch: string, offset: number, open?: object[],
 *   plugins?: object[]}) => void} [onfresh]
 *   Log channels: it starts here, with what stands now. Unless it is the first
 *   time, entries were lost before.
 * @property {(error: HubError) => void} [onerror] The hub does not allow this
 *   subscription, or not any more; it has ended.
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
  /** `presence`: the users in the room. @type {Set<string>} */
  users = new Set();
  /** `findings`: those that are open, by id. @type {Map<string, object>} */
  open = new Map();
  /** `metrics` and `documents`: the tick of what is kept. @type {number|null} */
  tick = null;
  /** `metrics` and `documents`: the time of that tick. @type {string|null} */
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
  #seen;

  /** Made by `Hub.subscribe`. */
  constructor(wanted, handlers, seen, end) {
    const { room, channel = `room:${room}`, filter, types, maxRateMs, form, fields, resume = null } = wanted;
    this.channel = channel;
    /** The command, without id and position; what is undefined is not sent. */
    this.command = { op: 'subscribe', channel, filter, types, max_rate_ms: maxRateMs, form, fields };
    this.position = resume && { epoch: resume.epoch, offset: resume.offset };
    this.handlers = handlers;
    this.#seen = seen;
    this.#end = end;
  }

  /** Ends it. Nothing is told after this. */
  unsubscribe() {
    this.#end(this);
  }

  /** Whether it is one of the numbered log. */
  get isLog() {
    return this.isRoom || ['findings', 'hub'].includes(this.channel);
  }

  /** Whether it is of a room's events. */
  get isRoom() {
    return isRoom(this.channel);
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
      this.change({ push: this.channel, full: true, snapshot: true, ...stateOf(reply) });
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
    // Another log numbers anew.
    if (!first && this.position.epoch !== epoch) this.#seen.forget(Infinity);
    this.position = { epoch, offset };
    this.open = new Map(open?.map((finding) => [finding.id, finding]));
    this.tell('onfresh', { first, epoch, offset, open, plugins });
  }

  /** Takes an entry, unless it was seen before. */
  enter(offset, time, entry) {
    if (offset <= this.position.offset) return;
    this.position.offset = offset;
    // It came by another room, in a reply before the connection was lost.
    if (this.isRoom && !this.#seen.add(offset)) return;
    if (this.channel === 'findings') {
      if (entry.state === 'open') this.open.set(entry.id, entry);
      else this.open.delete(entry.id);
    }
    this.tell('onentry', entry, { offset, time });
  }

  /** Nothing up to this offset is missing. */
  hasSeen(offset) {
    if (this.position && this.position.offset < offset) this.position.offset = offset;
  }

  /** Takes over what a push of a state channel says. */
  change(push) {
    this.tick = push.tick ?? null;
    this.time = push.time ?? null;
    if (this.channel === 'metrics') changeSeries(this.series, push);
    else if (this.channel === 'documents') changeDocuments(this.documents, push);
    else changeUsers(this.users, push);
    this.tell('onchange', push);
  }
}

const isRoom = (channel) => channel.startsWith('room:');

/** What a reply says of a state channel. */
const stateOf = ({ snapshot, users }) => snapshot ?? { users };

/** The offsets of events beyond the position of one of the client's rooms: what
 * came in the reply to one room, before the connection was lost, must not come
 * again by another that had not been answered. */
class Seen {
  #offsets = new Set();

  /** False if it was there. */
  add(offset) {
    if (this.#offsets.has(offset)) return false;
    this.#offsets.add(offset);
    if (this.#offsets.size > SEEN_MAX) this.#offsets.delete(this.#offsets.values().next().value);
    return true;
  }

  /** All rooms have come as far as this. */
  forget(through) {
    for (const offset of this.#offsets) if (offset <= through) this.#offsets.delete(offset);
  }
}

function changeUsers(known, { full, users, join, leave }) {
  if (full) known.clear();
  users?.forEach(({ user }) => known.add(user));
  leave?.forEach((user) => known.delete(user));
  join?.forEach((user) => known.add(user));
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
  /** The hub's terms, once it has let us in. */
  #terms = null;
  /** Events that are not known to be safe. */
  #publishing = new Set();
  #seen = new Seen();
  #pingMs = PING_MS;
  #heardAt = 0;
  #pingedAt = null;
  /** Prevents what is to happen next: a ping, a loss, a new connection. */
  #cancel = () => {};
  /** Prevents that the token is renewed. */
  #cancelRefresh = () => {};

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
    const end = (ended) => this.#unsubscribe(ended);
    const subscription = new Subscription(wanted, handlers, this.#seen, end);
    // The hub tells each of its events once on a connection.
    if (this.#rooms().some(({ channel }) => channel === subscription.channel)) {
      throw new HubError({ code: 'bad_request', reason: `${subscription.channel} is subscribed to` });
    }
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
   * Who is in a room.
   *
   * @param {string} room
   * @returns {Promise<{user: string, connections: number}[]>}
   */
  async presence(room) {
    return (await this.#call({ op: 'presence', room })).users;
  }

  /**
   * Publishes an event. It is sent again, with the same key, until the hub has said
   * that it is safe or is refused: it counts once, whatever becomes of connections
   * and of the hub meanwhile.
   *
   * @param {Draft} draft
   * @returns {Promise<Receipt>}
   */
  publish({ type, source, data, rooms, user, excludeSelf, key = newKey() }) {
    return new Promise((resolve, reject) => {
      if (this.#ended) throw closedError();
      if (this.#publishing.size >= PUBLISHING_MAX) {
        const reason = `${PUBLISHING_MAX} events are not known to be safe`;
        throw new HubError({ code: 'too_many', reason, temporary: true });
      }
      const command = { op: 'publish', type, source, data, rooms, user, exclude_self: excludeSelf, key };
      const event = { command, resolve, reject };
      this.#publishing.add(event);
      if (this.#terms) this.#send(event);
    });
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
    const state = stateOf(reply);
    if (!subscription.isLog && !(state.tick < subscription.tick)) {
      subscription.change({ push: reply.channel, full: true, snapshot: true, ...state });
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
    this.#schedule(OPEN_MAX_MS, () => this.#lost({ reason: 'the hub did not answer in time' }));
    this.#tellStatus({ state: 'connecting' });
    const { token } = this.#options;
    if (!this.#renews) {
      this.#open(token);
      return;
    }
    const attempt = (this.#socket = {});
    const current = (act) => (value) => this.#socket === attempt && act(value);
    this.#newToken().then(
      current((given) => this.#open(given)),
      current((error) => this.#lost({ reason: `no token: ${error.message}` })),
    );
  }

  #open(token) {
    const socket = new this.#WebSocket(this.#url, 'telltale.v1.json');
    this.#socket = socket;
    // A socket that was given up may still have something to say.
    const current = (act) => (event) => this.#socket === socket && act(event);
    socket.onopen = current(() => this.#opened(token));
    socket.onmessage = current(({ data }) => this.#hear(data));
    // What went wrong is told by the close that follows.
    socket.onerror = () => {};
    socket.onclose = current(({ code, reason }) => this.#lost({ code, reason }));
  }

  #opened(token) {
    this.#openedAt = this.#heardAt = this.#clock.now();
    this.#pingedAt = null;
    this.#command({ op: 'connect', token }, (error, hub) => {
      if (error) {
        this.#refused(error);
        return;
      }
      this.#terms = hub;
      this.#pingMs = hub.ping_ms ?? PING_MS;
      this.#beat();
      this.#keepToken(hub.expires);
      for (const event of this.#publishing) this.#send(event);
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

  // Tokens.

  /** Whether there may be another token than the last. */
  get #renews() {
    return typeof this.#options.token === 'function';
  }

  async #newToken() {
    return this.#options.token();
  }

  /** Has the token renewed before it expires, if that can be done. */
  #keepToken(expires) {
    this.#cancelRefresh();
    if (!expires || !this.#renews) return;
    const leftMs = Date.parse(expires) - Date.now();
    const [least, most] = REFRESH_MS;
    const inMs = Math.min(Math.max(leftMs * REFRESH_AFTER, least), most);
    this.#cancelRefresh = this.#clock.after(inMs, () => this.#refresh(expires));
  }

  #refresh(expires) {
    const socket = this.#socket;
    const current = (act) => (value) => this.#socket === socket && act(value);
    const later = current(() => this.#keepToken(expires));
    this.#newToken().then(current((token) => this.#command({ op: 'refresh', token }, (error, ok) => {
      if (error?.temporary) {
        later();
      } else if (error) {
        // It is another user's, or allows to read something else: that takes
        // another connection.
        this.#lost({ reason: error.message });
      } else {
        this.#keepToken(ok.expires);
        ok.ended.forEach((sub) => this.#denied(sub));
      }
    })), later);
  }

  /** The new token does not allow this subscription. */
  #denied(sub) {
    const equals = this.#confirmed.get(sub) ?? [];
    this.#confirmed.delete(sub);
    const error = new HubError({ code: 'denied', reason: 'the new token does not allow it' });
    for (const subscription of equals) this.#notAllowed(subscription, error);
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
    if (isFinal(code) && !(code === EXPIRED && this.#renews)) {
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
    this.#socket = this.#openedAt = this.#terms = null;
    this.#cancel();
    this.#cancelRefresh();
    // Not awaited: a half-open one would take minutes.
    socket?.close?.(code);
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
    for (const event of this.#publishing) event.reject(closedError());
    this.#publishing.clear();
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

  /** Sends an event, until it is safe or refused. */
  #send(event) {
    const settle = (act, value) => this.#publishing.delete(event) && act(value);
    const bytes = new TextEncoder().encode(JSON.stringify(event.command)).length + ID_BYTES;
    if (bytes > (this.#terms.message_bytes_max ?? Infinity)) {
      // The hub would close the connection.
      const reason = `the event has ${bytes} bytes, and may have ${this.#terms.message_bytes_max}`;
      settle(event.reject, new HubError({ code: 'too_large', reason }));
      return;
    }
    const socket = this.#socket;
    this.#command(event.command, (error, receipt) => {
      if (!error) settle(event.resolve, receipt);
      else if (!error.temporary) settle(event.reject, error);
      else this.#clock.after(error.retryAfterMs ?? RETRY_MS, () => this.#socket === socket && this.#send(event));
    });
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

  #rooms() {
    return [...this.#subscriptions].filter(({ isRoom }) => isRoom);
  }

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
    if (subscription.isRoom) this.#forgetSeen();
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
    if (!equals?.size) {
      // One that has just been given up. An event of it may be another room's too.
      if (isRoom(push.push)) this.#askRoomsAgain();
    } else if (push.push === 'gap') {
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

  #entry({ push, sub, offset, prev, time, entry, excluded }, equals) {
    const missing = [...equals].filter(({ position }) => prev > position.offset);
    if (missing.length > 0) {
      for (const subscription of missing) {
        const from = subscription.position.offset + 1;
        subscription.tell('ongap', { from, to: prev, recovered: true });
      }
      if (isRoom(push)) this.#askRoomsAgain();
      else this.#askAgain(sub, equals);
      return;
    }
    if (!excluded) for (const subscription of equals) subscription.enter(offset, time, entry);
    // One sequence numbers all log channels, and it comes in order: whoever has
    // seen this entry has seen, on each of them, all that is before it. The
    // entry itself may still be to come on another; but an event comes by one of
    // the client's rooms only.
    for (const confirmed of this.#confirmed.values()) {
      for (const subscription of confirmed) {
        subscription.hasSeen(isRoom(push) && subscription.isRoom ? offset : offset - 1);
      }
    }
    if (isRoom(push)) this.#forgetSeen();
  }

  #forgetSeen() {
    const positions = this.#rooms().map(({ position }) => position?.offset ?? Infinity);
    this.#seen.forget(Math.min(...positions));
  }

  /** Gives all rooms up, and asks for what was missed: only together, since the hub
   * leaves out of one what it takes to have come by another. */
  #askRoomsAgain() {
    const ofRooms = ([, equals]) => [...equals].some((subscription) => subscription.isRoom);
    const rooms = [...this.#confirmed].filter(ofRooms);
    for (const [sub, equals] of rooms) this.#giveUp(sub, equals);
    for (const [, equals] of rooms) for (const subscription of equals) this.#ask(subscription);
  }

  /** Gives a subscription up at the hub, and asks for what was missed. */
  #askAgain(sub, equals) {
    this.#giveUp(sub, equals);
    for (const subscription of equals) this.#ask(subscription);
  }

  #giveUp(sub, equals) {
    this.#confirmed.delete(sub);
    this.#command({ op: 'unsubscribe', sub }, () => {
      // An equal one that was asked for before, and has ended with it.
      const early = this.#confirmed.get(sub) ?? [];
      this.#confirmed.delete(sub);
      for (const subscription of early) this.#ask(subscription);
    });
    for (const subscription of equals) subscription.sub = null;
  }
}

/** 128 bits that nobody else has. */
function newKey() {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
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
