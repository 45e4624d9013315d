/**
 * A client of telltale's dashboard sync (`/api/realtime`, docs/sync.md), for
 * browsers and for Node. One module, no dependencies.
 *
 *     import { sync } from './sync.mjs';
 *     const board = sync('http://127.0.0.1:8765', { user: 'ana', onchange: () => draw(board.widgets) });
 *     await board.updateWidget('cpu', { x: 3, y: 1 });
 *
 * What is done here shows at once, and waits in a queue until the hub has said that
 * it is safe. It is sent again with its id until then, over a WebSocket, or over
 * HTTP while there is none, and counts once.
 *
 * @module sync
 */

/** The first wait before a connection is tried again is at most this long; each
 * further one may be twice as long as the one before. */
const BACKOFF_MS = 500;
/** The longest wait. After a connection that held for so long the waits start from
 * the beginning. */
const BACKOFF_MAX_MS = 30_000;
/** How long a connection may take to stand, and an answer to come. */
const ANSWER_MAX_MS = 10_000;
/** How often the hub is asked for a sign of life. If none has come until it is asked
 * again, the connection is lost. */
const BEAT_MS = 20_000;
/** How long what is missing between two changes may be on its way. */
const GAP_MS = 500;
/** When what was refused for now is tried again, unless the hub says. */
const RETRY_MS = 1000;
/** Operations that wait until they are safe; one more is refused. */
const QUEUE_MAX = 256;
/** The close code of who may not come in. */
const UNAUTHORIZED = 1008;

/**
 * @typedef {object} Options
 * @property {string} [user] Who this is, where the hub believes it.
 * @property {string} [token] Says who this is, where it does not.
 * @property {string} [board] Another board than the user's own.
 * @property {() => void} [onchange] `widgets` or `layouts` are not what they were.
 * @property {(status: {state: 'connecting'|'open'|'waiting'|'closed', reason?: string,
 *   retryInMs?: number}) => void} [onstatus] How the connection is doing.
 * @property {(conflict: Conflict) => object|null|undefined|Promise<object|null|undefined>} [onconflict]
 *   Somebody else has changed it meanwhile: what is it to be? Null: deleted; undefined: what
 *   it is at the hub. Without this handler no conflict is looked for: the last write wins.
 * @property {Operation[]} [pending] What an earlier page could not send: its `pending`.
 * @property {typeof globalThis.WebSocket} [WebSocket] For Node 20: that of the package `ws`.
 * @property {typeof globalThis.fetch} [fetch]
 * @property {() => number} [random] Other chance, for tests: from 0 up to 1.
 */
/** @typedef {{id: string, type: string, payload: object}} Operation */
/** @typedef {{version: number, data: object|null}} Version Of one that is not there: null. */
/**
 * @typedef {object} Conflict
 * @property {string} [widgetId] This, or …
 * @property {string} [layoutId] … this.
 * @property {Version} server What it is at the hub.
 * @property {Version} client What it was to be.
 * @property {Version|null} base What it was when the change was made, if it is still known.
 */

/**
 * Connects to a hub, and keeps a board the same here and there until `close`.
 *
 * @param {string} url The hub's address.
 * @param {Options} [options]
 */
export const sync = (url, options = {}) => new BoardSync(url, options);

/** Why an operation was not done. */
export class SyncError extends Error {}

/** An object's key of a message that names one. */
const keyOf = ({ widgetId, layoutId = 'default' }) =>
  widgetId === undefined ? `layout/${layoutId}` : `widget/${widgetId}`;

/** The version of an object after a change that says it of one or of several. */
const versionOf = ({ version, versions = [] }, key) =>
  versions.findLast((one) => keyOf(one) === key)?.version ?? version ?? 0;

/** What an operation does, step by step: to which object, and what its data is after
 * it, or undefined if that is not said. */
function stepsOf({ type, payload }) {
  const step = (edit) => [{ key: keyOf(payload), edit }];
  switch (type) {
    case 'WIDGET_UPDATE': return step((data) => ({ ...data, ...payload.data }));
    case 'WIDGET_DELETE': return step(() => null);
    case 'WIDGET_BATCH': return payload.operations.flatMap(stepsOf);
    case 'LAYOUT_UPDATE': return step(() => payload.layout);
    case 'LAYOUT_RESTORE': return step(() => ('layout' in payload ? payload.layout : payload.data));
    case 'CONFLICT_RESOLVED': return step(() => payload.data);
    case 'SYNC_UPDATE': return payload.objects.map((object) =>
      ({ key: keyOf(object), edit: () => object.data ?? object.layout ?? null }));
    default: return [];
  }
}

/** Ids as the dashboards that came before had them. */
const newId = () => `msg-${Date.now()}-${Math.random().toString(36).slice(2, 9).padEnd(7, '0')}`;

/** A board, as seen through one connection at a time. */
export class BoardSync {
  #url;
  #options;
  #socket = null;
  /** There was no connection the last time that one was tried. */
  #isDown = false;
  /** The hub has told on this connection what was missed. */
  #isReady = false;
  #hasEnded = false;
  #openedAt = 0;
  #attempt = 0;
  #hasHeard = false;
  #isPosting = false;
  /** The board as it was in one of its revisions, by key, and which. @type {Map<string, Version>} */
  #objects = new Map();
  #revision = 0;
  #epoch;
  /** Changes by their revision that others must come before. */
  #ahead = new Map();
  /** What is not known to be safe, in order. */
  #queue;
  #timers = {};

  /** Use `sync`. */
  constructor(url, options) {
    this.#options = options;
    this.#queue = (options.pending ?? []).map((operation) => ({ ...operation, resolve() {}, reject() {} }));
    this.#url = new URL('/api/realtime', url);
    const { user, token, board } = options;
    for (const [key, value] of Object.entries({ userId: user, token, board })) {
      if (value !== undefined) this.#url.searchParams.set(key, value);
    }
    this.#connect();
  }

  /** The widgets by id, with what waits to be safe. @returns {Map<string, Version>} */
  get widgets() {
    return this.#shown('widget/');
  }

  /** The layouts by id, with what waits to be safe. @returns {Map<string, Version>} */
  get layouts() {
    return this.#shown('layout/');
  }

  /** What is not known to be safe. A page may keep it over its end. @returns {Operation[]} */
  get pending() {
    return this.#queue.map(({ id, type, payload }) => ({ id, type, payload }));
  }

  // Each of these shows at once. What it answers with is settled when it is safe
  // ({version or versions, syncVersion}), or rejected with a SyncError.

  /** Sets some members of a widget. */
  updateWidget(widgetId, data) {
    return this.#change('WIDGET_UPDATE', this.#based({ widgetId, data }));
  }

  deleteWidget(widgetId) {
    return this.#change('WIDGET_DELETE', this.#based({ widgetId }));
  }

  /** Replaces a layout. */
  saveLayout(layout, layoutId = 'default') {
    return this.#change('LAYOUT_UPDATE', this.#based({ layoutId, layout }));
  }

  /** Makes a layout what it was in an earlier version. */
  restoreLayout(version, layoutId = 'default') {
    return this.#change('LAYOUT_RESTORE', this.#based({ layoutId, version }));
  }

  /** Does several things to widgets, or none of them. @param {{type: string, payload: object}[]} operations */
  batch(operations) {
    return this.#change('WIDGET_BATCH', { operations });
  }

  /** Ends the connection. What is pending stays undone, unless it is on its way. */
  close() {
    this.#end('closed here', 1000);
  }

  // What is known of the board.

  /** The version that a change is made on, for who wants to hear of conflicts. */
  #based(payload) {
    if (!this.#options.onconflict) return payload;
    return { ...payload, baseVersion: this.#shown('').get(keyOf(payload))?.version ?? 0 };
  }

  /** The objects of a kind: as the hub has them, and on top what is not there yet. */
  #shown(kind) {
    const shown = new Map(this.#objects);
    const ahead = [...this.#ahead].sort(([one], [other]) => one - other).map(([, change]) => change);
    for (const operation of [...ahead, ...this.#queue]) {
      for (const { key, edit } of stepsOf(operation)) {
        const { version = 0, data = null } = shown.get(key) ?? {};
        const after = edit(data);
        shown.set(key, { version, data: after === undefined ? data : after });
      }
    }
    const isOfKind = ([key, { data }]) => key.startsWith(kind) && (data !== null || kind === '');
    return new Map([...shown].filter(isOfKind).map(([key, value]) => [key.slice(kind.length), value]));
  }

  /** Takes over a change that was made, once all before it have been. */
  #learn(revision, change) {
    if (revision > this.#revision) this.#ahead.set(revision, change);
    this.#advance();
  }

  #advance() {
    let next;
    while ((next = this.#ahead.get(this.#revision + 1)) && this.#apply(next)) {
      this.#revision += 1;
      this.#ahead.delete(this.#revision);
    }
    // What is missing is asked for: at once, if it can't come by itself.
    if (this.#ahead.size === 0) this.#endTimer('gap');
    else if (this.#isReady && !this.#timers.gap) this.#after(next ? 0 : GAP_MS, 'gap', () => this.#askForState());
    this.#tell('onchange');
  }

  /** False if the change does not say what comes out: the hub has to be asked. */
  #apply(change) {
    const after = new Map();
    for (const { key, edit } of stepsOf(change)) {
      const data = edit((after.get(key) ?? this.#objects.get(key))?.data ?? null);
      if (data === undefined) return false;
      after.set(key, { version: versionOf(change.payload, key), data });
    }
    for (const [key, value] of after) this.#objects.set(key, value);
    return true;
  }

  #askForState() {
    this.#send('SYNC_REQUEST', this.#epoch && { since: this.#revision, epoch: this.#epoch });
  }

  /** All that has changed since the revision that was asked for, or all there is. */
  #takeState({ version, epoch, full, widgets, layouts, deleted = [] }) {
    const isSameLog = epoch === this.#epoch;
    // Our own change may have been confirmed while this was on its way.
    if (!isSameLog || version >= this.#revision) {
      if (full) this.#objects.clear();
      if (!isSameLog && this.#epoch) this.#ahead.clear();
      for (const { version: at, data, layout, ...id } of [...widgets, ...layouts, ...deleted]) {
        this.#objects.set(keyOf(id), { version: at, data: data ?? layout ?? null });
      }
      [this.#revision, this.#epoch] = [version, epoch];
      for (const revision of this.#ahead.keys()) if (revision <= version) this.#ahead.delete(revision);
    }
    const wasReady = this.#isReady;
    this.#isReady = true;
    this.#advance();
    if (!wasReady) this.#sendNext();
  }

  // What is to be done to it.

  #change(type, payload) {
    const promise = new Promise((resolve, reject) => {
      if (this.#hasEnded) throw new SyncError('this connection has ended');
      if (this.#queue.length >= QUEUE_MAX) throw new SyncError(`${QUEUE_MAX} operations are not safe yet`);
      this.#queue.push({ id: newId(), type, payload, resolve, reject });
    });
    // Who does not care is not troubled.
    promise.catch(() => {});
    this.#tell('onchange');
    if (this.#queue.length === 1) this.#sendNext();
    if (this.#isDown) this.#post();
    return promise;
  }

  /** Sends what is first in the queue, again if need be. One at a time, so that what
   * was done first comes first even if it has to be tried again. */
  #sendNext(inMs = 0) {
    this.#endTimer('again');
    const [first] = this.#queue;
    if (!first || first.isAsked || !this.#isReady) return;
    if (inMs === 0) this.#send(first.type, first.payload, first.id);
    this.#after(inMs || ANSWER_MAX_MS, 'again', () => this.#sendNext());
  }

  /** It is safe. */
  #done(operation, { version, versions, syncVersion }) {
    // What was made on top of it was made on what it has become.
    for (const { key } of stepsOf(operation)) {
      const now = versionOf({ version, versions }, key);
      const base = operation.payload.baseVersion ?? now - 1;
      for (const { payload } of this.#queue) {
        if (payload.baseVersion === base && keyOf(payload) === key) payload.baseVersion = now;
      }
    }
    operation.resolve({ version, versions, syncVersion });
  }

  /** Somebody was faster. What comes after it in the queue waits until it is said what
   * is to be. */
  async #conflict(operation, conflict) {
    operation.isAsked = true;
    // If what was resolved is in conflict again, it is still about the first wish.
    const { client = conflict.client } = operation;
    let data;
    let reason = new SyncError('it has changed meanwhile');
    try {
      // Of several objects, only one of those in conflict is told.
      if (!operation.type.endsWith('_BATCH')) data = await this.#options.onconflict?.({ ...conflict, client });
    } catch (error) {
      reason = error;
    }
    if (data === undefined) {
      this.#queue.shift();
      operation.reject(reason);
    } else {
      const { widgetId, layoutId, server } = conflict;
      const payload = { widgetId, layoutId, data, baseVersion: server.version };
      this.#queue[0] = { ...operation, id: newId(), type: 'CONFLICT_RESOLVED', payload, client, isAsked: false };
    }
    this.#tell('onchange');
    this.#sendNext();
    if (this.#isDown) this.#post();
  }

  /** Does over HTTP what is in the queue, until that fails or there is a connection. */
  async #post() {
    if (this.#isPosting) return;
    this.#isPosting = true;
    try {
      while (this.#isDown && !this.#hasEnded && this.#queue.length > 0 && !this.#queue[0].isAsked) {
        const [operation] = this.#queue;
        const { id, type, payload } = operation;
        const operations = [{ operationId: id, type, payload }];
        const answer = await (this.#options.fetch ?? globalThis.fetch)(this.#url.href, {
          method: 'POST',
          headers: { 'Content-Type': 'application/json' },
          body: JSON.stringify({ type: 'SYNC', operations }),
          signal: AbortSignal.timeout(ANSWER_MAX_MS),
        });
        if (!answer.ok) break;
        const { results: [result] } = await answer.json();
        // On the connection that there is now, the same id is asked for again.
        if (!this.#isDown || this.#hasEnded || result.temporary) break;
        if (this.#queue[0] !== operation) continue;
        if (result.status === 'conflict') {
          this.#conflict(operation, result.conflict);
          break;
        }
        this.#queue.shift();
        if (result.status === 'applied') {
          // Where it stands among the changes of others is not known until there is a
          // connection: all that was changed since the last one comes with that.
          this.#apply({ type, payload: { ...payload, ...result } });
          this.#done(operation, result);
        } else operation.reject(new SyncError(result.error));
        this.#tell('onchange');
      }
    } catch {
      // Neither can be had: each try of a connection tries this again.
    } finally {
      this.#isPosting = false;
    }
  }

  // The life of a connection.

  #connect() {
    this.#tell('onstatus', { state: 'connecting' });
    const socket = new (this.#options.WebSocket ?? globalThis.WebSocket)(this.#url.href.replace(/^http/, 'ws'));
    this.#socket = socket;
    // A socket that was given up may still have something to say.
    const current = (act) => (event) => this.#socket === socket && act(event);
    socket.onopen = current(() => this.#opened());
    socket.onmessage = current(({ data }) => this.#hear(JSON.parse(data)));
    // What went wrong is told by the close that follows.
    socket.onerror = () => {};
    socket.onclose = current(({ code, reason }) => this.#lost(reason || `closed with ${code}`, code));
    this.#after(ANSWER_MAX_MS, 'life', () => this.#lost('the hub did not answer in time'));
  }

  #opened() {
    this.#isDown = false;
    this.#openedAt = performance.now();
    this.#hasHeard = true;
    this.#beat();
    this.#askForState();
    this.#tell('onstatus', { state: 'open' });
  }

  /** Looks whether the hub is still there. */
  #beat() {
    if (!this.#hasHeard) {
      this.#lost('the hub has gone silent');
      return;
    }
    this.#hasHeard = false;
    this.#send('PING');
    this.#after(BEAT_MS, 'life', () => this.#beat());
  }

  #send(type, payload = {}, id = newId()) {
    // What can't be sent is sent again on the next connection.
    if (this.#socket?.readyState !== 1) return;
    const userId = this.#options.user ?? '';
    this.#socket.send(JSON.stringify({ type, id, timestamp: new Date().toISOString(), userId, payload }));
  }

  #hear({ type, payload, correlationId }) {
    this.#hasHeard = true;
    switch (type) {
      case 'CONNECT': case 'DISCONNECT': case 'PONG': return;
      case 'SYNC_RESPONSE': this.#takeState(payload); return;
      case 'SYNC_ERROR': this.#lost(payload.error); return;
      case 'ACK': case 'NACK': case 'CONFLICT_DETECTED': this.#answer(type, payload, correlationId); return;
      // What another client has done.
      default: if (payload?.syncVersion) this.#learn(payload.syncVersion, { type, payload });
    }
  }

  #answer(type, answer, id) {
    const [operation] = this.#queue;
    // It may have been answered before.
    if (operation?.id !== id || operation.isAsked) return;
    if (answer.temporary) {
      this.#sendNext(answer.retryAfterMs ?? RETRY_MS);
      return;
    }
    if (type === 'CONFLICT_DETECTED') {
      this.#conflict(operation, answer);
      return;
    }
    this.#queue.shift();
    if (type === 'ACK') {
      this.#learn(answer.syncVersion, { type: operation.type, payload: { ...operation.payload, ...answer } });
      this.#done(operation, answer);
    } else operation.reject(new SyncError(answer.error));
    this.#tell('onchange');
    this.#sendNext();
  }

  /** The connection is gone, or is given up. It comes back. */
  #lost(reason, code) {
    if (code === UNAUTHORIZED) {
      this.#end(reason);
      return;
    }
    if (!this.#isDown && performance.now() - this.#openedAt >= BACKOFF_MAX_MS) this.#attempt = 0;
    this.#drop();
    this.#isDown = true;
    const { random = Math.random } = this.#options;
    const retryInMs = random() * Math.min(BACKOFF_MS * 2 ** this.#attempt, BACKOFF_MAX_MS);
    this.#attempt += 1;
    this.#after(retryInMs, 'life', () => this.#connect());
    this.#tell('onstatus', { state: 'waiting', reason, retryInMs });
    this.#post();
  }

  #drop(code) {
    const socket = this.#socket;
    this.#socket = null;
    this.#isReady = false;
    for (const name of Object.keys(this.#timers)) this.#endTimer(name);
    socket?.close(code);
  }

  /** One timer of each name at a time. */
  #after(ms, name, act) {
    this.#endTimer(name);
    this.#timers[name] = setTimeout(() => {
      delete this.#timers[name];
      act();
    }, ms);
  }

  #endTimer(name) {
    clearTimeout(this.#timers[name]);
    delete this.#timers[name];
  }

  #end(reason, code) {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#drop(code);
    for (const { reject } of this.#queue) reject(new SyncError(reason));
    this.#tell('onstatus', { state: 'closed', reason });
  }

  /** Tells one of the handlers. What it throws is its own affair. */
  #tell(handler, ...said) {
    try {
      this.#options[handler]?.(...said);
    } catch (error) {
      queueMicrotask(() => { throw error; });
    }
  }
}
