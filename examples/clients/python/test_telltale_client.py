"""Runs with `python -m unittest`. Hubs here say what a test has them say."""

from __future__ import annotations

import asyncio
import json
import unittest
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, TypeVar
from unittest import mock

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

import telltale_client
from telltale_client import (
    Changed,
    Entry,
    Event,
    Fresh,
    Gap,
    Hub,
    HubError,
    Position,
    Receipt,
    Refused,
    Status,
    Subscription,
)

Json = dict[str, Any]
T = TypeVar("T")

# How long anything is waited for.
LIMIT_S = 20


async def within(what: str, awaited: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(LIMIT_S):
            return await awaited
    except TimeoutError:
        raise AssertionError(f"waited too long for {what}") from None


class Connection:
    """A client, as its hub sees it."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket

    async def command(self, op: str) -> Json:
        command: Json = json.loads(await within(op, self.socket.recv()))
        assert command["op"] == op, f"{command} where {op} was due"
        return command

    async def answer(self, op: str, ok: Json) -> Json:
        """Waits for a command, answers it, and returns it."""
        command = await self.command(op)
        await self.send({"id": command["id"], "ok": ok})
        return command

    async def send(self, *messages: Json) -> None:
        for message in messages:
            await self.socket.send(json.dumps(message))

    async def cut(self) -> None:
        """Breaks the connection without a word."""
        self.socket.transport.abort()
        await within("the end of the connection", self.socket.wait_closed())


class FakeHub:
    """A hub that does nothing by itself."""

    server: Server

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Connection] = asyncio.Queue()
        self.stopping = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def serve(self, socket: ServerConnection) -> None:
        await self.connections.put(Connection(socket))
        await socket.wait_closed()

    def refuse(self, socket: ServerConnection, _: Request) -> Response | None:
        if not self.stopping:
            return None
        response = socket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "stopping")
        response.headers["Retry-After"] = "7"
        return response

    async def accept(self, ping_ms: int = 25_000) -> Connection:
        """The next client, which has been told the terms."""
        connection = await within("a connection", self.connections.get())
        await connection.answer("connect", {"ping_ms": ping_ms})
        return connection


def fresh(sub: int, offset: int, **more: Any) -> Json:
    told = {"channel": "hub", "sub": sub, "recovered": False, "epoch": "e", "offset": offset}
    return {**told, "entries": [], **more}


def recovered(sub: int, offset: int, *offsets: int) -> Json:
    entries = [{"offset": n, "prev": n - 1, "time": "t", "entry": {"n": n}} for n in offsets]
    return fresh(sub, offset) | {"recovered": True, "entries": entries}


def entry(sub: int, offset: int, prev: int, told: Json | None = None) -> Json:
    place = {"push": "hub", "sub": sub, "epoch": "e", "offset": offset, "prev": prev, "time": "t"}
    return {**place, "entry": told or {"n": offset}}


def series(id: int, value: float | None, **more: Any) -> Json:
    return {"id": id, "name": f"s{id}", "labels": {}, "value": value, **more}


def snapshot(sub: int, *told: Json, tick: int = 1, **more: Any) -> Json:
    taken = {"tick": tick, "time": f"t{tick}", "series": list(told)}
    return {"channel": "metrics", "sub": sub, "every": 1, "snapshot": taken, **more}


def push(sub: int, tick: int, **more: Any) -> Json:
    return {"push": "metrics", "sub": sub, "tick": tick, "time": f"t{tick}", **more}


class Case(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.fake = FakeHub()
        self.fake.server = await serve(
            self.fake.serve, "127.0.0.1", 0, process_request=self.fake.refuse
        )
        self.waits: list[float] = []
        self.luck = 0.0
        self.statuses: list[Status] = []

    async def asyncTearDown(self) -> None:
        self.fake.server.close()
        await self.fake.server.wait_closed()

    async def client(self, token: telltale_client.Token | None = None) -> Hub:
        """A client that does not wait, but notes how long it would have."""

        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)
            await asyncio.sleep(0)

        hub = telltale_client.connect(
            self.fake.url, token=token, sleep=sleep, chance=lambda: self.luck
        )
        await self.enterAsyncContext(hub)
        return hub

    async def next(self, hub: Hub) -> Event:
        """The next event that is not of the connection."""
        while True:
            event = await within("an event", anext(hub))
            if not isinstance(event, Status):
                return event
            self.statuses.append(event)

    async def told(self, hub: Hub, *expected: Any) -> None:
        """That these, and nothing else, are told next."""
        for one in expected:
            self.assertEqual(brief(await self.next(hub)), one)

    async def status(self, hub: Hub, state: str) -> Status:
        while True:
            event = await within(state, anext(hub))
            if isinstance(event, Status) and event.state == state:
                return event

    async def settle(self, connection: Connection, hub: Hub) -> None:
        """Waits until what was sent before has been taken in."""
        pinged = asyncio.create_task(hub.ping())
        await connection.answer("ping", {})
        await within("the reply", pinged)


def brief(event: Event) -> Any:
    match event:
        case Entry(_, offset, _, entry):
            return offset if entry.get("n") == offset else (offset, entry)
        case Gap(_, first, last, recovered):
            return f"gap {first} {last} {recovered}"
        case Fresh(_, first, offset):
            return f"{'first' if first else 'fresh'} {offset}"
    return event


class LogChannels(Case):
    async def test_a_lost_connection_is_resumed_and_doubles_are_dropped(self) -> None:
        hub = await self.client()
        subscription = hub.subscribe("hub", filter={"plugin": "a"})
        connection = await self.fake.accept()
        asked = await connection.answer("subscribe", fresh(5, 40))
        self.assertEqual((asked["filter"], "resume" in asked), ({"plugin": "a"}, False))
        await connection.send(entry(5, 42, 40), entry(5, 42, 40), entry(5, 45, 42))
        await self.told(hub, "first 40", 42, 45)
        await connection.cut()
        connection = await self.fake.accept()
        asked = await connection.answer("subscribe", recovered(9, 50, 45, 47, 49))
        self.assertEqual(asked["resume"], {"epoch": "e", "offset": 45})
        await connection.send(entry(9, 49, 47), entry(9, 51, 49))
        await self.told(hub, 47, 49, 51)
        self.assertEqual(subscription.position, Position("e", 51))

    async def test_what_cannot_be_resumed_starts_afresh_and_says_so(self) -> None:
        hub = await self.client()
        findings = hub.subscribe("findings")

        def told(id: str, state: str = "open") -> Json:
            return {"id": id, "state": state}

        connection = await self.fake.accept()
        await connection.answer("subscribe", fresh(5, 40, open=[told("a"), told("b")]))
        await connection.send(entry(5, 41, 40, told("c")), entry(5, 42, 41, told("a", "close")))
        await self.told(hub, "first 40", (41, told("c")), (42, told("a", "close")))
        self.assertEqual(list(findings.open), ["b", "c"])
        await connection.cut()
        connection = await self.fake.accept()
        await connection.answer("subscribe", fresh(1, 7, epoch="another", open=[told("d")]))
        await self.told(hub, "fresh 7")
        self.assertEqual(list(findings.open), ["d"])
        self.assertEqual(findings.position, Position("another", 7))

    async def test_a_gap_shows_by_prev_and_what_is_missing_is_asked_for(self) -> None:
        hub = await self.client()
        hub.subscribe("hub")
        connection = await self.fake.accept()
        await connection.answer("subscribe", fresh(5, 40))
        await connection.send(entry(5, 41, 40), entry(5, 44, 43), entry(5, 45, 44))
        asked = await connection.answer("unsubscribe", {"sub": 5})
        self.assertEqual(asked["sub"], 5)
        asked = await connection.answer("subscribe", recovered(5, 45, 43, 44, 45))
        self.assertEqual(asked["resume"], {"epoch": "e", "offset": 41})
        await connection.send(entry(5, 46, 45))
        await self.told(hub, "first 40", 41, "gap 42 43 True", 43, 44, 45, 46)

    async def test_a_gap_that_the_hub_tells_of_is_told(self) -> None:
        hub = await self.client()
        subscription = hub.subscribe("hub")
        connection = await self.fake.accept()
        await connection.answer("subscribe", fresh(5, 40))
        gap = {"push": "gap", "channel": "hub", "sub": 5}
        await connection.send({**gap, "from": 41, "to": 42}, entry(5, 41, 40), entry(5, 42, 41))
        lost = {"recovered": False, "epoch": "e", "offset": 90, "plugins": [{"name": "p"}]}
        await connection.send({**gap, "from": 43, "to": 90, **lost}, entry(5, 91, 90))
        await self.told(
            hub, "first 40", "gap 41 42 True", 41, 42, "gap 43 90 False", "fresh 90", 91
        )
        self.assertEqual(subscription.position, Position("e", 91))

    async def test_an_entry_of_one_channel_moves_the_position_of_the_others(self) -> None:
        hub = await self.client()
        hub.subscribe("hub")
        hub.subscribe("findings")
        told = {"id": "a", "state": "open"}
        connection = await self.fake.accept()
        await connection.answer("subscribe", fresh(5, 40))
        # The other one is not confirmed yet: what it has missed is in its reply.
        await connection.send(entry(5, 41, 40))
        await connection.answer("subscribe", fresh(6, 43, open=[]))
        await connection.send(entry(5, 44, 41), entry(6, 45, 43, told))
        await connection.send(entry(5, 47, 44), entry(6, 49, 45, told))
        await self.told(hub, "first 40", 41, "first 43", 44, (45, told), 47, (49, told))
        await connection.cut()
        connection = await self.fake.accept()
        asked = [await connection.command("subscribe") for _ in range(2)]
        # The first may have been about to get that very entry, too.
        self.assertEqual([each["resume"]["offset"] for each in asked], [48, 49])
        # The first goes on before the second is answered, which must not lose by it.
        await connection.send({"id": asked[0]["id"], "ok": recovered(5, 50)}, entry(5, 52, 50))
        reply = recovered(6, 52, 51)
        reply["entries"][0]["entry"] = told
        await connection.send({"id": asked[1]["id"], "ok": reply}, entry(6, 53, 51, told))
        await self.told(hub, 52, (51, told), (53, told))

    async def test_what_a_reply_brings_does_not_move_the_position_of_the_others(self) -> None:
        hub = await self.client()
        hub.subscribe("hub")
        connection = await self.fake.accept()
        await connection.answer("subscribe", fresh(5, 40))
        hub.subscribe("hub", filter={"plugin": "b"}, resume=Position("e", 30))
        asked = await connection.answer("subscribe", recovered(6, 45, 31, 45))
        self.assertEqual(asked["resume"], {"epoch": "e", "offset": 30})
        await connection.send(entry(5, 44, 40))
        await self.told(hub, "first 40", 31, 45, 44)

    async def test_who_takes_no_events_is_caught_up_later_and_loses_none(self) -> None:
        hub = await self.client()
        hub.subscribe("hub")
        connection = await self.fake.accept()
        await connection.answer("subscribe", fresh(5, 0))
        with mock.patch.object(telltale_client, "EVENTS_MAX", 10):
            await connection.send(*(entry(5, n, n - 1) for n in range(1, 21)))
            await connection.answer("unsubscribe", {"sub": 5})
            await self.settle(connection, hub)
            self.assertLessEqual(len(hub._events), 10)
            resumed = asyncio.create_task(connection.command("subscribe"))
            seen: list[int] = []
            while not resumed.done():
                event = await self.next(hub)
                if isinstance(event, Entry):
                    seen.append(event.offset)
                await asyncio.sleep(0.01)
            offset = resumed.result()["resume"]["offset"]
            self.assertIn(offset, range(1, 20))
            reply = recovered(5, 20, *range(offset + 1, 21))
            await connection.send({"id": resumed.result()["id"], "ok": reply})
            while len(seen) < 20:
                event = await self.next(hub)
                assert isinstance(event, Entry)
                seen.append(event.offset)
        self.assertEqual(seen, list(range(1, 21)))


class Connections(Case):
    async def test_after_a_bye_it_comes_back_when_it_was_told_to(self) -> None:
        self.luck = 0.5
        hub = await self.client()
        connection = await self.fake.accept()
        await connection.send({"push": "bye", "reconnect_after_ms": 60_000})
        await connection.socket.close(3001, "the hub is stopping")
        status = await self.status(hub, "waiting")
        self.assertEqual((status.code, status.reason), (3001, "the hub is stopping"))
        # From the bye on, and some time has passed since then.
        self.assertTrue(60 - LIMIT_S < self.waits[0] <= 60, self.waits)
        await (await self.fake.accept()).cut()
        await self.status(hub, "waiting")
        self.assertEqual(self.waits[1], 0.25, "the next wait is by chance")

    async def test_waits_double_from_half_a_second_to_thirty_and_are_spread_by_chance(self) -> None:
        for luck in (1.0, 0.25, 0.0):
            self.luck, self.waits = luck, []
            hub = await self.client()
            for _ in range(8):
                await (await self.fake.accept()).cut()
            await self.fake.accept()
            await hub.close()
            most = [0.5, 1, 2, 4, 8, 16, 30, 30]
            self.assertEqual(self.waits, [each * luck for each in most])

    async def test_after_a_good_connection_the_waits_begin_again(self) -> None:
        self.luck = 1.0
        hub = await self.client()
        for _ in range(4):
            await (await self.fake.accept()).cut()
        connection = await self.fake.accept()
        with mock.patch.object(telltale_client, "BACKOFF_MAX_S", 0.0):
            await connection.cut()
            await self.status(hub, "waiting")
            connection = await self.fake.accept()
        await connection.cut()
        await self.fake.accept()
        self.assertEqual(self.waits[:4], [0.5, 1, 2, 4])
        self.assertEqual(self.waits[-1], 1.0)

    async def test_a_stopping_hub_says_when_to_come_back(self) -> None:
        self.fake.stopping = True
        hub = await self.client()
        status = await self.status(hub, "waiting")
        self.assertEqual(status.retry_in_s, 7.0)
        self.fake.stopping = False
        await self.fake.accept()

    async def test_a_hub_that_has_gone_silent_is_pinged_and_given_up(self) -> None:
        hub = await self.client()
        connection = await self.fake.accept(ping_ms=100)
        await connection.answer("ping", {})
        await connection.command("ping")
        status = await self.status(hub, "waiting")
        self.assertEqual(status.reason, "the hub has gone silent")
        await self.fake.accept()

    async def test_some_close_codes_are_the_end(self) -> None:
        for code in (3500, 3999, 1002, 1003, 1007, 1009):
            hub = await self.client()
            waits = asyncio.create_task(hub.history(1))
            connection = await self.fake.accept()
            await connection.command("history")
            await connection.socket.close(code, "no")
            status = await self.status(hub, "closed")
            self.assertEqual((status.code, status.reason), (code, "no"))
            with self.assertRaises(StopAsyncIteration):
                await within("the end", anext(hub))
            with self.assertRaisesRegex(HubError, "disconnected"):
                await waits
            with self.assertRaisesRegex(HubError, "closed"):
                hub.subscribe("hub")
        self.assertEqual(self.waits, [])
        for code in (3000, 3001, 3008, 1001, 1011, 1012):
            hub = await self.client()
            await (await self.fake.accept()).socket.close(code)
            await self.fake.accept()
            await hub.close()
        self.assertTrue(self.fake.connections.empty())

    async def test_a_token_that_the_hub_does_not_take_is_the_end(self) -> None:
        hub = await self.client(token="wrong")
        connection = await within("a connection", self.fake.connections.get())
        command = await connection.command("connect")
        self.assertEqual(command["token"], "wrong")
        error = {"code": "unauthorized", "reason": "not valid", "temporary": False}
        await connection.send({"id": command["id"], "error": error})
        status = await self.status(hub, "closed")
        self.assertEqual(status.reason, "unauthorized: not valid")


class StateChannels(Case):
    @staticmethod
    def values(subscription: Subscription) -> list[tuple[int, float | None]]:
        return [(id, series["value"]) for id, series in subscription.series.items()]

    async def test_series_are_kept_as_the_hub_tells_them(self) -> None:
        hub = await self.client()
        known = hub.subscribe("metrics", filter={"name": "s*"}, form="delta", fields=["name"])
        connection = await self.fake.accept()
        asked = await connection.answer("subscribe", snapshot(5, series(1, 0.5), series(2, None)))
        self.assertEqual((asked["form"], asked["fields"]), ("delta", ["name"]))
        self.assertEqual(await self.next(hub), Changed(known, 1, "t1"))

        declared = {key: value for key, value in series(3, None).items() if key != "value"}
        await connection.send(push(5, 2, values=[[2, 7]], declare=[declared], gone=[1]))
        self.assertEqual(await self.next(hub), Changed(known, 2, "t2", pushes=1))
        self.assertEqual(self.values(known), [(2, 7), (3, None)])

        stale = {"since": "s", "code": "late", "reason": "r"}
        await connection.send(push(5, 3, values=[], stale=[{"id": 2, **stale}]))
        await self.next(hub)
        self.assertEqual(known.series[2]["stale"], stale)
        await connection.send(push(5, 4, values=[[2, 7], [99, 1]]))
        await self.next(hub)
        self.assertIsNone(known.series[2]["stale"])

        await connection.send(push(5, 9, full=True, skipped=4, series=[series(2, 8), series(4, 1)]))
        self.assertEqual(await self.next(hub), Changed(known, 9, "t9", pushes=1, skipped=4))
        self.assertEqual(self.values(known), [(2, 8), (4, 1)])

    async def test_changes_that_were_not_taken_become_one(self) -> None:
        hub = await self.client()
        known = hub.subscribe("metrics")
        connection = await self.fake.accept()
        await connection.answer("subscribe", snapshot(5, series(1, 0)))
        await connection.send(*(push(5, tick, values=[[1, tick]]) for tick in range(2, 2002)))
        await self.settle(connection, hub)
        self.assertEqual(await self.next(hub), Changed(known, 2001, "t2001", pushes=2000))
        self.assertEqual(self.values(known), [(1, 2001)])

    async def test_a_thinned_subscription_has_the_extremes_of_its_interval(self) -> None:
        hub = await self.client()
        known = hub.subscribe("metrics", max_rate_ms=5000)
        connection = await self.fake.accept()
        asked = await connection.answer("subscribe", snapshot(5, series(1, 0.5), every=5))
        self.assertEqual(asked["max_rate_ms"], 5000)
        await connection.send(push(5, 6, values=[[1, 3, 2, 9]]))
        await self.settle(connection, hub)
        one = known.series[1]
        self.assertEqual((known.every, one["value"], one["min"], one["max"]), (5, 3, 2, 9))

    async def test_documents_are_kept_by_plugin_and_name(self) -> None:
        def document(name: str, data: int) -> Json:
            return {"plugin": "p", "name": name, "data": data}

        hub = await self.client()
        known = hub.subscribe("documents")
        connection = await self.fake.accept()
        taken = {"tick": 1, "time": "t", "documents": [document("a", 1), document("b", 1)]}
        await connection.answer("subscribe", {"channel": "documents", "sub": 6, "snapshot": taken})
        gone = [{"plugin": "p", "name": "a"}]
        await connection.send(push(6, 2, documents=[document("b", 2)], gone=gone))
        await self.settle(connection, hub)
        self.assertEqual(known.documents, {("p", "b"): document("b", 2)})
        await connection.send(push(6, 3, full=True, skipped=1, documents=[]))
        await self.settle(connection, hub)
        self.assertEqual(known.documents, {})


class Commands(Case):
    async def test_equal_subscriptions_share_one_which_ends_with_the_last(self) -> None:
        hub = await self.client()
        one, two = hub.subscribe("metrics"), hub.subscribe("metrics")
        connection = await self.fake.accept()
        await connection.answer("subscribe", snapshot(5, series(1, 1)))
        await connection.answer("subscribe", snapshot(5, series(1, 1)))
        await self.settle(connection, hub)
        hub.unsubscribe(one)
        await connection.send(push(5, 3, values=[[1, 3]]))
        await self.settle(connection, hub)
        # One more that is asked for keeps it from ending too early.
        three = hub.subscribe("metrics")
        asked = await connection.command("subscribe")
        hub.unsubscribe(two)
        await connection.send({"id": asked["id"], "ok": snapshot(5, series(1, 3))})
        await self.settle(connection, hub)
        values = [each.series[1]["value"] for each in (one, two, three)]
        self.assertEqual(values, [1, 3, 3])
        hub.unsubscribe(three)
        self.assertEqual((await connection.answer("unsubscribe", {"sub": 5}))["sub"], 5)
        await connection.send(push(5, 9, values=[[1, 9]]))
        await self.settle(connection, hub)
        self.assertEqual(three.tick, 1)

    async def test_commands_are_answered_refused_bounded_and_kept_until_there_is_a_hub(
        self,
    ) -> None:
        hub = await self.client()
        early = asyncio.create_task(hub.history(7, start="s", points=2))
        connection = await self.fake.accept()
        asked = await connection.answer("history", {"points": []})
        query = {"id": asked["id"], "op": "history", "series": 7, "from": "s", "points": 2}
        self.assertEqual(asked, query)
        self.assertEqual(await early, {"points": []})

        refused = asyncio.create_task(hub.history(8))
        asked = await connection.command("history")
        error = {"code": "too_slow", "reason": "r", "temporary": True, "retry_after_ms": 5}
        await connection.send({"id": asked["id"], "error": error})
        with self.assertRaises(HubError) as raised:
            await refused
        told = raised.exception
        self.assertEqual((told.code, told.temporary, told.retry_after_ms), ("too_slow", True, 5))

        many = [asyncio.create_task(hub.ping()) for _ in range(256)]
        await connection.command("ping")
        with self.assertRaisesRegex(HubError, "too_many"):
            await hub.ping()
        await connection.cut()
        results = await within("the end", asyncio.gather(*many, return_exceptions=True))
        self.assertEqual({getattr(each, "code", None) for each in results}, {"disconnected"})
        await self.settle(await self.fake.accept(), hub)

    async def test_a_reply_that_does_not_come_is_not_waited_for_for_ever(self) -> None:
        hub = await self.client()
        await self.fake.accept()
        patience = mock.patch.object(telltale_client, "REPLY_MAX_S", 0.05)
        with patience, self.assertRaisesRegex(HubError, "timeout"):
            await hub.ping()

    async def test_a_snapshot_renews_what_is_kept(self) -> None:
        hub = await self.client()
        known = hub.subscribe("metrics")
        connection = await self.fake.accept()
        with self.assertRaisesRegex(HubError, "not_subscribed"):
            await hub.snapshot(known)
        await connection.answer("subscribe", snapshot(5, series(1, 1)))
        await self.settle(connection, hub)
        renewed = asyncio.create_task(hub.snapshot(known))
        asked = await connection.answer("snapshot", snapshot(5, series(2, 2), tick=9))
        self.assertEqual(asked["sub"], 5)
        self.assertEqual((await renewed)["snapshot"]["tick"], 9)
        self.assertEqual(list(known.series), [2])

    async def test_a_subscription_that_is_refused_is_asked_for_again_if_that_may_help(
        self,
    ) -> None:
        hub = await self.client()
        wanted = hub.subscribe("hub")
        connection = await self.fake.accept()
        asked = await connection.command("subscribe")
        error = {"code": "too_many", "reason": "r", "temporary": True, "retry_after_ms": 5}
        await connection.send({"id": asked["id"], "error": error})
        asked = await connection.command("subscribe")
        error = {"code": "bad_glob", "reason": "r", "temporary": False}
        await connection.send({"id": asked["id"], "error": error})
        refused = await self.next(hub)
        assert isinstance(refused, Refused)
        self.assertEqual((refused.subscription, refused.error.code), (wanted, "bad_glob"))
        self.assertTrue(wanted.ended)


def room(sub: int, offset: int) -> Json:
    return fresh(sub, offset, channel="room:r")


def event(sub: int, offset: int, prev: int, **more: Any) -> Json:
    return entry(sub, offset, prev) | {"push": "room:r"} | more


class Rooms(Case):
    async def offsets(self, hub: Hub, count: int) -> list[tuple[str, int]]:
        """The room and the offset of entries that come, and nothing else."""
        told: list[tuple[str, int]] = []
        while len(told) < count:
            match await self.next(hub):
                case Entry(subscription, offset):
                    told.append((subscription.channel, offset))
                case Fresh(first=True):
                    pass
                case other:
                    self.fail(f"{other}")
        return told

    async def test_an_event_comes_by_one_of_the_rooms_and_moves_the_position_of_all(self) -> None:
        hub = await self.client()
        hub.subscribe("room:a", types=["pr.*"])
        hub.subscribe("room:b")
        log = hub.subscribe("hub")
        with self.assertRaisesRegex(HubError, "bad_request"):
            hub.subscribe("room:a")
        connection = await self.fake.accept()
        asked = await connection.answer("subscribe", room(5, 40))
        self.assertEqual((asked["channel"], asked["types"]), ("room:a", ["pr.*"]))
        await connection.answer("subscribe", room(6, 40))
        await connection.answer("subscribe", fresh(7, 40))
        # Of both rooms, of the second, excluding this connection, of the first.
        excluded = event(6, 44, 42, excluded=True)
        del excluded["entry"]
        await connection.send(event(5, 41, 40), event(6, 42, 41), excluded, event(5, 46, 44))
        told = await self.offsets(hub, 3)
        self.assertEqual(told, [("room:a", 41), ("room:b", 42), ("room:a", 46)])
        assert log.position
        self.assertEqual(log.position.offset, 45)
        await connection.cut()
        connection = await self.fake.accept()
        asks = [await connection.command("subscribe") for _ in range(3)]
        self.assertEqual([ask["resume"]["offset"] for ask in asks], [46, 46, 45])
        # 48 is in both rooms; the second is not answered on this connection.
        await connection.send({"id": asks[0]["id"], "ok": recovered(5, 48, 47, 48)})
        self.assertEqual(await self.offsets(hub, 2), [("room:a", 47), ("room:a", 48)])
        await connection.cut()
        connection = await self.fake.accept()
        asks = [await connection.command("subscribe") for _ in range(3)]
        self.assertEqual([ask["resume"]["offset"] for ask in asks], [48, 46, 45])
        await connection.send(
            {"id": asks[0]["id"], "ok": recovered(5, 50, 50)},
            {"id": asks[1]["id"], "ok": recovered(6, 50, 48, 49)},
        )
        self.assertEqual(await self.offsets(hub, 2), [("room:a", 50), ("room:b", 49)])

    async def test_what_is_missing_in_one_room_is_asked_for_in_all_of_them(self) -> None:
        hub = await self.client()
        one = hub.subscribe("room:a")
        hub.subscribe("room:b")
        connection = await self.fake.accept()
        await connection.answer("subscribe", room(5, 40))
        await connection.answer("subscribe", room(6, 40))
        await self.next(hub)
        await self.next(hub)
        await connection.send(event(5, 43, 42))
        for sub in (5, 6):
            self.assertEqual((await connection.answer("unsubscribe", {}))["sub"], sub)
        for reply in (recovered(7, 43, 42, 43), recovered(8, 43)):
            asked = await connection.answer("subscribe", reply)
            self.assertEqual(asked["resume"]["offset"], 40)
        self.assertEqual(await self.next(hub), Gap(one, 41, 42, True))
        self.assertEqual(await self.offsets(hub, 2), [("room:a", 42), ("room:a", 43)])
        # An event of a room that is not wanted any more may be the other's too.
        await self.settle(connection, hub)
        hub.unsubscribe(one)
        await connection.command("unsubscribe")
        await connection.send(event(7, 44, 43))
        self.assertEqual((await connection.answer("unsubscribe", {}))["sub"], 8)
        asked = await connection.answer("subscribe", recovered(8, 44, 44))
        self.assertEqual(asked["resume"]["offset"], 43)
        self.assertEqual(await self.offsets(hub, 1), [("room:b", 44)])

    async def test_who_takes_no_events_resumes_all_rooms_together(self) -> None:
        hub = await self.client()
        hub.subscribe("room:a")
        hub.subscribe("room:b")
        connection = await self.fake.accept()
        await connection.answer("subscribe", room(5, 0))
        await connection.answer("subscribe", room(6, 0))
        with mock.patch.object(telltale_client, "EVENTS_MAX", 10):
            await connection.send(*(event(5, n, n - 1) for n in range(1, 21)))
            for _ in (5, 6):
                await connection.answer("unsubscribe", {})
            seen: list[int] = []
            resumed = asyncio.create_task(connection.command("subscribe"))
            while not resumed.done():
                told = await self.next(hub)
                if isinstance(told, Entry):
                    seen.append(told.offset)
                await asyncio.sleep(0.01)
            asks = [resumed.result(), await connection.command("subscribe")]
            [offset] = {ask["resume"]["offset"] for ask in asks}
            replies = recovered(5, 20, *range(offset + 1, 21)), recovered(6, 20)
            for ask, reply in zip(asks, replies):
                await connection.send({"id": ask["id"], "ok": reply})
            seen += [n for _, n in await self.offsets(hub, 20 - len(seen))]
        self.assertEqual(seen, list(range(1, 21)))

    async def test_events_of_a_log_that_was_lost_are_not_taken_for_those_of_the_new_one(
        self,
    ) -> None:
        hub = await self.client()
        hub.subscribe("room:a")
        hub.subscribe("room:b")
        connection = await self.fake.accept()
        await connection.answer("subscribe", room(5, 40))
        await connection.answer("subscribe", room(6, 1))
        await connection.cut()
        connection = await self.fake.accept()
        await connection.answer("subscribe", recovered(5, 42, 42))
        self.assertEqual(await self.offsets(hub, 1), [("room:a", 42)])
        await connection.cut()
        connection = await self.fake.accept()
        await connection.answer("subscribe", room(5, 41) | {"epoch": "another"})
        await connection.send(event(5, 42, 41))
        self.assertIsInstance(await self.next(hub), Fresh)
        self.assertEqual(await self.offsets(hub, 1), [("room:a", 42)])

    async def test_who_is_in_a_room_is_kept_as_the_hub_tells_it(self) -> None:
        def users(*names: str) -> list[Json]:
            return [{"user": name, "connections": 1} for name in names]

        hub = await self.client()
        present = hub.subscribe("presence:a")
        connection = await self.fake.accept()
        channel = "presence:a"
        reply = {"channel": channel, "sub": 5, "users": users("ana", "bob")}
        await connection.answer("subscribe", reply)
        await connection.send({"push": channel, "sub": 5, "join": ["cy"], "leave": ["bob"]})
        await self.settle(connection, hub)
        self.assertEqual(present.users, {"ana", "cy"})
        await connection.send({"push": channel, "sub": 5, "full": True, "users": users("dan")})
        await self.settle(connection, hub)
        self.assertEqual(present.users, {"dan"})
        asked = asyncio.create_task(hub.presence("a"))
        command = await connection.answer("presence", {"room": "a", "users": users("dan")})
        self.assertEqual((command["room"], await asked), ("a", users("dan")))


class Publishing(Case):
    async def test_an_event_is_published_until_it_is_safe_with_the_same_key(self) -> None:
        hub = await self.client()
        receipt = {"id": "x", "offset": 9, "rooms": ["a"]}
        publishing = hub.publish("a.b", {"n": 1}, rooms=["a"], exclude_self=True)
        published = asyncio.create_task(publishing)
        connection = await self.fake.accept()
        asked = await connection.command("publish")
        key, id = asked.pop("key"), asked.pop("id")
        self.assertRegex(key, "^[0-9a-f]{32}$")
        draft = {"type": "a.b", "data": {"n": 1}, "rooms": ["a"], "exclude_self": True}
        self.assertEqual((asked, id > 0), ({"op": "publish", **draft}, True))
        await connection.cut()
        connection = await self.fake.accept()
        asked = await connection.command("publish")
        error = {"code": "busy", "reason": "r", "temporary": True, "retry_after_ms": 1}
        await connection.send({"id": asked["id"], "error": error})
        again = await connection.answer("publish", receipt)
        self.assertEqual({asked["key"], again["key"]}, {key})
        self.assertEqual(await published, Receipt("x", 9, ["a"]))

        refused = asyncio.create_task(hub.publish("a.b", key="mine"))
        asked = await connection.command("publish")
        self.assertEqual(asked["key"], "mine")
        error = {"code": "denied", "reason": "r", "temporary": False}
        await connection.send({"id": asked["id"], "error": error})
        with self.assertRaisesRegex(HubError, "denied"):
            await refused
        many = [asyncio.create_task(hub.publish("a.b")) for _ in range(5)]
        await connection.command("publish")
        bound = mock.patch.object(telltale_client, "PUBLISHING_MAX", 5)
        with bound, self.assertRaisesRegex(HubError, "too_many"):
            await hub.publish("a.b")
        await hub.close()
        results = await within("the end", asyncio.gather(*many, return_exceptions=True))
        self.assertEqual({getattr(each, "code", None) for each in results}, {"closed"})

    async def test_an_event_that_is_longer_than_the_hub_takes_is_not_sent(self) -> None:
        hub = await self.client()
        connection = await within("a connection", self.fake.connections.get())
        await connection.answer("connect", {"ping_ms": 25_000, "message_bytes_max": 200})
        with self.assertRaisesRegex(HubError, "too_large"):
            await hub.publish("a.b", "x" * 200)
        fits = asyncio.create_task(hub.publish("a.b"))
        await connection.answer("publish", {"id": "x", "offset": 9, "rooms": []})
        await fits


class Tokens(Case):
    async def connected(self, **terms: Any) -> tuple[Connection, str]:
        connection = await within("a connection", self.fake.connections.get())
        command = await connection.answer("connect", {"ping_ms": 25_000, **terms})
        return connection, command["token"]

    async def test_one_is_asked_for_on_each_connection_and_renewed_before_it_expires(self) -> None:
        tokens = ["one", "two", "three", "four", "five"]

        async def token() -> str:
            return tokens.pop(0)

        def soon() -> str:
            return (datetime.now(UTC) + timedelta(seconds=1.4)).isoformat()

        hub = await self.client(token)
        narrowed = hub.subscribe("room:a")
        connection, shown = await self.connected(expires=soon())
        self.assertEqual(shown, "one")
        await connection.answer("subscribe", room(5, 40))
        asked = await connection.answer("refresh", {"expires": soon(), "ended": [5]})
        self.assertEqual(asked["token"], "two")
        self.assertIsInstance(await self.next(hub), Fresh)
        refused = await self.next(hub)
        assert isinstance(refused, Refused)
        self.assertEqual((refused.subscription, refused.error.code), (narrowed, "denied"))
        # One that is refused is shown on another connection.
        asked = await connection.command("refresh")
        error = {"code": "bad_request", "reason": "r", "temporary": False}
        await connection.send({"id": asked["id"], "error": error})
        self.assertEqual(asked["token"], "three")
        connection, shown = await self.connected()
        self.assertEqual(shown, "four")
        # After one that has expired all the same there is another …
        await connection.socket.close(3505, "the token has expired")
        connection, shown = await self.connected()
        self.assertEqual(shown, "five")
        # … but a user whose connections were ended does not come back.
        await connection.socket.close(3503, "ended")
        self.assertEqual((await self.status(hub, "closed")).code, 3503)

    async def test_without_another_an_expired_one_is_the_end(self) -> None:
        hub = await self.client("one")
        await (await self.fake.accept()).socket.close(3505, "the token has expired")
        self.assertEqual((await self.status(hub, "closed")).code, 3505)

    async def test_while_there_is_none_it_is_tried_again(self) -> None:
        tokens = iter(["late"])

        def token() -> str:
            if not self.waits:
                raise OSError("nobody there")
            return next(tokens)

        hub = await self.client(token)
        self.assertEqual((await self.status(hub, "waiting")).reason, "no token: nobody there")
        self.assertEqual((await self.connected())[1], "late")


if __name__ == "__main__":
    unittest.main()
