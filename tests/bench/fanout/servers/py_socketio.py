"""python-socketio on uvicorn, as its documentation broadcasts: `sio.emit`."""

import json

import socketio
import uvicorn
from common import PLAN, PORT, now, ticks

sio = socketio.AsyncServer(async_mode="asgi", ping_interval=3600)
objects = [json.loads(update) for update in PLAN["updates"]]


async def updates():
    async for _ in ticks():
        stamp = now()
        for update in objects:
            update["time"] = stamp
            await sio.emit("metrics", update)


async def start():
    sio.start_background_task(updates)


app = socketio.ASGIApp(sio, on_startup=start)
uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning", ws_ping_interval=None)
