import assert from "node:assert";
import { test } from "node:test";

import { Dice } from "./app.js";
import { Metrics } from "./telltale.js";

test("a roll is from one to six", () => {
  const metrics = new Metrics();
  for (let number = 0; number < 1000; number++) {
    new Dice().collect({ number, timeNs: 0 }, metrics);
    const roll = metrics.values.get("{{name}}.roll{die=0}");
    assert.ok(roll >= 1 && roll <= 6, `tick ${number}: ${roll}`);
  }
});
