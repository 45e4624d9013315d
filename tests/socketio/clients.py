"""The real Python clients, with threads and with asyncio: each namespace on
each path over each transport."""

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import os
import queue
import sys
import time
import urllib.request

import socketio

ORIGIN, SECRET, ADMIN = sys.argv[1:4]
LIMIT = 30
TRANSPORTS = [["websocket"], ["polling"], ["polling", "websocket"]]
numbers = itertools.count()


def unique(word):
    return f"{word}{os.getpid()}y{next(numbers)}"


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


HEADER = encoded(b'{"alg":"HS256","typ":"JWT"}')


def token(seconds=600, **claims):
    publish = [{"types": ["*"], "rooms": ["*"]}]
    known = {"rooms": ["project:*"], "publish": publish, "exp": int(time.time()) + seconds}
    claims = {**known, **claims}
    body = f"{HEADER}.{encoded(json.dumps(claims).encode())}"
    return f"{body}.{encoded(hmac.digest(SECRET.encode(), body.encode(), hashlib.sha256))}"


class Client:
    """A client of the one with threads, whose events are waited for."""

    def __init__(self, namespace, **options):
        self.namespace = namespace
        self.socket = socketio.Client(reconnection=False)
        self.events = queue.Queue()
        self.all = []
        self.socket.on("*", self.hear, namespace=namespace)
        self.socket.on("disconnect", lambda reason: self.hear("disconnect", reason), namespace=namespace)
        self.socket.connect(ORIGIN, namespaces=[namespace], wait_timeout=LIMIT, **options)
        self.greeting = self.wait("connection_established")
        self.wait("connection.established")

    def hear(self, name, *data):
        self.all.append((name, *data))
        self.events.put((name, *data))

    def wait(self, name, wanted=lambda *_: True):
        while True:
            heard, *data = self.events.get(timeout=LIMIT)
            if heard == name and wanted(*data):
                return data[0] if data else None

    def ask(self, command, *data):
        return self.socket.call(command, *data, namespace=self.namespace, timeout=LIMIT)


def settle(publisher, client, room):
    marker = unique("marker")
    event = {"type": "test.marker", "data": {"marker": marker}, "rooms": [room]}
    assert publisher.ask("publish", event)["status"] == "success"
    client.wait("test.marker", lambda event: event["data"]["marker"] == marker)


def each(path, namespace, transports):
    user, room = unique("ana"), f"project:{unique('p')}"
    options = {"socketio_path": path, "transports": transports}
    client = Client(namespace, auth={"token": token(sub=user)}, **options)
    publisher = Client("/", auth={"token": token(sub="ci")}, transports=["websocket"])
    data = client.greeting["data"]
    assert data["user_id"] == user and data["rooms"] == [f"user:{user}", "global"], data
    assert client.socket.get_sid(namespace) == data["connection_id"] != client.socket.eio.sid
    assert client.socket.transport() == transports[-1]

    entered = client.ask("subscribe", {"room": room})
    assert entered["status"] == "success" and entered["room"] == room, entered
    assert client.ask("subscribe", {"room": "agent:7"})["code"] == "DENIED"
    client.socket.emit("subscribe", {"room": "agent:7"}, namespace=namespace)
    assert client.wait("connection.error")["data"]["code"] == "DENIED"
    assert client.ask("debug:rooms")["rooms"] == sorted(["global", room, f"user:{user}"])

    rooms = [room, f"user:{user}", "global"]
    event = {"type": "pr.created", "source": "ci", "data": {"n": 1}, "rooms": rooms}
    published = publisher.ask("publish", event)
    settle(publisher, client, room)
    came = [body for _, body in client.all if body.get("id") == published["id"]]
    assert [body["data"] for body in came] == [{"n": 1}], came

    assert client.ask("unsubscribe", {"room": room})["status"] == "success"
    unheard = publisher.ask("publish", {**event, "rooms": [room]})
    settle(publisher, client, f"user:{user}")
    assert not any(body.get("id") == unheard["id"] for _, body in client.all)

    binary = b"\x00\xff\x01" * 100
    assert client.ask("ping", binary)["data"] == binary
    client.socket.emit("ping", {"deep": [binary]}, namespace=namespace)
    assert client.wait("pong")["data"] == {"deep": [binary]}
    long = "x" * 900_000
    assert client.ask("ping", long)["data"] == long
    assert client.ask("dance")["code"] == "UNKNOWN_COMMAND"

    # What it has missed.
    again = client.ask("subscribe", {"room": room})
    client.socket.disconnect()
    for n in (2, 3):
        publisher.ask("publish", {**event, "data": {"n": n}, "rooms": [room]})
    client = Client(namespace, auth={"token": token(sub=user)}, **options)
    after = {"epoch": again["epoch"], "offset": again["offset"]}
    assert client.ask("subscribe", {"room": room, "after": after})["recovered"] is True
    settle(publisher, client, room)
    came = [body["data"] for name, body in client.all if name == "pr.created"]
    assert came == [{"n": 2}, {"n": 3}], came

    # Too long.
    client.socket.emit("ping", "x" * 1_100_000, namespace=namespace)
    client.wait("disconnect")
    client.socket.disconnect()
    publisher.socket.disconnect()


def refused(transports):
    for auth in (None, {"token": "a.b.c"}, {"token": token(-5, sub="ana")}):
        client = socketio.Client(reconnection=False)
        errors = queue.Queue()
        client.on("connect_error", errors.put, namespace="/ws")
        try:
            client.connect(ORIGIN, namespaces=["/ws"], auth=auth, transports=transports)
            raise AssertionError("it was let in")
        except socketio.exceptions.ConnectionError:
            pass
        error = errors.get(timeout=LIMIT)
        assert error == {"message": "AUTH_FAILED", "data": {"content": {"code": "AUTH_FAILED"}}}, error
        client.disconnect()
    good = token(sub="ana")
    for options in ({"headers": {"Authorization": f"Bearer {good}"}}, {"auth": {"token": good}}):
        client = Client("/ws", transports=transports, **options)
        assert client.greeting["data"]["user_id"] == "ana"
        client.socket.disconnect()


def ended(transports):
    client = Client("/ws", transports=transports, auth={"token": token(3, sub="ana")})
    assert client.wait("connection.error")["data"]["code"] == "TOKEN_EXPIRED"
    assert client.wait("disconnect") == "server disconnect"
    user = unique("bob")
    client = Client("/ws", transports=transports, auth={"token": token(sub=user)})
    request = urllib.request.Request(
        f"{ORIGIN}/v1/users/{user}/disconnect",
        method="POST",
        headers={"Authorization": f"Bearer {ADMIN}"},
    )
    with urllib.request.urlopen(request, timeout=LIMIT) as answer:
        assert json.load(answer) == {"disconnected": 1}
    assert client.wait("connection.error")["data"]["code"] == "REVOKED"
    assert client.wait("disconnect") == "server disconnect"


async def asynchronous(transports):
    client = socketio.AsyncClient(reconnection=False)
    greeted, event = asyncio.get_running_loop().create_future(), asyncio.Event()

    async def hear(name, body):
        if name == "connection.established":
            greeted.set_result(body)
        if name == "agent.connected":
            event.set()

    client.on("*", hear, namespace="/ws")
    auth = {"token": token(sub=unique("eve"))}
    await client.connect(ORIGIN, namespaces=["/ws"], auth=auth, transports=transports)
    async with asyncio.timeout(LIMIT):
        await greeted
        binary = os.urandom(1000)
        assert (await client.call("ping", binary, namespace="/ws"))["data"] == binary
        published = {"type": "agent.connected", "data": {"agent_id": "7"}, "rooms": ["global"]}
        assert (await client.call("publish", published, namespace="/ws"))["status"] == "success"
        await event.wait()
        await client.disconnect()


for path in ("socket.io", "ws/socket.io"):
    for namespace in ("/", "/ws"):
        for transports in TRANSPORTS:
            each(path, namespace, transports)
            print("ok", path, namespace, transports, flush=True)
for transports in TRANSPORTS:
    refused(transports)
    ended(transports)
    asyncio.run(asynchronous(transports))
    print("ok", transports, flush=True)
