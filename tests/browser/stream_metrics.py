# From AI cost optimizer, "Task 5: WebSocket Real-Time Metrics Streaming" (November 2025), "Python Client (asyncio)".
import asyncio
import json
import websockets

async def stream_metrics():
    uri = "ws://localhost:8000/ws/metrics"

    async with websockets.connect(uri) as websocket:
        print("Connected to metrics stream")

        while True:
            message = await websocket.recv()
            metrics = json.loads(message)
            print(f"Update: {metrics['timestamp']}")
            print(f"Total decisions: {metrics['total_decisions']}")

asyncio.run(stream_metrics())
