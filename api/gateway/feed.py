"""One socket's subscription to the feed: all open tasks of its user, then each task's newest state when it changes.

Every state in between may be left out: what changed is remembered as a set of tasks, and read when the client has
room. What was sent of open tasks is compared with Postgres by the hub, so a lost doorbell shows up by itself.
"""

from __future__ import annotations

from uuid import UUID

from api.gateway.framing import json_frame
from api.gateway.read_job import ReadJob
from api.gateway.readers import Readers
from api.gateway.reads import tasks_by_id
from api.gateway.socket import Socket
from api.gateway.topics import TaskStates
from infra.bus import user_channel
from infra.errors import UnavailableError
from infra.services import Services
from infra.tasks.log import TaskRow
from infra.tasks.states import OPEN
from infra.tasks.views import open_tasks, task_json


class Feed:
    """A `UserListener`."""

    def __init__(self, user_id: UUID, *, socket: Socket, services: Services, readers: Readers) -> None:
        self.user_id = user_id
        self.channel = user_channel(user_id)
        self._socket = socket
        self._services = services
        self._job = ReadJob(wanted=self._has_news, read=self._read_news, socket=socket, readers=readers)
        self._begun = False
        self._all = False
        self._changed: set[UUID] = set()
        self._sent: TaskStates = {}
        """Of the tasks that were open when they were sent last."""

    # ---- by the hub -------------------------------------------------------------------------------------------

    def acknowledged(self) -> None:
        with self._job.lock:
            self._begin()

    def changed(self, task_id: UUID) -> None:
        with self._job.lock:
            self._changed.add(task_id)
            self._job.queue()

    def noticed(self, open_tasks: TaskStates) -> None:
        with self._job.lock:
            self._begin()
            self._changed |= {task_id for task_id, state in open_tasks.items() if self._sent.get(task_id) != state}
            self._changed |= self._sent.keys() - open_tasks.keys()
            self._job.queue()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = self._all = True
            self._job.queue()

    # ---- by the connection ------------------------------------------------------------------------------------

    def drained(self) -> None:
        """The client caught up with what it was sent."""
        self._job.drained()

    def end(self) -> None:
        """Nothing is sent for this feed after this returns."""
        self._job.end()

    # ---- by the readers ---------------------------------------------------------------------------------------

    def _has_news(self) -> bool:
        return self._begun and (self._all or bool(self._changed))

    def _read_news(self) -> None:
        """Read and tell what changed."""
        with self._job.lock:
            everything, self._all = self._all, False
            changed, self._changed = self._changed, set()
        try:
            rows = self._read(everything, changed)
        except UnavailableError:
            with self._job.lock:
                self._all = self._all or everything
                self._changed |= changed
            raise
        with self._job.lock:
            self._tell(rows, changed)

    def _read(self, everything: bool, changed: set[UUID]) -> dict[UUID, TaskRow]:
        rows: list[TaskRow] = []
        with self._services.database.read() as connection:
            if everything:
                rows += open_tasks(connection, user_id=self.user_id)
            if changed:
                rows += tasks_by_id(connection, self.user_id, list(changed))
        return {row.id: row for row in rows}

    def _tell(self, rows: dict[UUID, TaskRow], asked: set[UUID]) -> None:
        for task_id in asked - rows.keys():  # deleted
            self._sent.pop(task_id, None)
        for row in rows.values():
            state = (row.status, row.last_seq)
            if self._job.ended or self._sent.get(row.id) == state:
                continue
            self._socket.send_frame(json_frame({"type": "task", "task": task_json(row)}))
            if row.status in OPEN:
                self._sent[row.id] = state
            else:
                self._sent.pop(row.id, None)
