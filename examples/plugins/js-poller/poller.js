// Asks an address for JSON, and makes series of what pointers find in it.

import { Config, Retry } from "./telltale.js";

export class Poller {
  config = {};

  /** `fetch` is the hub's, or a test's. */
  constructor(fetch) {
    this.fetch = fetch;
  }

  configure(config) {
    const { url, series, ...unknown } = config;
    for (const key of Object.keys(unknown)) throw new Config(`[config] unknown key \`${key}\``);
    if (typeof url !== "string") throw new Config("[config] url must be an address");
    if (!series || Object.keys(series).length === 0) {
      throw new Config('[config] series must map names to pointers: `"app.users" = "/users/count"`');
    }
    this.config = { url, series };
  }

  collect(tick, metrics) {
    const { url, series } = this.config;
    const answer = this.#get(url);
    for (const [name, described] of Object.entries(series)) {
      const { pointer, unit, kind = "gauge" } =
        typeof described === "string" ? { pointer: described } : described;
      const value = find(answer, pointer);
      if (typeof value === "number" || typeof value === "boolean") {
        const set = kind === "counter" ? metrics.counter : metrics.gauge;
        set.call(metrics, name, Number(value), { unit, description: `${pointer} of ${url}` });
      }
    }
  }

  #get(url) {
    let response;
    try {
      const [headers, body, timeoutMs, bodyLimit] = [[], null, 0, 0];
      response = this.fetch({ method: "GET", url, headers, body, timeoutMs, bodyLimit });
    } catch (error) {
      const { tag, val } = error.payload ?? error;
      if (tag === "denied" || tag === "invalid") throw new Config(val);
      throw new Retry(`${url}: ${tag ?? error}${val ? `: ${val}` : ""}`);
    }
    if (response.status !== 200) throw new Retry(`${url} answers ${response.status}`);
    try {
      return JSON.parse(utf8(response.body));
    } catch (error) {
      throw new Retry(`${url}: ${error.message}`);
    }
  }
}

/** What a JSON pointer (RFC 6901) finds; undefined if there is nothing. */
export function find(value, pointer) {
  const steps = pointer.split("/").slice(1);
  const unescaped = steps.map((step) => step.replace(/~1/g, "/").replace(/~0/g, "~"));
  return unescaped.reduce((inner, step) => inner?.[step], value);
}

/** QuickJS has no TextDecoder. */
function utf8(bytes) {
  let escaped = "";
  for (const byte of bytes) escaped += `%${byte.toString(16).padStart(2, "0")}`;
  return decodeURIComponent(escaped);
}
