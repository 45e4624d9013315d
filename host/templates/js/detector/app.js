// {{name}}: a detector.

import { detector, finding } from "./telltale.js";

/** Above this a value is odd. */
const LIMIT = 1e9;

export class Limit {
  observe(observation, verdict) {
    observation.values.forEach((value, index) => {
      // 0.5 at the limit, where a value becomes a finding.
      const score = value > 0 ? value / (value + LIMIT) : 0;
      verdict.scores.push(score);
      if (score >= 0.5) {
        verdict.findings.push(finding(observation.ids[index], "spike", score, { upper: LIMIT }));
      }
    });
  }
}

export const detect = detector(new Limit());
