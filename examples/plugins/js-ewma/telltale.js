// What every plugin in JavaScript repeats: numbers of series, batches, faults.
// Copied into each project, and yours to change.

/** What is needed isn't there just now: the hub asks again. */
export class Retry extends Error {}

/** The settings can't work: the hub waits until they have changed. */
export class Config extends Error {}

/** Takes values by name, and turns them into batches for the hub. */
export class Metrics {
  values = new Map(); // of this tick, by key: `dice.roll{die=0}`
  #ids = new Map();
  #free = [];
  #next = 0;
  #declare = [];
  #gone = new Map();
  #documents = new Map();
  #changed = new Map();

  /** A value that goes up and down. The first time declares its series. */
  gauge(name, value, options) {
    this.#set("gauge", name, value, options);
  }

  /** A total that only grows; the hub shows its rate. */
  counter(name, value, options) {
    this.#set("counter", name, value, options);
  }

  #set(kind, name, value, { unit = "1", description = "", labels = {} } = {}) {
    const pairs = Object.entries(labels).map(([key, text]) => ({ key, value: label(text) }));
    pairs.sort((a, b) => (a.key < b.key ? -1 : 1));
    const inner = pairs.map(({ key, value }) => `${key}=${value}`).join(",");
    const key = inner ? `${name}{${inner}}` : name;
    if (this.#gone.has(key)) {
      // The hub has not been told that it ended.
      this.#ids.set(key, this.#gone.get(key));
      this.#gone.delete(key);
    } else if (!this.#ids.has(key)) {
      const id = this.#free.pop() ?? this.#next++;
      this.#ids.set(key, id);
      this.#declare.push({ id, series: { name, kind, unit, description, labels: pairs } });
    }
    this.values.set(key, value);
  }

  /** Publishes a JSON value, if it is not what was published last. */
  document(name, value) {
    const json = JSON.stringify(value);
    if (this.#documents.get(name) !== json) this.#changed.set(name, json);
    this.#documents.set(name, json);
  }

  /** Ends each series that has no value at this tick. */
  endUnset() {
    for (const [key, id] of this.#ids) {
      if (this.values.has(key)) continue;
      this.#ids.delete(key);
      const unheard = this.#declare.findIndex((declaration) => declaration.id === id);
      if (unheard < 0) this.#gone.set(key, id);
      else this.#free.push(this.#declare.splice(unheard, 1)[0].id);
    }
  }

  /** Begins a tick: nothing has a value. */
  begin() {
    this.values.clear();
  }

  /** What the hub is told of the tick. */
  batch() {
    const [ids, values] = [[], []];
    for (const [key, value] of this.values) {
      ids.push(this.#ids.get(key));
      values.push(value);
    }
    const documents = [...this.#changed].map(([name, json]) => ({ name, json }));
    const gone = [...this.#gone.values()];
    const batch = { declare: this.#declare, ids, values, gone, documents };
    // The batch after this one may use the numbers again.
    this.#free.push(...gone);
    this.#declare = [];
    this.#gone.clear();
    this.#changed.clear();
    return batch;
  }

  /** Drops what a tick brought that ended in a fault. */
  abandon() {
    this.#documents.clear();
    this.#changed.clear();
  }
}

/** What a collector exports: `export const collect = collector(new Dice())`. */
export const collector = (plugin, metrics = new Metrics()) => ({
  configure: (json) => attempt(() => plugin.configure?.(JSON.parse(json))),

  collect(tick) {
    metrics.begin();
    try {
      attempt(() => plugin.collect(tick, metrics));
    } catch (fault) {
      metrics.abandon();
      throw fault;
    }
    return metrics.batch();
  },
});

/** What a detector exports: `export const detect = detector(new Ewma())`. */
export const detector = (plugin) => ({
  configure: (json) => attempt(() => plugin.configure?.(JSON.parse(json))),

  observe(observation) {
    const verdict = { scores: [], findings: [] };
    attempt(() => plugin.observe(observation, verdict));
    return verdict;
  },
});

/** What a plugin exports that keeps what it knows: `export const state = keeper(plugin)`. */
export const keeper = (plugin) => ({
  version: () => plugin.version,
  save: () => plugin.save(),
  restore: (version, bytes) => plugin.restore(version, bytes),
});

/** A finding of which only this is told; `more` has `deviation`, `expected`, …. */
export const finding = (series, type, score, more = {}) => {
  const untold = { deviation: null, expected: null, lower: null, upper: null, note: null };
  return { series, type: { tag: type }, score, ...untold, ...more };
};

/** Throws what the hub understands. */
function attempt(act) {
  try {
    return act();
  } catch (error) {
    if (error instanceof Retry) throw { tag: "retry", val: error.message };
    if (error instanceof Config) throw { tag: "config", val: error.message };
    throw { tag: "fatal", val: String(error.stack ? `${error}\n${error.stack}` : error) };
  }
}

/** A text as a label's value may be: no control characters, at most 256 bytes. */
function label(value) {
  const text = String(value).replace(/\p{Cc}/gu, "\ufffd");
  let [cut, bytes] = ["", 0];
  for (const char of text) {
    const code = char.codePointAt(0);
    bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    if (bytes > 256) break;
    cut += char;
  }
  return cut;
}
