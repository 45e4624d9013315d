"""What every plugin in Python repeats: numbers of series, batches, faults.

Copied into each project, and yours to change.
"""

import json

try:
    from componentize_py_types import Err
    from wit_world.imports import types
except ImportError:  # a test, without a hub
    types = None


class Retry(Exception):
    """What is needed isn't there just now: the hub asks again."""


class Config(Exception):
    """The settings can't work: the hub waits until they have changed."""


class Metrics:
    """Takes values by name, and turns them into batches for the hub."""

    def __init__(self):
        self.values = {}  # of this tick, by key: `dice.roll{die=0}`
        self._ids, self._free = {}, []
        self._declare, self._gone = {}, {}
        self._documents, self._changed = {}, {}

    def gauge(self, name, value, unit="1", description="", labels={}):
        """A value that goes up and down. The first time declares its series."""
        self._set("GAUGE", name, value, unit, description, labels)

    def counter(self, name, value, unit="1", description="", labels={}):
        """A total that only grows; the hub shows its rate."""
        self._set("COUNTER", name, value, unit, description, labels)

    def _set(self, kind, name, value, unit, description, labels):
        pairs = sorted((key, label(text)) for key, text in labels.items())
        inner = ",".join(f"{key}={text}" for key, text in pairs)
        key = f"{name}{{{inner}}}" if inner else name
        if key in self._gone:  # the hub has not been told that it ended
            self._ids[key] = self._gone.pop(key)
        elif key not in self._ids:
            number = self._free.pop() if self._free else len(self._ids) + len(self._gone)
            self._ids[key] = number
            self._declare[number] = (name, kind, unit, description, pairs)
        self.values[key] = float(value)

    def document(self, name, value):
        """Publishes a JSON value, if it is not what was published last."""
        text = json.dumps(value)
        if self._documents.get(name) != text:
            self._documents[name] = self._changed[name] = text

    def end_unset(self):
        """Ends each series that has no value at this tick."""
        for key in [key for key in self._ids if key not in self.values]:
            number = self._ids.pop(key)
            if self._declare.pop(number, None) is None:
                self._gone[key] = number
            else:
                self._free.append(number)

    def begin(self):
        """Begins a tick: nothing has a value."""
        self.values.clear()

    def batch(self):
        """What the hub is told of the tick, as plain lists."""
        told = (
            list(self._declare.items()),
            [self._ids[key] for key in self.values],
            list(self.values.values()),
            list(self._gone.values()),
            list(self._changed.items()),
        )
        # The batch after this one may use the numbers again.
        self._free.extend(self._gone.values())
        self._declare, self._gone, self._changed = {}, {}, {}
        return told

    def abandon(self):
        """Drops what a tick brought that ended in a fault."""
        self._documents, self._changed = {}, {}


def collector(plugin):
    """What a collector exports: `Collect = collector(Dice())`."""
    metrics = Metrics()

    class Collect:
        def configure(self, config_json):
            attempt(plugin.configure, json.loads(config_json))

        def collect(self, tick):
            metrics.begin()
            try:
                attempt(plugin.collect, tick, metrics)
            except Err:
                metrics.abandon()
                raise
            return to_batch(*metrics.batch())

    return Collect


def detector(plugin):
    """What a detector exports: `Detect = detector(Ewma())`."""

    class Detect:
        def configure(self, config_json):
            attempt(plugin.configure, json.loads(config_json))

        def observe(self, observation):
            verdict = Verdict()
            attempt(plugin.observe, observation, verdict)
            return to_verdict(verdict)

    return Detect


def keeper(plugin):
    """What a plugin exports that keeps what it knows: `State = keeper(plugin)`."""

    class State:
        def version(self):
            return plugin.VERSION

        def save(self):
            return plugin.save()

        def restore(self, from_version, bytes):
            plugin.restore(from_version, bytes)

    return State


class Verdict:
    """Scores, one for each value or none at all, and what is odd."""

    def __init__(self):
        self.scores = []
        self.findings = []

    def found(self, series, kind, score, **more):
        """A finding: `more` has `deviation`, `expected`, `lower`, `upper`, `note`."""
        self.findings.append((series, kind, score, more))


def attempt(act, *arguments):
    """Raises what the hub understands."""
    try:
        return act(*arguments)
    except Retry as error:
        raise Err(types.Fault_Retry(str(error)))
    except Config as error:
        raise Err(types.Fault_Config(str(error)))


def to_batch(declare, ids, values, gone, documents):
    from wit_world.exports.collect import Batch, Declaration

    def series(name, kind, unit, description, pairs):
        labels = [types.Label(key, text) for key, text in pairs]
        return types.Series(name, types.Kind[kind], unit, description, labels)

    return Batch(
        [Declaration(number, series(*parts)) for number, parts in declare],
        ids,
        values,
        gone,
        [types.Document(name, text) for name, text in documents],
    )


def to_verdict(verdict):
    from wit_world.exports import detect

    def finding(series, kind, score, more):
        name = "".join(part.capitalize() for part in kind.split("-"))
        told = [more.get(key) for key in ("deviation", "expected", "lower", "upper", "note")]
        return detect.Finding(series, getattr(detect, f"FindingType_{name}")(), score, *told)

    return detect.Verdict(verdict.scores, [finding(*found) for found in verdict.findings])


def label(value):
    """A text as a label's value may be: no control characters, at most 256 bytes."""
    text = "".join("\ufffd" if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in str(value))
    return text.encode()[:256].decode(errors="ignore")
