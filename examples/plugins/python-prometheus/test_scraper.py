import unittest

from scraper import Scraper
from telltale import Config, Metrics, Retry

EXPOSED = r"""
# HELP http_requests_total Requests\nthat were served.
# TYPE http_requests_total counter
http_requests_total{method="post",path="/a\"b\\n"} 1027 1395066363000
# TYPE up gauge
up 1
rpc:rate  4.7e+2
# TYPE took histogram
took_bucket{le="0.1",} 3
took_bucket{le="+Inf"} 4
took_sum 0.5
took_count 4
nonsense {
bad one
"""


class Scrapes(unittest.TestCase):
    def scrape(self, status, text, metrics):
        scraper = Scraper(lambda url: (status, text.encode()))
        scraper.configure({"url": "http://x/metrics", "prefix": "app."})
        metrics.begin()
        scraper.collect(None, metrics)
        return metrics.batch()

    def test_counters_gauges_and_histograms_become_series(self):
        metrics = Metrics()
        declared, *_ = self.scrape(200, EXPOSED, metrics)
        self.assertEqual(
            metrics.values,
            {
                'app.http_requests_total{method=post,path=/a"b\\n}': 1027.0,
                "app.up": 1.0,
                "app.rpc.rate": 470.0,
                "app.took_bucket{le=0.1}": 3.0,
                "app.took_bucket{le=+Inf}": 4.0,
                "app.took_sum": 0.5,
                "app.took_count": 4.0,
            },
        )
        kinds = [kind for _, (_, kind, *_) in declared]
        self.assertEqual(kinds, ["COUNTER", "GAUGE", "GAUGE"] + ["COUNTER"] * 4)

    def test_what_is_not_exposed_any_more_ends(self):
        metrics = Metrics()
        self.scrape(200, "a 1\nb 2\n", metrics)
        _, ids, _, gone, _ = self.scrape(200, "b 2\n", metrics)
        self.assertEqual((ids, gone), ([1], [0]))

    def test_what_is_wrong_is_told(self):
        self.assertRaisesRegex(Retry, "answers 503", self.scrape, 503, "", Metrics())
        self.assertRaisesRegex(Config, "`ur`", Scraper(None).configure, {"ur": "x"})
