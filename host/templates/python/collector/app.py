"""{{name}}: a collector."""

from telltale import collector


class Dice:
    def configure(self, config):
        pass

    def collect(self, tick, metrics):
        roll = (tick.number * 2654435761 >> 16) % 6 + 1
        metrics.gauge("{{name}}.roll", roll, description="The last roll of a die", labels={"die": 0})


Collect = collector(Dice())
