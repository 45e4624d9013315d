"""Tells how the cases of an Autobahn report went; fails if one has failed."""

import collections
import json
import sys

# What cases 1 to 7, 9 and 10 are. Fewer have run if the endpoint went away.
CASES = 301
# "OK" in a case's conduct, and a clean end with the right code.
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}

with open(sys.argv[1]) as file:
    cases = next(iter(json.load(file).values()), {})


def verdict(case):
    """A case is judged by what was said and by how it was closed."""
    said, closed = case["behavior"], case["behaviorClose"]
    if said not in PASSED:
        return "FAILED"
    return said if closed in PASSED else "FAILED"


def place(case):
    return [int(number) for number in case.split(".")]


by_verdict = collections.defaultdict(list)
for name in sorted(cases, key=place):
    by_verdict[verdict(cases[name])].append(name)

for name in ("OK", "NON-STRICT", "INFORMATIONAL", "FAILED"):
    listed = "" if name == "OK" else " ".join(by_verdict[name])
    print(f"{name:<14}{len(by_verdict[name]):>4}  {listed}".rstrip())
for name in by_verdict["FAILED"]:
    case = cases[name]
    print(f"  {name}: {case['behavior']}, closed: {case['behaviorClose']} ({case['remoteCloseCode']})")
if len(cases) != CASES:
    sys.exit(f"{len(cases)} cases of {CASES} were run")
sys.exit(1 if by_verdict["FAILED"] else 0)
