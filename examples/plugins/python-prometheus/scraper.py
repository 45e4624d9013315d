"""Asks a program for the metrics that it exposes to Prometheus."""

from exposition import parse
from telltale import Config, Retry

KEYS = ("url", "prefix")


class Scraper:
    def __init__(self, get):
        """`get` asks an address: the hub's in a plugin, a test's own in tests."""
        self.get = get
        self.url, self.prefix = None, ""

    def configure(self, config):
        for key in config:
            if key not in KEYS:
                raise Config(f"[config] unknown key `{key}`")
        if not isinstance(config.get("url"), str):
            raise Config("[config] url must be an address: `http://localhost:9090/metrics`")
        self.url, self.prefix = config["url"], config.get("prefix", "")

    def collect(self, tick, metrics):
        status, body = self.get(self.url)
        if status != 200:
            raise Retry(f"{self.url} answers {status}")
        for name, total, description, labels, value in parse(body.decode(errors="replace")):
            # A name begins with a letter, and there are 16 labels at most.
            name = self.prefix + name.replace(":", ".").lstrip("_")
            if len(labels) <= 16:
                put = metrics.counter if total else metrics.gauge
                put(name, value, description=description[:256], labels=labels)
        metrics.end_unset()
