import assert from "node:assert";
import { test } from "node:test";

import { Poller, find } from "./poller.js";
import { Metrics } from "./telltale.js";

const answering = (status, text) => () => ({ status, body: new TextEncoder().encode(text) });

const config = {
  url: "http://api/",
  series: { users: "/users/0/n", up: { pointer: "/up", kind: "counter" }, none: "/none" },
};

test("pointers find numbers", () => {
  const poller = new Poller(answering(200, '{"users": [{"n": 3}], "up": true, "ä": 1}'));
  const metrics = new Metrics();
  poller.configure(config);
  poller.collect({}, metrics);
  assert.deepEqual([...metrics.values], [["users", 3], ["up", 1]]);
  assert.equal(find({ "a/b": { "~": 1 } }, "/a~1b/~0"), 1);
});

test("what can't be had is told", () => {
  for (const [fetch, words] of [
    [answering(500, ""), /answers 500/],
    [answering(200, "{"), /http:\/\/api\//],
    [() => { throw { tag: "denied", val: "http = [\"api\"]" }; }, /http = /],
  ]) {
    const poller = new Poller(fetch);
    poller.configure(config);
    assert.throws(() => poller.collect({}, new Metrics()), words);
  }
  assert.throws(() => new Poller().configure({ ur: "x" }), /`ur`/);
});
