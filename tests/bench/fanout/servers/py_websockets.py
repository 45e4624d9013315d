"""websockets, as its documentation broadcasts: `broadcast(connections, message)`."""

import asyncio

from common import PORT, texts, ticks
from websockets.asyncio.server import broadcast, serve

connections = set()


async def handler(connection):
    connections.add(connection)
    try:
        await connection.wait_closed()
    finally:
        connections.remove(connection)


async def main():
    async with serve(handler, "127.0.0.1", PORT, ping_interval=None):
        async for _ in ticks():
            for text in texts():
                broadcast(connections, text)


asyncio.run(main())
