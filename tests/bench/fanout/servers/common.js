// What the Node servers share: the plan, the word to begin, the ticks.
"use strict";
const { readFileSync } = require("node:fs");

const port = Number(process.argv[2]);
const plan = JSON.parse(readFileSync(process.argv[3], "utf8"));

// Microseconds since the epoch, which is what `@` in an update stands for.
function now() {
  return String(Math.round((performance.timeOrigin + performance.now()) * 1000));
}

// Calls `tick` at every tick, once a line has come on standard input. A tick
// that is missed since the one before took too long is not made up for.
function ticks(tick) {
  let due;
  const next = () => {
    due = Math.max(due + plan.interval_ms, performance.now());
    setTimeout(() => { tick(); next(); }, due - performance.now());
  };
  process.stdin.once("data", () => {
    due = performance.now();
    next();
  });
}

module.exports = { now, plan, port, ticks };
