// How many deviations a value is away from a mean in which the past fades (an
// exponentially weighted moving average).

import { Config, finding } from "./telltale.js";

/** A deviation is never taken for less than this share of the mean, … */
const DEVIATION_SHARE_MIN = 1e-4;
/** … or than this. */
const DEVIATION_MIN = 1e-9;
/** A deviation is told up to this. */
const Z_MAX = 1e6;

const DEFAULTS = { alpha: 0.1, threshold: 4, warm_up: 20 };

export class Ewma {
  version = 1;
  config = DEFAULTS;
  known = new Map(); // count, mean and variance by the series' number

  configure(config) {
    for (const key of Object.keys(config)) {
      if (!(key in DEFAULTS)) throw new Config(`[config] unknown key \`${key}\``);
    }
    const { alpha, threshold, warm_up } = { ...DEFAULTS, ...config };
    if (!(alpha > 0 && alpha <= 1)) throw new Config("[config] alpha must be above 0 and at most 1");
    if (!(threshold > 0)) throw new Config("[config] threshold must be above 0");
    if (!(warm_up >= 2)) throw new Config("[config] warm_up must be 2 or more");
    this.config = { alpha, threshold, warm_up };
  }

  observe(observation, verdict) {
    const { alpha, threshold, warm_up } = this.config;
    for (const id of observation.gone) this.known.delete(id);
    observation.values.forEach((value, index) => {
      const id = observation.ids[index];
      const known = this.known.get(id) ?? [0, 0, 0];
      let score = 0;
      if (known[0] >= warm_up) {
        const found = judge(known, id, value, threshold);
        score = found.score;
        if (score >= 0.5) verdict.findings.push(found);
      }
      this.known.set(id, learn(known, value, alpha));
      verdict.scores.push(score);
    });
  }

  /** `[[id, count, mean, variance], …]` in JSON, as the other languages save it. */
  save() {
    const rows = [...this.known].map(([id, known]) => [id, ...known]);
    return ascii(JSON.stringify(rows.sort((a, b) => a[0] - b[0])));
  }

  restore(version, bytes) {
    if (version !== this.version) return;
    let text = "";
    for (const byte of bytes) text += String.fromCharCode(byte);
    const rows = JSON.parse(text);
    this.known = new Map(rows.map(([id, ...known]) => [id, known]));
  }
}

function judge([, mean, variance], series, value, threshold) {
  const least = Math.max(DEVIATION_MIN, DEVIATION_SHARE_MIN * Math.abs(mean));
  const deviation = Math.max(Math.sqrt(variance), least);
  const z = Math.min(Math.max((value - mean) / deviation, -Z_MAX), Z_MAX);
  const band = threshold * deviation;
  const told = { deviation: z, expected: mean, lower: mean - band, upper: mean + band };
  return finding(series, z > 0 ? "spike" : "drop", Math.abs(z) / (Math.abs(z) + threshold), told);
}

function learn([count, before, spread], value, alpha) {
  const difference = value - before;
  const step = alpha * difference;
  const mean = before + step;
  const variance = (1 - alpha) * (spread + difference * step);
  if (count === 0 || !Number.isFinite(mean) || !Number.isFinite(variance)) return [1, value, 0];
  return [count + 1, mean, variance];
}

const ascii = (text) => Uint8Array.from(text, (char) => char.charCodeAt(0));
