"""How many deviations a value is away from a mean in which the past fades (an
exponentially weighted moving average)."""

import json
import math

from telltale import Config

# A deviation is never taken for less than this share of the mean, …
DEVIATION_SHARE_MIN = 1e-4
# … or than this.
DEVIATION_MIN = 1e-9
# A deviation is told up to this.
Z_MAX = 1e6

DEFAULTS = {"alpha": 0.1, "threshold": 4.0, "warm_up": 20}


class Ewma:
    VERSION = 1

    def __init__(self):
        self.config = DEFAULTS
        self.known = {}  # count, mean and variance by the series' number

    def configure(self, config):
        for key in config:
            if key not in DEFAULTS:
                raise Config(f"[config] unknown key `{key}`")
        config = {**DEFAULTS, **config}
        if not 0 < config["alpha"] <= 1:
            raise Config("[config] alpha must be above 0 and at most 1")
        if not config["threshold"] > 0:
            raise Config("[config] threshold must be above 0")
        if not config["warm_up"] >= 2:
            raise Config("[config] warm_up must be 2 or more")
        self.config = config

    def observe(self, observation, verdict):
        threshold, warm_up = self.config["threshold"], self.config["warm_up"]
        for series in observation.gone:
            self.known.pop(series, None)
        for series, value in zip(observation.ids, observation.values):
            known = self.known.get(series, (0, 0.0, 0.0))
            score = 0.0
            if known[0] >= warm_up:
                kind, score, told = judge(known, value, threshold)
                if score >= 0.5:
                    verdict.found(series, kind, score, **told)
            self.known[series] = learn(known, value, self.config["alpha"])
            verdict.scores.append(score)

    def save(self):
        """`[[id, count, mean, variance], …]` in JSON, as the other languages save it."""
        return json.dumps([[series, *known] for series, known in sorted(self.known.items())]).encode()

    def restore(self, version, bytes):
        if version == self.VERSION:
            self.known = {series: tuple(known) for series, *known in json.loads(bytes)}


def judge(known, value, threshold):
    _, mean, variance = known
    deviation = max(math.sqrt(variance), DEVIATION_MIN, DEVIATION_SHARE_MIN * abs(mean))
    z = min(max((value - mean) / deviation, -Z_MAX), Z_MAX)
    band = threshold * deviation
    told = {"deviation": z, "expected": mean, "lower": mean - band, "upper": mean + band}
    return "spike" if z > 0 else "drop", abs(z) / (abs(z) + threshold), told


def learn(known, value, alpha):
    count, before, spread = known
    difference = value - before
    step = alpha * difference
    mean = before + step
    variance = (1 - alpha) * (spread + difference * step)
    if count == 0 or not math.isfinite(mean) or not math.isfinite(variance):
        return 1, value, 0.0
    return count + 1, mean, variance
