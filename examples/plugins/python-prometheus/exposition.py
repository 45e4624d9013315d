"""The text in which programs expose their metrics to Prometheus."""

import re

LINE = re.compile(r"^([a-zA-Z_:][\w:]*)\s*(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$")
LABEL = re.compile(r'\s*([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
ESCAPES = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}


def parse(text):
    """Each sample: name, whether it is a total, description, labels and value.

    A histogram is its counters: `_bucket` with the label `le`, `_sum` and
    `_count`. What can't be read is left out.
    """
    types, helps = {}, {}
    for line in text.splitlines():
        if line.startswith("#"):
            words = line.split(None, 3)
            if len(words) > 3 and words[1] == "TYPE":
                types[words[2]] = words[3].strip()
            elif len(words) > 3 and words[1] == "HELP":
                helps[words[2]] = words[3].replace("\\n", " ").replace("\\\\", "\\")
            continue
        sample = LINE.match(line.strip())
        if not sample:
            continue
        name, inner, value = sample.groups()
        family = base(name, types)
        try:
            value = float(value)
        except ValueError:
            continue
        yield name, is_total(name, types.get(family)), helps.get(family, ""), labels(inner), value


def base(name, types):
    """The family that a sample belongs to."""
    stem = re.sub(r"_(bucket|sum|count)$", "", name)
    return stem if name not in types and types.get(stem) in ("histogram", "summary") else name


def is_total(name, kind):
    if kind in ("counter", "histogram"):
        return True
    return kind == "summary" and name.endswith(("_sum", "_count"))


def labels(inner):
    found, at = {}, 0
    while inner and at < len(inner):
        label = LABEL.match(inner, at)
        if not label:
            break
        key, value = label.groups()
        found[key] = re.sub(r'\\[n"\\]', lambda escape: ESCAPES[escape.group()], value)
        at = label.end()
    return found
