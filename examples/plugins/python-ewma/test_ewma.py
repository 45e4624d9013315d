import unittest
from types import SimpleNamespace

from ewma import Ewma
from telltale import Config, Verdict


def show(ewma, value):
    verdict = Verdict()
    ewma.observe(SimpleNamespace(ids=[7], values=[value], gone=[]), verdict)
    return verdict.findings


class Findings(unittest.TestCase):
    def test_a_value_far_off_is_found_and_the_next_instance_knows_what_is_usual(self):
        ewma, following = Ewma(), Ewma()
        for tick in range(40):
            self.assertEqual(show(ewma, [9.0, 11.0][tick % 2]), [])
        following.restore(Ewma.VERSION, ewma.save())
        for detector in ewma, following:
            [(_, kind, score, told)] = show(detector, 20.0)
            self.assertEqual(kind, "spike")
            self.assertTrue(told["deviation"] > 8 and told["upper"] < 20)

    def test_a_wrong_setting_is_named(self):
        for config, key in [({"alpha": 0}, "alpha"), ({"treshold": 1}, "treshold")]:
            self.assertRaisesRegex(Config, key, Ewma().configure, config)
