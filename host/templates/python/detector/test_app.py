import unittest
from types import SimpleNamespace

from app import LIMIT, Limit
from telltale import Verdict


class Limits(unittest.TestCase):
    def test_a_value_at_the_limit_is_a_finding(self):
        verdict = Verdict()
        Limit().observe(SimpleNamespace(ids=[3, 4], values=[-1.0, LIMIT]), verdict)
        self.assertEqual(verdict.scores, [0.0, 0.5])
        self.assertEqual([series for series, *_ in verdict.findings], [4])
