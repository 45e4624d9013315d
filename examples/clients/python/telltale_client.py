"""A client of telltale's native protocol (docs/protocol.md), for asyncio.

    async with connect("http://127.0.0.1:8765") as hub:
        load = hub.subscribe("metrics", filter={"name": "system.cpu.load*"})
        async for event in hub:
            if isinstance(event, Changed):
                print({series["name"]: series["value"] for series in load.series.values()})

A connection that is lost comes back by itself: its subscriptions are made again,
state channels start with all that is known, and log channels and rooms go on after
the last entry that was seen, so that each entry comes once. What is published is sent
again until it is safe, and counts once.

As a program it watches a hub: python telltale_client.py [ADDRESS [GLOB [TICKS]]]
A token for that is taken from TOKEN in the environment.

Needs Python 3.11 and the package `websockets`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import random
import secrets
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self
from urllib.parse import urlsplit

import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

Json = dict[str, Any]
Answer = Callable[["HubError | None", Json], None]
Token = str | Callable[[], str | Awaitable[str]]

# The first wait before a connection is tried again is at most this long; each
# further one may be twice as long as the one before.
BACKOFF_S = 0.5
# The longest wait. A connection that held for so long was a good one, after which
# the waits start from the beginning.
BACKOFF_MAX_S = 30.0
# How long a connection may take to stand.
OPEN_MAX_S = 10.0
# How long a closing handshake may take.
CLOSE_MAX_S = 1.0
# How long a reply may take: several times what the hub gives a history.
REPLY_MAX_S = 30.0
# Silence after which the hub is asked whether it is there, until it has said what
# it wants.
PING_S = 25.0
# Commands of the caller that wait for a reply; one more is refused.
COMMANDS_MAX = 256
# When a subscription or an event that was refused for now is tried again, unless the
# hub says.
RETRY_S = 10.0
# Events that wait until they are safe; one more is refused.
PUBLISHING_MAX = 256
# A token is renewed after this part of what is left of it, so that there is time to
# try again …
REFRESH_AFTER = 0.75
# … but not more often, nor more seldom, than this.
REFRESH_MIN_S, REFRESH_MAX_S = 1.0, 86_400.0
# Events that are known to have come while another room had not come as far. As many
# as the hub lets a client catch up with.
SEEN_MAX = 10_000
# What a command's id takes at most in its message.
ID_BYTES = 32
# The close code of a token that has expired.
EXPIRED = 3505
# Events that wait for the caller. A log channel that finds no room is given up
# until half of them are taken, and resumed then: nothing is lost, and what waits
# is never more than this and one reply of each subscription.
EVENTS_MAX = 1000
# The largest message: the snapshot of more series than a hub can have.
MESSAGE_BYTES_MAX = 64 * 1024 * 1024


class HubError(Exception):
    """Why a command was not obeyed."""

    def __init__(
        self,
        code: str,
        reason: str,
        temporary: bool = False,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        """A word that programs can compare."""
        self.temporary = temporary
        """The same command may do later …"""
        self.retry_after_ms = retry_after_ms
        """… after this long, if the hub says."""


@dataclass(slots=True)
class Changed:
    """What a subscription to a state channel keeps is now as of `tick`, which
    `presence` does not tell."""

    subscription: Subscription
    tick: int
    time: str
    pushes: int = 0
    """How many pushes this stands for: those that came before it was taken. None
    if it is only the snapshot that a subscription starts with."""
    skipped: int = 0
    """Pushes that the hub left out, since this client was slow."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a log channel or a room; each comes once, in order. An event that
    goes to several of the client's rooms comes to one of them."""

    subscription: Subscription
    offset: int
    time: str
    entry: Json


@dataclass(frozen=True, slots=True)
class Gap:
    """These entries of a log channel did not come when they were due. They follow,
    unless they are not `recovered`: then a `Fresh` says where it goes on."""

    subscription: Subscription
    first: int
    last: int
    recovered: bool


@dataclass(frozen=True, slots=True)
class Fresh:
    """A log channel starts here, with what stands now. Unless it is the `first`
    time, entries were lost before."""

    subscription: Subscription
    first: bool
    offset: int
    plugins: list[Json]
    """`hub`: the plugins. What is open of `findings` is in the subscription."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The hub does not allow a subscription, or not any more; it has ended."""

    subscription: Subscription
    error: HubError


@dataclass(frozen=True, slots=True)
class Status:
    """How the connection is doing."""

    state: str
    """`connecting`, `open`, `waiting` or `closed`; after that nothing comes."""
    retry_in_s: float | None = None
    """`waiting`: when it connects again."""
    code: int | None = None
    """`waiting`, `closed`: the close code, if there was one."""
    reason: str = ""
    """`waiting`, `closed`: why, in words."""
    hub: Json | None = None
    """`open`: the hub's terms, as in the reply to `connect`."""


Event = Changed | Entry | Gap | Fresh | Refused | Status


@dataclass(frozen=True, slots=True)
class Position:
    """Where a client is in the log."""

    epoch: str
    offset: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """Of an event that is safe."""

    id: str
    offset: int
    rooms: list[str]


@dataclass(eq=False, slots=True)
class Subscription:
    """One subscription, and what it keeps current. Made by `Hub.subscribe`."""

    channel: str
    command: Json
    position: Position | None
    """Log channels: where it is."""
    series: dict[int, Json] = field(default_factory=dict)
    """`metrics`: the series by id. `value` is None where there is none, `stale`
    says why it is old; thinned ones have `min` and `max`, too."""
    documents: dict[tuple[str, str], Json] = field(default_factory=dict)
    """`documents`: the documents by plugin and name."""
    users: set[str] = field(default_factory=set)
    """`presence`: the users in the room."""
    open: dict[str, Json] = field(default_factory=dict)
    """`findings`: those that are open, by id."""
    tick: int | None = None
    """`metrics` and `documents`: the tick of what is kept."""
    time: str | None = None
    """`metrics` and `documents`: the time of that tick."""
    every: int = 1
    """`metrics`: ticks between two pushes."""
    sub: int | None = None
    """The hub's number of it on this connection."""
    ended: bool = False
    """Nothing comes any more."""
    _waiting: Changed | None = None

    @property
    def is_log(self) -> bool:
        """Whether it is one of the numbered log."""
        return self.is_room or self.channel in ("findings", "hub")

    @property
    def is_room(self) -> bool:
        """Whether it is of a room's events."""
        return _is_room(self.channel)

    def _change(self, push: Json) -> None:
        self.tick, self.time = push.get("tick"), push.get("time")
        if self.channel == "metrics":
            _change_series(self.series, push)
        elif self.channel == "documents":
            _change_documents(self.documents, push)
        else:
            _change_users(self.users, push)

    def _has_seen(self, offset: int) -> None:
        if self.position and self.position.offset < offset:
            self.position = Position(self.position.epoch, offset)

    def _note(self, entry: Json) -> None:
        if self.channel == "findings":
            if entry["state"] == "open":
                self.open[entry["id"]] = entry
            else:
                self.open.pop(entry["id"], None)


def _change_series(known: dict[int, Json], push: Json) -> None:
    if push.get("full"):
        known.clear()
    for id in push.get("gone", ()):
        known.pop(id, None)
    for told in (*push.get("series", ()), *push.get("declare", ())):
        known[told["id"]] = {"value": None, "stale": None, **told}
    for id, value, *extremes in push.get("values", ()):
        if one := known.get(id):
            # A value also ends what was stale.
            one.update(value=value, stale=None)
            one.update(zip(("min", "max"), extremes))
    for told in push.get("stale", ()):
        if one := known.get(told["id"]):
            one["stale"] = {key: told[key] for key in told if key != "id"}


def _change_documents(known: dict[tuple[str, str], Json], push: Json) -> None:
    if push.get("full"):
        known.clear()
    for document in push.get("gone", ()):
        known.pop((document["plugin"], document["name"]), None)
    for document in push.get("documents", ()):
        known[document["plugin"], document["name"]] = document


def _change_users(known: set[str], push: Json) -> None:
    if push.get("full"):
        known.clear()
    known.update(present["user"] for present in push.get("users", ()))
    known.difference_update(push.get("leave", ()))
    known.update(push.get("join", ()))


def _is_room(channel: str) -> bool:
    return channel.startswith("room:")


def _state(reply: Json) -> Json:
    """What a reply says of a state channel."""
    return {"full": True, **reply.get("snapshot", {"users": reply.get("users", ())})}


@dataclass(eq=False, slots=True)
class _Event:
    """An event that is not known to be safe."""

    command: Json
    done: asyncio.Future[Json]


@dataclass(slots=True)
class _Command:
    text: str
    answer: Answer
    is_call: bool
    sent: bool = False


class _Lost(Exception):
    """The connection is gone, or is given up."""

    def __init__(self, reason: str, code: int | None = None, wait_s: float = 0) -> None:
        super().__init__(reason)
        self.reason, self.code, self.wait_s = reason, code, wait_s

    @property
    def is_final(self) -> bool:
        """The hub says so, or this client broke the WebSocket protocol."""
        code = self.code or 0
        return 3500 <= code <= 3999 or code in (1002, 1003, 1007, 1009)


class _Forbidden(Exception):
    """The hub does not let us in."""


def connect(
    url: str,
    *,
    token: Token | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    chance: Callable[[], float] = random.random,
) -> Hub:
    """A hub to be used with `async with`, which stays connected until that ends.

    `url` is the hub's address (`http://127.0.0.1:8765`), or that of its stream
    (`ws://127.0.0.1:8765/v1/stream`). A function as `token`, which may be async, is
    asked for one on each connection, and before the last one expires. `sleep` and
    `chance` are for tests.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = parts.path if parts.path not in ("", "/") else "/v1/stream"
    return Hub(parts._replace(scheme=scheme, path=path).geturl(), token, sleep, chance)


class Hub:
    """A hub, as seen through one connection at a time, and what it tells."""

    def __init__(
        self,
        url: str,
        token: Token | None,
        sleep: Callable[[float], Awaitable[None]],
        chance: Callable[[], float],
    ) -> None:
        """Use `connect`."""
        self._url, self._token, self._sleep, self._chance = url, token, sleep, chance
        self._subscriptions: list[Subscription] = []
        # Those that the hub has confirmed on this connection, by its number:
        # equal ones share it.
        self._confirmed: dict[int, list[Subscription]] = {}
        # Subscriptions that were asked for and not yet answered.
        self._asking = 0
        # Those that wait until the caller has taken what is there.
        self._behind: list[Subscription] = []
        # What waits for a reply, by its id: the caller's commands and our own.
        self._commands: dict[int, _Command] = {}
        self._next_id = 1
        # What is to be sent on this connection; none while there is none.
        self._outgoing: asyncio.Queue[str] | None = None
        self._events: deque[Event] = deque()
        self._something = asyncio.Event()
        self._attempt = 0
        self._come_back_at: float | None = None
        self._ping_s = PING_S
        # The hub's terms, once it has let us in.
        self._terms: Json | None = None
        # Renews the token.
        self._refresh: asyncio.Task[None] | None = None
        # Events that are not known to be safe, in their order.
        self._publishing: dict[_Event, None] = {}
        # The offsets of events beyond the position of one of the rooms: what came in
        # the reply to one room, before the connection was lost, must not come again
        # by another that had not been answered.
        self._seen: dict[int, None] = {}
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """The next event. Where it takes long to be asked for, changes become one,
        and log channels are resumed when there is room again."""
        while not self._events:
            if self._ended:
                await self._failure()
                raise StopAsyncIteration
            self._something.clear()
            await self._something.wait()
        event = self._events.popleft()
        if isinstance(event, Changed):
            event.subscription._waiting = None
        if self._behind and len(self._events) <= EVENTS_MAX // 2:
            behind, self._behind = self._behind, []
            for subscription in behind:
                self._ask(subscription)
        return event

    def subscribe(
        self,
        channel: str,
        *,
        filter: Json | None = None,
        types: list[str] | None = None,
        max_rate_ms: int | None = None,
        form: str | None = None,
        fields: list[str] | None = None,
        resume: Position | None = None,
    ) -> Subscription:
        """Subscribes now and on each later connection. See docs/protocol.md. A room is
        the channel `room:<room>`, and can be had once."""
        if self._ended:
            raise _closed()
        # The hub tells each event of a room once on a connection.
        if any(one.channel == channel for one in self._rooms()):
            raise HubError("bad_request", f"{channel} is subscribed to")
        wanted = {
            "channel": channel,
            "filter": filter,
            "types": types,
            "max_rate_ms": max_rate_ms,
            "form": form,
            "fields": fields,
        }
        command = {key: value for key, value in wanted.items() if value is not None}
        subscription = Subscription(channel, {"op": "subscribe", **command}, resume)
        self._subscriptions.append(subscription)
        self._ask(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription. What was told before may still be taken."""
        subscription.ended = True
        lists = [self._subscriptions, self._behind, *self._confirmed.values()]
        for subscriptions in lists:
            if subscription in subscriptions:
                subscriptions.remove(subscription)
        self._tidy()

    async def history(
        self,
        series: int,
        *,
        start: str | int | None = None,
        end: str | int | None = None,
        points: int | None = None,
        raw: bool | None = None,
    ) -> Json:
        """The samples of a series, as the reply in docs/protocol.md."""
        wanted = {"from": start, "to": end, "points": points, "raw": raw}
        query = {key: value for key, value in wanted.items() if value is not None}
        return await self._call({"op": "history", "series": series, **query})

    async def presence(self, room: str) -> list[Json]:
        """Who is in a room: `user` and `connections` of each."""
        users: list[Json] = (await self._call({"op": "presence", "room": room}))["users"]
        return users

    async def publish(
        self,
        type: str,
        data: Any = None,
        *,
        source: str | None = None,
        rooms: list[str] | None = None,
        user: str | None = None,
        exclude_self: bool | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publishes an event; docs/events.md has the rules. It is sent again, with the
        same key, until the hub has said that it is safe or is refused: it counts once,
        whatever becomes of connections and of the hub meanwhile."""
        if self._ended:
            raise _closed()
        if len(self._publishing) >= PUBLISHING_MAX:
            reason = f"{PUBLISHING_MAX} events are not known to be safe"
            raise HubError("too_many", reason, temporary=True)
        wanted = {
            "type": type,
            "data": data,
            "source": source,
            "rooms": rooms,
            "user": user,
            "exclude_self": exclude_self,
            "key": key or secrets.token_hex(16),
        }
        command = {key: value for key, value in wanted.items() if value is not None}
        done = asyncio.get_running_loop().create_future()
        event = _Event({"op": "publish", **command}, done)
        self._publishing[event] = None
        try:
            self._send(event)
            receipt = await done
        finally:
            self._publishing.pop(event, None)
        return Receipt(receipt["id"], receipt["offset"], receipt["rooms"])

    async def snapshot(self, subscription: Subscription) -> Json:
        """What a subscription would be told if it began now. What is kept of a
        state channel becomes that."""
        if subscription.sub is None:
            raise HubError("not_subscribed", "not confirmed yet", temporary=True)
        reply = await self._call({"op": "snapshot", "sub": subscription.sub})
        # One from before a push that has come meanwhile is old.
        state = _state(reply)
        if not subscription.is_log and state.get("tick", 0) >= (subscription.tick or 0):
            subscription._change(state)
            self._tell_change(subscription, pushes=0, skipped=0)
        return reply

    async def ping(self) -> None:
        """Asks the hub for a sign of life."""
        await self._call({"op": "ping"})

    async def close(self) -> None:
        """Ends the connection and all that hangs on it."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._end(Status("closed", reason="closed here"))

    # The life of a connection.

    async def _run(self) -> None:
        try:
            await self._stay_connected()
        except Exception as error:
            self._end(Status("closed", reason=f"this client cannot go on: {error!r}"))
            raise

    async def _failure(self) -> None:
        """Raises what this client has stumbled over, if it has."""
        if self._task and self._task.done() and not self._task.cancelled():
            await self._task

    async def _stay_connected(self) -> None:
        while True:
            try:
                await self._connect()
            except _Forbidden as forbidden:
                self._end(Status("closed", reason=str(forbidden)))
                return
            except _Lost as lost:
                self._drop()
                # After a token that has expired there may be another.
                if lost.is_final and not (lost.code == EXPIRED and self._renews):
                    self._end(Status("closed", code=lost.code, reason=lost.reason))
                    return
                wait_s = self._wait_s() + lost.wait_s
                self._tell(Status("waiting", wait_s, lost.code, lost.reason))
                await self._sleep(wait_s)

    async def _connect(self) -> None:
        """One connection, from its beginning to its loss."""
        self._tell(Status("connecting"))
        try:
            async with asyncio.timeout(OPEN_MAX_S):
                token = await self._new_token()
        except Exception as error:
            raise _Lost(f"no token: {error}") from error
        try:
            opening = websockets.connect(
                self._url,
                subprotocols=[Subprotocol("telltale.v1.json")],
                open_timeout=OPEN_MAX_S,
                close_timeout=CLOSE_MAX_S,
                max_size=MESSAGE_BYTES_MAX,
                # The hub's frames are shared by all who want the same.
                compression=None,
                # It pings by commands, which show that more than the socket lives.
                ping_interval=None,
                proxy=None,
            )
            socket = await opening
        except InvalidStatus as refusal:
            after = refusal.response.headers.get("Retry-After", "")
            wait_s = float(after) if after.isdigit() else 0.0
            raise _Lost(str(refusal), wait_s=wait_s) from refusal
        except (OSError, InvalidHandshake, EOFError, TimeoutError) as error:
            raise _Lost(str(error) or "the hub did not answer in time") from error
        opened = asyncio.get_running_loop().time()
        async with socket:
            self._outgoing = asyncio.Queue()
            writer = asyncio.create_task(self._write(socket, self._outgoing))
            try:
                self._opened(token)
                await self._read(socket)
            finally:
                writer.cancel()
                if self._refresh:
                    self._refresh.cancel()
                self._outgoing = self._terms = self._refresh = None
                if asyncio.get_running_loop().time() - opened >= BACKOFF_MAX_S:
                    self._attempt = 0

    def _opened(self, token: str | None) -> None:
        connect = {"op": "connect"} | ({"token": token} if token else {})
        self._command(connect, self._welcome)
        for subscription in self._subscriptions:
            if subscription not in self._behind:
                self._ask(subscription)
        for command in self._commands.values():
            self._transmit(command)

    def _welcome(self, error: HubError | None, hub: Json) -> None:
        if error and error.temporary:
            raise _Lost(str(error), wait_s=(error.retry_after_ms or 0) / 1000)
        if error:
            raise _Forbidden(str(error))
        self._terms = hub
        self._ping_s = hub.get("ping_ms", PING_S * 1000) / 1000
        self._keep_token(hub.get("expires"))
        for event in list(self._publishing):
            self._send(event)
        self._tell(Status("open", hub=hub))

    # Tokens.

    @property
    def _renews(self) -> bool:
        """Whether there may be another token than the last."""
        return callable(self._token)

    async def _new_token(self) -> str | None:
        token = self._token
        if not callable(token):
            return token
        given = token()
        return await given if inspect.isawaitable(given) else given

    def _keep_token(self, expires: str | None) -> None:
        """Has the token renewed before it expires, if that can be done."""
        if self._refresh:
            self._refresh.cancel()
            self._refresh = None
        if expires and self._renews:
            self._refresh = asyncio.create_task(self._renew(expires))

    async def _renew(self, expires: str) -> None:
        while True:
            left_s = (datetime.fromisoformat(expires) - datetime.now(UTC)).total_seconds()
            await asyncio.sleep(min(max(left_s * REFRESH_AFTER, REFRESH_MIN_S), REFRESH_MAX_S))
            try:
                token = await self._new_token()
            except Exception:
                continue  # There is none just now.
            refreshed = partial(self._refreshed, expires)
            self._command({"op": "refresh", "token": token}, refreshed)
            return

    def _refreshed(self, expires: str, error: HubError | None, ok: Json) -> None:
        if error and not error.temporary:
            # It is another user's, or allows to read something else: that takes
            # another connection.
            raise _Lost(str(error))
        if error:
            self._keep_token(expires)
            return
        self._keep_token(ok["expires"])
        for sub in ok["ended"]:
            self._denied(sub)

    def _denied(self, sub: int) -> None:
        """The new token does not allow this subscription."""
        error = HubError("denied", "the new token does not allow it")
        for subscription in self._confirmed.pop(sub, []):
            self._not_allowed(subscription, error)

    async def _read(self, socket: ClientConnection) -> None:
        pinged = False
        while True:
            try:
                async with asyncio.timeout(self._ping_s):
                    text = await socket.recv()
            except TimeoutError:
                if pinged:
                    raise _Lost("the hub has gone silent") from None
                pinged = True
                self._command({"op": "ping"}, lambda error, ok: None)
                continue
            except ConnectionClosed as closed:
                reason = socket.close_reason or str(closed)
                raise _Lost(reason, socket.close_code) from closed
            pinged = False
            try:
                message = json.loads(text)
            except ValueError as error:
                raise _Lost("the hub sent what is not JSON") from error
            self._hear(message)

    @staticmethod
    async def _write(socket: ClientConnection, outgoing: asyncio.Queue[str]) -> None:
        try:
            while True:
                await socket.send(await outgoing.get())
        except ConnectionClosed:
            pass  # The reader learns it, too.

    def _wait_s(self) -> float:
        """How long to wait until the next connection: as the hub has said, or by
        chance, which spreads the clients of a hub that has gone."""
        if self._come_back_at is not None:
            wait_s = self._come_back_at - asyncio.get_running_loop().time()
            self._come_back_at, self._attempt = None, 0
            return max(0.0, wait_s)
        most = min(BACKOFF_MAX_S, BACKOFF_S * 2.0**self._attempt)
        self._attempt = min(self._attempt + 1, 16)
        return self._chance() * most

    def _drop(self) -> None:
        """Forgets the connection, and what was asked on it."""
        self._confirmed.clear()
        self._asking = 0
        for subscription in self._subscriptions:
            subscription.sub = None
        sent = [(id, command) for id, command in self._commands.items() if command.sent]
        gone = HubError("disconnected", "the connection was lost before the reply", True)
        for id, command in sent:
            del self._commands[id]
            if command.is_call:
                command.answer(gone, {})

    def _end(self, status: Status) -> None:
        if self._ended:
            return
        self._ended = True
        self._drop()
        for command in self._commands.values():
            command.answer(_closed(), {})
        self._commands.clear()
        for event in self._publishing:
            if not event.done.done():
                event.done.set_exception(_closed())
        self._publishing.clear()
        for subscription in self._subscriptions:
            subscription.ended = True
        self._subscriptions.clear()
        self._behind.clear()
        self._tell(status)

    # Commands and their replies.

    async def _call(self, body: Json) -> Json:
        """A command of the caller's. It waits for a connection, but not for ever."""
        if self._ended:
            raise _closed()
        if sum(command.is_call for command in self._commands.values()) >= COMMANDS_MAX:
            reason = f"{COMMANDS_MAX} commands are waiting for their replies"
            raise HubError("too_many", reason, temporary=True)
        replied: asyncio.Future[Json] = asyncio.get_running_loop().create_future()

        def answer(error: HubError | None, ok: Json) -> None:
            if replied.done():
                return
            if error:
                replied.set_exception(error)
            else:
                replied.set_result(ok)

        id = self._command(body, answer, is_call=True)
        try:
            async with asyncio.timeout(REPLY_MAX_S):
                return await replied
        except TimeoutError:
            raise HubError("timeout", "no reply in time", temporary=True) from None
        finally:
            self._commands.pop(id, None)

    def _command(self, body: Json, answer: Answer, is_call: bool = False) -> int:
        """Sends a command, or keeps it until there is a connection."""
        id = self._next_id
        self._next_id += 1
        command = _Command(json.dumps({"id": id, **body}), answer, is_call)
        self._commands[id] = command
        self._transmit(command)
        return id

    def _transmit(self, command: _Command) -> None:
        if self._outgoing and not command.sent:
            command.sent = True
            self._outgoing.put_nowait(command.text)

    def _send(self, event: _Event) -> None:
        """Sends an event, until it is safe or refused."""
        if self._terms is None or event not in self._publishing or event.done.done():
            return
        bytes = len(json.dumps(event.command)) + ID_BYTES
        most = self._terms.get("message_bytes_max", bytes)
        if bytes > most:
            # The hub would close the connection.
            event.done.set_exception(
                HubError("too_large", f"the event has {bytes} bytes, and may have {most}")
            )
            return
        terms = self._terms

        def again() -> None:
            if self._terms is terms:
                self._send(event)

        def answer(error: HubError | None, ok: Json) -> None:
            if event.done.done():
                return
            if not error:
                event.done.set_result(ok)
            elif not error.temporary:
                event.done.set_exception(error)
            else:
                wait_s = RETRY_S if error.retry_after_ms is None else error.retry_after_ms / 1000
                asyncio.get_running_loop().call_later(wait_s, again)

        self._command(event.command, answer)

    def _hear(self, message: Json) -> None:
        push = message.get("push")
        if push is None:
            self._reply(message)
        elif push == "bye":
            wait_s = message.get("reconnect_after_ms", 0) / 1000
            self._come_back_at = asyncio.get_running_loop().time() + wait_s
        else:
            self._pushed(message)

    def _reply(self, message: Json) -> None:
        command = self._commands.pop(message.get("id", 0) or 0, None)
        if command:
            error = message.get("error")
            command.answer(_error(error) if error else None, message.get("ok", {}))

    # Subscriptions.

    def _rooms(self) -> Iterable[Subscription]:
        return (one for one in self._subscriptions if one.is_room)

    def _ask(self, subscription: Subscription) -> None:
        """Asks the hub for a subscription, from where it was if it has been."""
        if self._outgoing is None or subscription.ended:
            return
        self._asking += 1
        command = dict(subscription.command)
        if position := subscription.position:
            command["resume"] = {"epoch": position.epoch, "offset": position.offset}

        def answer(error: HubError | None, reply: Json) -> None:
            self._asking -= 1
            if error:
                self._not_allowed(subscription, error)
            else:
                self._confirm(subscription, reply)
            self._tidy()

        self._command(command, answer)

    def _confirm(self, subscription: Subscription, reply: Json) -> None:
        equals = self._confirmed.setdefault(reply["sub"], [])
        if subscription.ended:
            return
        equals.append(subscription)
        subscription.sub = reply["sub"]
        if not subscription.is_log:
            subscription.every = reply.get("every", 1)
            subscription._change(_state(reply))
            self._tell_change(subscription, pushes=0, skipped=0)
        elif reply["recovered"]:
            for told in reply["entries"]:
                self._enter(subscription, told)
            subscription.position = Position(reply["epoch"], reply["offset"])
        else:
            self._fresh(subscription, reply)
        if subscription.is_room:
            self._forget_seen()

    def _not_allowed(self, subscription: Subscription, error: HubError) -> None:
        if subscription.ended:
            return
        if error.temporary:
            wait_s = RETRY_S if error.retry_after_ms is None else error.retry_after_ms / 1000
            connection = self._outgoing

            def again() -> None:
                if connection is self._outgoing:
                    self._ask(subscription)

            asyncio.get_running_loop().call_later(wait_s, again)
        else:
            subscription.ended = True
            self._subscriptions.remove(subscription)
            self._tell(Refused(subscription, error))

    def _tidy(self) -> None:
        """Ends, at the hub, what nobody here wants any more. Not while a
        subscription is being asked for: it may turn out to be the same one."""
        if self._asking:
            return
        for sub in [sub for sub, equals in self._confirmed.items() if not equals]:
            del self._confirmed[sub]
            self._command({"op": "unsubscribe", "sub": sub}, lambda error, ok: None)

    def _pushed(self, push: Json) -> None:
        # One that has just been given up has no equals.
        equals = self._confirmed.get(push["sub"], [])
        if not equals and _is_room(push["push"]):
            # An event of it may be another room's too.
            self._give_up_rooms(later=False)
        elif push["push"] == "gap":
            recovered = push.get("recovered", True)
            for subscription in equals:
                self._tell(Gap(subscription, push["from"], push["to"], recovered))
                if not recovered:
                    self._fresh(subscription, push)
        elif "offset" in push:
            self._entry(push, equals)
        else:
            for subscription in equals:
                subscription._change(push)
                self._tell_change(subscription, pushes=1, skipped=push.get("skipped", 0))

    def _fresh(self, subscription: Subscription, told: Json) -> None:
        position = subscription.position
        first = position is None
        if position and position.epoch != told["epoch"]:
            self._seen.clear()  # Another log numbers anew.
        subscription.position = Position(told["epoch"], told["offset"])
        subscription.open = {finding["id"]: finding for finding in told.get("open", ())}
        self._tell(Fresh(subscription, first, told["offset"], told.get("plugins", [])))

    def _entry(self, push: Json, equals: list[Subscription]) -> None:
        missing = [one for one in equals if push["prev"] > _offset(one)]
        for subscription in missing:
            self._tell(Gap(subscription, _offset(subscription) + 1, push["prev"], True))
        full = len(self._events) >= EVENTS_MAX
        in_room = _is_room(push["push"])
        if missing or (full and equals):
            if in_room:
                self._give_up_rooms(later=full)
            else:
                self._give_up(push["sub"], equals)
                self._resume(equals, later=full)
            return
        if not push.get("excluded"):
            for subscription in equals:
                self._enter(subscription, push)
        # One sequence numbers all log channels, and it comes in order: whoever has
        # seen this entry has seen, on each of them, all that is before it. The entry
        # itself may still be to come on another; but an event comes by one of the
        # client's rooms only.
        for confirmed in self._confirmed.values():
            for subscription in confirmed:
                by_it = in_room and subscription.is_room
                subscription._has_seen(push["offset"] if by_it else push["offset"] - 1)
        if in_room:
            self._forget_seen()

    def _enter(self, subscription: Subscription, told: Json) -> None:
        """Takes an entry, unless it was seen before."""
        offset, entry = told["offset"], told["entry"]
        if offset <= _offset(subscription):
            return
        subscription._has_seen(offset)
        if subscription.is_room:
            if offset in self._seen:
                return
            self._seen[offset] = None
            if len(self._seen) > SEEN_MAX:
                del self._seen[next(iter(self._seen))]
        subscription._note(entry)
        self._tell(Entry(subscription, offset, told["time"], entry))

    def _forget_seen(self) -> None:
        positions = [_offset(one) for one in self._rooms() if one.position]
        through = min(positions, default=None)
        for offset in list(self._seen):
            if through is None or offset <= through:
                del self._seen[offset]

    def _give_up_rooms(self, later: bool) -> None:
        """Gives all rooms up, and asks for what was missed: only together, since the
        hub leaves out of one what it takes to have come by another."""
        rooms = [(sub, [*equals]) for sub, equals in self._confirmed.items()]
        rooms = [(sub, equals) for sub, equals in rooms if equals and equals[0].is_room]
        for sub, equals in rooms:
            self._give_up(sub, equals)
        for _, equals in rooms:
            self._resume(equals, later)

    def _resume(self, subscriptions: list[Subscription], later: bool) -> None:
        if later:
            self._behind.extend(subscriptions)
        else:
            for subscription in subscriptions:
                self._ask(subscription)

    def _give_up(self, sub: int, equals: list[Subscription]) -> None:
        """Ends a subscription at the hub, to go on with it from where it is."""
        del self._confirmed[sub]

        def ended(error: HubError | None, ok: Json) -> None:
            # An equal one that was asked for before, and has ended with it.
            for subscription in self._confirmed.pop(sub, []):
                self._ask(subscription)

        self._command({"op": "unsubscribe", "sub": sub}, ended)
        for subscription in equals:
            subscription.sub = None

    # What the caller is told.

    def _tell(self, event: Event) -> None:
        # A caller that takes nothing need not be told each turn of the connection.
        if (
            isinstance(event, Status)
            and event.state != "closed"
            and len(self._events) >= EVENTS_MAX
        ):
            return
        self._events.append(event)
        self._something.set()

    def _tell_change(self, subscription: Subscription, pushes: int, skipped: int) -> None:
        """One event stands for all changes that came before it was taken."""
        changed = subscription._waiting
        if changed is None:
            changed = Changed(subscription, 0, "")
            subscription._waiting = changed
            self._tell(changed)
        changed.tick, changed.time = subscription.tick or 0, subscription.time or ""
        changed.pushes += pushes
        changed.skipped += skipped


def _offset(subscription: Subscription) -> int:
    return subscription.position.offset if subscription.position else 0


def _error(told: Json) -> HubError:
    temporary, after = told.get("temporary", False), told.get("retry_after_ms")
    return HubError(told["code"], told["reason"], temporary, after)


def _closed() -> HubError:
    return HubError("closed", "this connection has ended")


# The program.


async def watch(address: str = "127.0.0.1:8765", glob: str = "*", ticks: str = "inf") -> int:
    """Shows values at each tick; below them the findings that open and close, and
    what becomes of plugins."""
    left = float(ticks)
    url = address if "://" in address else f"ws://{address}"
    async with connect(url, token=os.environ.get("TOKEN")) as hub:
        metrics = hub.subscribe("metrics", filter={"name": glob})
        for channel in ("findings", "hub"):
            hub.subscribe(channel)
        async for event in hub:
            match event:
                case Changed(pushes=pushes) if pushes > 0:
                    _show_tick(metrics)
                    left -= 1
                    if left <= 0:
                        return 0
                case Entry(subscription, offset, _, entry):
                    _show_entry(subscription.channel, str(offset), entry)
                case Fresh(subscription, first, offset):
                    if not first:
                        print(f"  {subscription.channel}: entries were lost before {offset}", flush=True)
                    for finding in subscription.open.values():
                        _show_entry("findings", "-", finding)
                case Status("waiting", retry_in_s, code, reason):
                    why = f"{code or ''} {reason}".strip()
                    after_ms = round((retry_in_s or 0) * 1000)
                    print(f"lost: {why}; again in {after_ms} ms", file=sys.stderr)
                case Status("closed", _, code, reason):
                    print(f"{code or ''} {reason}".strip(), file=sys.stderr)
                case Refused(_, error):
                    print(error, file=sys.stderr)
                    return 1
    return 1


def _show_tick(metrics: Subscription) -> None:
    lines = [f"tick {metrics.tick} {metrics.time}"]
    for _, series in sorted(metrics.series.items()):
        number = "-" if series["value"] is None else f"{series['value']:.4f}"
        stale = f"  ({series['stale']['code']})" if series["stale"] else ""
        lines.append(f"  {number:>16}  {_title(series)}{stale}")
    print("\n".join(lines), flush=True)


def _show_entry(channel: str, offset: str, entry: Json) -> None:
    if channel == "findings":
        what = f"{entry['state']} {entry['type']} {entry['peak']:.2f} {_title(entry)} by {entry['detector']}"
    else:
        reason = f": {entry['reason']}" if entry.get("reason") else ""
        what = f"{entry['event']} {entry.get('plugin') or ''}{reason}"
    print(f"  {channel} {offset} {what}", flush=True)


def _title(series: Json) -> str:
    return " ".join(
        [series["name"], *(f"{key}={value}" for key, value in series["labels"].items())]
    )


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(watch(*sys.argv[1:4])))
    except KeyboardInterrupt:
        sys.exit(130)
