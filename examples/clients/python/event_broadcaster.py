"""Publishes events to a telltale hub, from any Python program.

    broadcaster = EventBroadcaster("http://127.0.0.1:8765", token="…")
    await broadcaster.broadcast_pr_created(
        pr_id=7, project_id=42, title="Fix it", description=None, author="octocat",
        branch="fix", github_url="https://github.com/octocat/fix/pull/7", status="open",
    )

    SyncEventBroadcaster("http://127.0.0.1:8765").broadcast("deploy.finished", {"build": 7})

Both have the same methods; those of `EventBroadcaster` are awaited. A method that
begins with `broadcast` answers whether the event is safe at the hub, and never
raises: who tells others of its work is not to fail at telling. `publish` answers
with a receipt, and raises `PublishError`.

What gets no answer, or is refused for now, is tried again with the same idempotency
key, so that it is one event however often it is sent. Where an event goes follows
from its type and its data (docs/events.md), unless `rooms` or `user` say otherwise.

Needs Python 3.11 and nothing else.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import queue
import random
import ssl
import time
import uuid
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

Json = dict[str, Any]
Id = str | int | uuid.UUID
R = TypeVar("R")
S = TypeVar("S")

# How long one exchange with the hub may take.
ANSWER_MAX_S = 10.0
# The first wait before an event is tried again is at most this long; each further
# one may be twice as long as the one before.
BACKOFF_S = 0.2
# Connections that are kept for the next event.
IDLE_MAX = 4
# The longest answer: receipts have a few hundred bytes.
ANSWER_BYTES_MAX = 1024 * 1024


class PublishError(Exception):
    """Why an event was not published."""

    def __init__(
        self,
        code: str,
        reason: str,
        temporary: bool = False,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        """A word that programs can compare; `unreachable` if there was no answer."""
        self.temporary = temporary
        """The same event may do later …"""
        self.retry_after_ms = retry_after_ms
        """… after this long, if the hub says."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """An event that is safe on the hub's disk."""

    id: str
    offset: int
    rooms: list[str]


class _Hub:
    """Sends events, on a few connections that are kept. Any thread may use it."""

    def __init__(self, url: str, token: str | None, patience_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address such as http://127.0.0.1:8765")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/") + "/v1/events"
        self._token = token
        self._patience_s = patience_s
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue(IDLE_MAX)

    def publish(self, event: Json) -> Receipt:
        """Publishes an event, as often as it takes."""
        body = json.dumps(event, default=_plain, separators=(",", ":")).encode()
        key = str(uuid.uuid4())
        began, backoff = time.monotonic(), BACKOFF_S
        while True:
            try:
                return self._exchange(body, key)
            except PublishError as error:
                wait = (error.retry_after_ms or 0) / 1000 + random.uniform(0, backoff)
                if not error.temporary or time.monotonic() - began + wait > self._patience_s:
                    raise
            time.sleep(wait)
            backoff *= 2

    def _exchange(self, body: bytes, key: str) -> Receipt:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = self._connection()
        try:
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            status, answer = response.status, response.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            # Also a connection that was kept for longer than the hub keeps it.
            connection.close()
            raise PublishError("unreachable", repr(error), temporary=True) from error
        if response.will_close:
            connection.close()
        else:
            self._keep(connection)
        return _receipt(status, answer)

    def _connection(self) -> http.client.HTTPConnection:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        if self._secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=ANSWER_MAX_S, context=context
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_MAX_S)

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        try:
            self._idle.put_nowait(connection)
        except queue.Full:
            connection.close()

    def close(self) -> None:
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return


class _Broadcasts(Generic[R, S]):
    """The events of the system that this comes from, and any other. `R` is what
    `publish` answers with, `S` what the others do."""

    def publish(
        self,
        type: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str = "python",
        rooms: Sequence[str] | None = None,
        user: Id | None = None,
    ) -> R:
        """Publishes an event; answers with its receipt.

        `rooms` are names such as `project:42`; to `user`, all connections of that
        user are told. Raises `PublishError`."""
        raise NotImplementedError

    def broadcast(
        self,
        type: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str = "python",
        rooms: Sequence[str] | None = None,
        user: Id | None = None,
    ) -> S:
        """As `publish`, but answers whether it is published, and doesn't raise."""
        raise NotImplementedError

    # Projects

    def broadcast_project_updated(
        self,
        project_id: Id,
        project_name: str,
        repository_url: str,
        status: str,
        updated_by: Id,
        changes: Mapping[str, Any] | None = None,
    ) -> S:
        """To the project, and to who has updated it."""
        data = {
            "project_id": project_id,
            "project_name": project_name,
            "repository_url": repository_url,
            "status": status,
            "updated_by": updated_by,
            "changes": changes or {},
        }
        return self.broadcast("project.updated", data, source="project_service")

    def broadcast_project_deleted(self, project_id: Id, deleted_by: Id) -> S:
        """To the project, and to who has deleted it."""
        data = {"project_id": project_id, "deleted_by": deleted_by}
        return self.broadcast("project.deleted", data, source="project_service")

    # Agents

    def broadcast_agent_status_changed(
        self,
        agent_id: Id,
        agent_name: str,
        status: str,
        availability: int = 0,
        metadata: Mapping[str, Any] | None = None,
    ) -> S:
        """To the agent's room, and to everybody. `availability` is a percentage."""
        data = {
            "agent_id": agent_id,
            "agent_name": agent_name,
            "status": status,
            "availability": availability,
            "metadata": metadata or {},
        }
        return self.broadcast("agent.status_changed", data, source="agent_service")

    # Workflows

    def broadcast_workflow_progress(
        self,
        workflow_id: Id,
        status: str,
        progress: float,
        current_step: str,
        total_steps: int,
        project_id: Id | None = None,
        estimated_time_remaining: float | None = None,
        logs: Sequence[str] | None = None,
        errors: Sequence[str] | None = None,
    ) -> S:
        """To the project; without one, to everybody. `progress` is a percentage, the
        time in seconds."""
        data = {
            "workflow_id": workflow_id,
            "project_id": project_id,
            "status": status,
            "progress": progress,
            "current_step": current_step,
            "total_steps": total_steps,
            "estimated_time_remaining": estimated_time_remaining,
            "logs": logs,
            "errors": errors,
        }
        return self.broadcast("workflow.progress", data, source="workflow_service")

    # Pull requests

    def broadcast_pr_created(
        self,
        pr_id: Id,
        project_id: Id,
        title: str,
        description: str | None,
        author: str,
        branch: str,
        github_url: str,
        status: str,
    ) -> S:
        """To the project."""
        data = {
            "pr_id": pr_id,
            "project_id": project_id,
            "title": title,
            "description": description,
            "author": author,
            "branch": branch,
            "github_url": github_url,
            "status": status,
            "created_at": _now(),
        }
        return self.broadcast("pr.created", data, source="github_service")

    def broadcast_pr_updated(self, pr_id: Id, project_id: Id, title: str, status: str) -> S:
        """To the project."""
        data = {"pr_id": pr_id, "project_id": project_id, "title": title, "status": status}
        return self.broadcast("pr.updated", data, source="github_service")

    # Issues

    def broadcast_issue_updated(
        self,
        issue_id: Id,
        project_id: Id,
        title: str,
        description: str | None,
        status: str,
        priority: str | None,
        assigned_to: Id | None,
    ) -> S:
        """To the project, and to whom it is assigned to."""
        data = {
            "issue_id": issue_id,
            "project_id": project_id,
            "title": title,
            "description": description,
            "status": status,
            "priority": priority,
            "assigned_to": assigned_to,
            "updated_at": _now(),
        }
        rooms = [f"project:{project_id}"]
        return self.broadcast(
            "issue.updated", data, source="github_service", rooms=rooms, user=assigned_to
        )

    # Suggestions

    def broadcast_ai_suggestion(
        self,
        suggestion_id: Id,
        target_type: str,
        target_id: Id,
        category: str,
        title: str,
        description: str,
        severity: str = "info",
        confidence: float = 1.0,
        suggested_action: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        project_id: Id | None = None,
        user_id: Id | None = None,
    ) -> S:
        """To the user; without one, to the project; without either, to everybody.
        `confidence` is from 0 to 1."""
        data = {
            "suggestion_id": suggestion_id,
            "target_type": target_type,
            "target_id": target_id,
            "category": category,
            "title": title,
            "description": description,
            "severity": severity,
            "confidence": confidence,
            "suggested_action": suggested_action,
            "metadata": metadata or {},
            "project_id": project_id,
            "user_id": user_id,
        }
        return self.broadcast("ai.suggestion", data, source="ai_dock_service")


class SyncEventBroadcaster(_Broadcasts[Receipt, bool]):
    """For programs without asyncio. Any thread may use it."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8765",
        token: str | None = None,
        patience_s: float = 10.0,
    ) -> None:
        """`patience_s` is how long an event is tried again."""
        self._hub = _Hub(url, token, patience_s)

    def publish(
        self,
        type: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str = "python",
        rooms: Sequence[str] | None = None,
        user: Id | None = None,
    ) -> Receipt:
        return self._hub.publish(_event(type, data, source, rooms, user))

    def broadcast(
        self,
        type: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str = "python",
        rooms: Sequence[str] | None = None,
        user: Id | None = None,
    ) -> bool:
        try:
            self.publish(type, data, source=source, rooms=rooms, user=user)
        except PublishError as error:
            logger.error("the event %s was not published: %s", type, error)
            return False
        return True

    def close(self) -> None:
        """Gives the connections back."""
        self._hub.close()


class EventBroadcaster(_Broadcasts[Awaitable[Receipt], Awaitable[bool]]):
    """For asyncio: what takes time is done on other threads."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8765",
        token: str | None = None,
        patience_s: float = 10.0,
    ) -> None:
        """`patience_s` is how long an event is tried again."""
        self._sync = SyncEventBroadcaster(url, token, patience_s)

    async def publish(
        self,
        type: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str = "python",
        rooms: Sequence[str] | None = None,
        user: Id | None = None,
    ) -> Receipt:
        return await asyncio.to_thread(
            self._sync.publish, type, data, source=source, rooms=rooms, user=user
        )

    async def broadcast(
        self,
        type: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str = "python",
        rooms: Sequence[str] | None = None,
        user: Id | None = None,
    ) -> bool:
        return await asyncio.to_thread(
            self._sync.broadcast, type, data, source=source, rooms=rooms, user=user
        )

    def close(self) -> None:
        """Gives the connections back."""
        self._sync.close()


_broadcaster: EventBroadcaster | None = None


def init_broadcaster(
    url: str = "http://127.0.0.1:8765", token: str | None = None
) -> EventBroadcaster:
    """The one broadcaster of a program, which `get_broadcaster` returns from now on."""
    global _broadcaster
    if _broadcaster is not None:
        _broadcaster.close()
    _broadcaster = EventBroadcaster(url, token)
    return _broadcaster


def get_broadcaster() -> EventBroadcaster:
    """The one broadcaster of a program: to a hub on this machine, unless
    `init_broadcaster` has named another."""
    return _broadcaster or init_broadcaster()


def _event(
    type: str,
    data: Mapping[str, Any] | None,
    source: str,
    rooms: Sequence[str] | None,
    user: Id | None,
) -> Json:
    event: Json = {"type": type, "source": source, "data": data or {}}
    if rooms is not None:
        event["rooms"] = list(rooms)
    if user is not None:
        event["user"] = str(user)
    return event


def _receipt(status: int, answer: bytes) -> Receipt:
    """What the hub has said. No JSON comes from what stands before it: a proxy."""
    try:
        told = json.loads(answer)
        if status == 200:
            return Receipt(told["id"], told["offset"], told["rooms"])
        error = told["error"]
        raise PublishError(
            error["code"], error["reason"], error["temporary"], error.get("retry_after_ms")
        )
    except (ValueError, KeyError, TypeError):
        temporary = status in (429, 502, 503, 504)
        raise PublishError("bad_answer", f"HTTP {status}", temporary) from None


def _plain(value: object) -> str:
    """Ids and times, which JSON doesn't know."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(f"{value!r} can't be told in JSON")


def _now() -> str:
    return datetime.now(UTC).isoformat()
