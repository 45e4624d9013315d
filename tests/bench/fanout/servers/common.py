"""What the Python servers share: the plan, the word to begin, the ticks."""

import asyncio
import json
import sys
import time

PORT = int(sys.argv[1])
with open(sys.argv[2]) as file:
    PLAN = json.load(file)
INTERVAL = PLAN["interval_ms"] / 1000


def now():
    """Microseconds since the epoch, which is what `@` in an update stands for."""
    return str(time.time_ns() // 1000)


async def ticks():
    """Yields at every tick, once a line has come on standard input. A tick that
    is missed since the one before took too long is not made up for."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.readline)
    due = loop.time()
    while True:
        due = max(due + INTERVAL, loop.time())
        await asyncio.sleep(due - loop.time())
        yield


HALVES = [update.split("@") for update in PLAN["updates"]]


def texts():
    """The updates of this tick."""
    stamp = now()
    return [head + stamp + tail for head, tail in HALVES]
