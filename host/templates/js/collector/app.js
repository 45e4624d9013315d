// {{name}}: a collector.

const series = {
  name: "{{name}}.roll",
  kind: "gauge",
  unit: "1",
  description: "The last roll of a die",
  labels: [],
};
let declared = false;

export const collect = {
  configure(configJson) {},

  collect(tick) {
    // A series is declared once, in the batch in which it first appears.
    const declare = declared ? [] : [{ id: 0, series }];
    declared = true;
    const roll = (Number(tick.number) * 48271) % 6 + 1;
    return { declare, ids: [0], values: [roll], gone: [], documents: [] };
  },
};
