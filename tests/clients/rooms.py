"""Follows two rooms and publishes to them: python rooms.py ADDRESS TOKEN_FILE NAME COUNT
It says what it is told, a line each."""

import asyncio
import sys
from functools import partial
from pathlib import Path

from telltale_client import Entry, Fresh, Hub, Refused, Status, connect

ROOMS = ["project:1", "project:2"]
say = partial(print, flush=True)


async def publish(hub: Hub, by: str, count: int) -> None:
    for n in range(count):
        rooms = ROOMS if n % 3 == 0 else [ROOMS[n % 3 - 1]]
        receipt = await hub.publish("test.done", {"by": by, "n": n}, rooms=rooms)
        say("receipt", n, receipt.offset)
        await asyncio.sleep(0.01)


async def main(address: str, token_file: str, by: str, count: str) -> None:
    token = Path(token_file).read_text
    async with connect(f"ws://{address}", token=token) as hub, asyncio.TaskGroup() as tasks:
        for room in ROOMS:
            hub.subscribe(f"room:{room}")
        to_begin = len(ROOMS)
        async for event in hub:
            match event:
                case Fresh(subscription, first, offset):
                    room = subscription.channel.removeprefix("room:")
                    say("fresh" if first else "lost", room, offset)
                    to_begin -= 1
                    if to_begin == 0:
                        tasks.create_task(publish(hub, by, int(count)))
                case Entry(subscription, offset, _, entry):
                    room, data = subscription.channel.removeprefix("room:"), entry["data"]
                    say("entry", room, offset, data["by"], data["n"])
                case Refused(subscription, error):
                    say("refused", subscription.channel, error)
                case Status(state, _, code, reason):
                    say("status", state, code or 0, reason)


asyncio.run(main(*sys.argv[1:5]))
