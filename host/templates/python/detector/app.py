"""{{name}}: a detector."""

from telltale import detector

# Above this a value is odd.
LIMIT = 1e9


class Limit:
    def configure(self, config):
        pass

    def observe(self, observation, verdict):
        for series, value in zip(observation.ids, observation.values):
            # 0.5 at the limit, where a value becomes a finding.
            score = value / (value + LIMIT) if value > 0 else 0.0
            verdict.scores.append(score)
            if score >= 0.5:
                verdict.found(series, "spike", score, upper=LIMIT)


Detect = detector(Limit())
