import assert from "node:assert";
import { test } from "node:test";

import { detect } from "./app.js";

test("a value at the limit is a finding", () => {
  const verdict = detect.observe({ ids: [3, 4], values: [-1, 1e9] });
  assert.deepEqual(verdict.scores, [0, 0.5]);
  assert.deepEqual(verdict.findings.map((finding) => finding.series), [4]);
});
