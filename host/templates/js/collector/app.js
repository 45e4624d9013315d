// {{name}}: a collector.

import { collector } from "./telltale.js";

export class Dice {
  collect(tick, metrics) {
    const roll = (Math.floor(Math.abs(Math.sin(tick.number)) * 1e6) % 6) + 1;
    const description = "The last roll of a die";
    metrics.gauge("{{name}}.roll", roll, { description, labels: { die: 0 } });
  }
}

export const collect = collector(new Dice());
