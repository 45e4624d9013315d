"""{{name}}: a collector."""

from wit_world import exports
from wit_world.exports.collect import Batch, Declaration
from wit_world.imports import types

SERIES = types.Series("{{name}}.roll", types.Kind.GAUGE, "1", "The last roll of a die", [])


class Collect(exports.Collect):
    declared = False

    def configure(self, config_json):
        pass

    def collect(self, tick):
        # A series is declared once, in the batch in which it first appears.
        declare = [] if Collect.declared else [Declaration(0, SERIES)]
        Collect.declared = True
        roll = (tick.number * 2654435761 >> 16) % 6 + 1
        return Batch(declare, [0], [float(roll)], [], [])
