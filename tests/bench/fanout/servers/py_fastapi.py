"""FastAPI on uvicorn, as its documentation broadcasts: a list of connections, and
`await connection.send_text(message)` for each."""

import asyncio
from contextlib import asynccontextmanager

import uvicorn
from common import PORT, texts, ticks
from fastapi import FastAPI, WebSocket, WebSocketDisconnect


class ConnectionManager:
    def __init__(self):
        self.active_connections: list[WebSocket] = []

    async def connect(self, websocket: WebSocket):
        await websocket.accept()
        self.active_connections.append(websocket)

    def disconnect(self, websocket: WebSocket):
        self.active_connections.remove(websocket)

    async def broadcast(self, message: str):
        for connection in self.active_connections:
            await connection.send_text(message)


manager = ConnectionManager()


async def updates():
    async for _ in ticks():
        for text in texts():
            await manager.broadcast(text)


@asynccontextmanager
async def lifespan(_):
    task = asyncio.create_task(updates())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.websocket("/ws")
async def endpoint(websocket: WebSocket):
    await manager.connect(websocket)
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        manager.disconnect(websocket)


uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning", ws_ping_interval=None)
