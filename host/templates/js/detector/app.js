// {{name}}: a detector.

// Above this a value is a finding.
const LIMIT = 1e9;

export const detect = {
  configure(configJson) {},

  observe(observation) {
    const findings = [];
    observation.values.forEach((value, index) => {
      if (value > LIMIT && findings.length < 100) {
        findings.push({
          series: observation.ids[index],
          type: { tag: "spike" },
          score: 0.9,
          deviation: value / LIMIT,
          upper: LIMIT,
        });
      }
    });
    return { scores: [], findings };
  },
};
