import assert from "node:assert";
import { test } from "node:test";

import { Ewma } from "./ewma.js";

const show = (ewma, value) => {
  const verdict = { scores: [], findings: [] };
  ewma.observe({ ids: [7], values: [value], gone: [] }, verdict);
  return verdict;
};

test("a value far off is found, and the next instance knows what is usual", () => {
  const [ewma, next] = [new Ewma(), new Ewma()];
  for (let tick = 0; tick < 40; tick++) {
    assert.deepEqual(show(ewma, [9, 11][tick % 2]).findings, []);
  }
  next.restore(ewma.version, ewma.save());
  for (const detector of [ewma, next]) {
    const [found] = show(detector, 20).findings;
    assert.equal(found.type.tag, "spike");
    assert.ok(found.deviation > 8 && found.upper < 20);
  }
});

test("a wrong setting is named", () => {
  for (const [config, key] of [[{ alpha: 0 }, /alpha/], [{ treshold: 1 }, /treshold/]]) {
    assert.throws(() => new Ewma().configure(config), key);
  }
});
