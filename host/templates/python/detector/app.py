"""{{name}}: a detector."""

from wit_world import exports
from wit_world.exports.detect import Finding, FindingType_Spike, Verdict

# Above this a value is a finding.
LIMIT = 1e9


class Detect(exports.Detect):
    def configure(self, config_json):
        pass

    def observe(self, observation):
        findings = [
            Finding(id, FindingType_Spike(), 0.9, value / LIMIT, None, None, LIMIT, None)
            for id, value in zip(observation.ids, observation.values)
            if value > LIMIT
        ]
        return Verdict([], findings[:100])
