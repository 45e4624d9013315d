import unittest
from types import SimpleNamespace

from app import Dice
from telltale import Metrics


class Rolls(unittest.TestCase):
    def test_a_roll_is_from_one_to_six(self):
        metrics = Metrics()
        for number in range(1000):
            Dice().collect(SimpleNamespace(number=number, time_ns=0), metrics)
            self.assertIn(metrics.values["{{name}}.roll{die=0}"], range(1, 7))
