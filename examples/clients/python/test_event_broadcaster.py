"""Runs with `python -m unittest`. The hub here says what a test has it say."""

from __future__ import annotations

import inspect
import json
import threading
import unittest
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock

import event_broadcaster
from event_broadcaster import (
    EventBroadcaster,
    PublishError,
    Receipt,
    SyncEventBroadcaster,
    get_broadcaster,
    init_broadcaster,
)

Json = dict[str, Any]

RECEIPT: Json = {"id": "x", "offset": 7, "rooms": ["global"]}


def error(code: str, temporary: bool = False, **more: Any) -> Json:
    return {"error": {"code": code, "reason": "no", "temporary": temporary, **more}}


class FakeHub(ThreadingHTTPServer):
    """Answers as it is told to, and then with receipts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, Json | bytes] | None] = []
        self.events: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[Any] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/events", self.path
        self.server.events.append(json.loads(body))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.server.connections.add(self.client_address)
        answer = self.server.answers.pop(0) if self.server.answers else (200, RECEIPT)
        if answer is None:
            self.close_connection = True
            return
        status, told = answer
        content = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Case(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.hub = FakeHub()
        thread = threading.Thread(target=self.hub.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.hub.server_close)
        self.addCleanup(self.hub.shutdown)
        self.waits: list[float] = []
        for target, by in [("time.sleep", self.waits.append), ("random.uniform", lambda _, b: b)]:
            patch = mock.patch(f"event_broadcaster.{target}", by)
            patch.start()
            self.addCleanup(patch.stop)

    def broadcaster(self, **more: Any) -> SyncEventBroadcaster:
        broadcaster = SyncEventBroadcaster(self.hub.url, **more)
        self.addCleanup(broadcaster.close)
        return broadcaster

    def test_an_event_is_sent_whole(self) -> None:
        broadcaster = self.broadcaster(token="t")
        at = datetime(2026, 2, 10, tzinfo=UTC)
        receipt = broadcaster.publish(
            "deploy.finished",
            {"id": uuid.UUID(int=1), "at": at},
            source="ci",
            rooms=["project:42"],
            user=7,
        )
        self.assertEqual(receipt, Receipt("x", 7, ["global"]))
        data = {"id": "00000000-0000-0000-0000-000000000001", "at": "2026-02-10T00:00:00+00:00"}
        event = {"type": "deploy.finished", "source": "ci", "data": data}
        self.assertEqual(self.hub.events, [event | {"rooms": ["project:42"], "user": "7"}])
        self.assertEqual(self.hub.headers[0]["authorization"], "Bearer t")

    def test_a_connection_is_used_again(self) -> None:
        broadcaster = self.broadcaster()
        for _ in range(3):
            self.assertTrue(broadcaster.broadcast("a.b"))
        self.assertEqual(len(self.hub.connections), 1)

    def test_what_is_refused_for_now_is_tried_again_with_the_same_key(self) -> None:
        self.hub.answers = [
            (503, error("busy", True, retry_after_ms=500)),
            None,
            (502, b"<html>"),
            (429, error("too_many_requests", True)),
        ]
        self.assertTrue(self.broadcaster().broadcast("a.b"))
        keys = {headers["idempotency-key"] for headers in self.hub.headers}
        self.assertEqual((len(self.hub.events), len(keys)), (5, 1))
        self.assertEqual([round(wait, 3) for wait in self.waits], [0.7, 0.4, 0.8, 1.6])
        self.assertTrue(self.broadcaster().broadcast("a.b"))
        self.assertNotIn(self.hub.headers[-1]["idempotency-key"], keys)

    def test_what_is_refused_is_not(self) -> None:
        self.hub.answers = [(403, error("denied")), (422, error("bad_request")), (200, b"?")]
        broadcaster = self.broadcaster()
        with self.assertRaises(PublishError) as refused:
            broadcaster.publish("a.b")
        self.assertEqual((refused.exception.code, refused.exception.temporary), ("denied", False))
        with self.assertLogs("event_broadcaster", "ERROR") as logs:
            self.assertFalse(broadcaster.broadcast("a.b"))
        self.assertIn("bad_request", logs.output[0])
        with self.assertRaisesRegex(PublishError, "bad_answer"):
            broadcaster.publish("a.b")
        self.assertEqual(len(self.hub.events), 3)

    def test_patience_has_an_end(self) -> None:
        self.hub.answers = [(503, error("busy", True))] * 20
        with self.assertRaisesRegex(PublishError, "busy"):
            self.broadcaster(patience_s=1.0).publish("a.b")
        self.assertEqual([round(wait, 3) for wait in self.waits], [0.2, 0.4, 0.8])

    def test_without_a_hub_nothing_is_raised(self) -> None:
        gone = SyncEventBroadcaster("http://127.0.0.1:1", patience_s=0)
        with self.assertLogs("event_broadcaster", "ERROR") as logs:
            self.assertFalse(gone.broadcast("a.b"))
        self.assertIn("unreachable", logs.output[0])
        with self.assertRaises(ValueError):
            SyncEventBroadcaster("127.0.0.1:8765")

    async def test_each_method_says_its_type(self) -> None:
        """Both kinds have all methods, and send the same."""
        broadcaster = EventBroadcaster(self.hub.url)
        self.addCleanup(broadcaster.close)
        names = [name for name in dir(broadcaster) if name.startswith("broadcast_")]
        self.assertEqual(len(names), 8)
        values = {"changes": {"a": 1}, "metadata": {}, "logs": [], "errors": []}
        for name in names:
            parameters = inspect.signature(getattr(broadcaster, name)).parameters
            arguments = {key: values.get(key, f"the {key}") for key in parameters}
            self.assertTrue(await getattr(broadcaster, name)(**arguments), name)
            sync = self.broadcaster()
            self.assertTrue(getattr(sync, name)(**arguments), name)
            one, other = self.hub.events[-2:]
            for event in (one, other):
                for field in ("created_at", "updated_at"):
                    event["data"].pop(field, None)
            self.assertEqual(one, other)
            family, _, what = name.removeprefix("broadcast_").partition("_")
            self.assertEqual(one["type"], f"{family}.{what}")
            for key in arguments:
                self.assertEqual(one["data"][key], arguments[key], f"{name} {key}")

    async def test_a_program_has_one_broadcaster(self) -> None:
        with mock.patch.object(event_broadcaster, "_broadcaster", None):
            first = init_broadcaster(self.hub.url)
            self.assertIs(get_broadcaster(), first)
            self.assertEqual(await get_broadcaster().publish("a.b"), Receipt("x", 7, ["global"]))
            first.close()


if __name__ == "__main__":
    unittest.main()
