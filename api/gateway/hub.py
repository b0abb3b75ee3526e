"""Watches, for all connections of this process, the tasks and users that they subscribed to.

One thread reads the doorbell and fans out; it hands frames to listeners, which put them into queues, and waits for
nobody. Another compares what the doorbell said with Postgres, about once a second, in one query for all watched tasks
and one for all watched users: so a lost publish, or a dead Redis, shows up by itself.
"""

from __future__ import annotations

import logging
import threading
from typing import Any
from uuid import UUID

from api.gateway.doorbell import Doorbell
from api.gateway.limits import Limits
from api.gateway.reads import open_tasks_of
from api.gateway.topics import TaskListener, TaskTopic, Topic, UserListener, UserTopic
from infra.errors import ConflictError, NotFoundError
from infra.services import Services
from infra.tasks.log import last_seqs

log = logging.getLogger(__name__)


class Hub:
    def __init__(self, services: Services, limits: Limits) -> None:
        self._services = services
        self._limits = limits
        self._doorbell = Doorbell(services.settings.redis_url, self)
        self._lock = threading.Lock()
        self._topics: dict[str, Topic[Any]] = {}
        self._stopped = threading.Event()

    def start(self) -> None:
        self._doorbell.start()
        threading.Thread(target=self._compare_for_ever, name="hub-compare", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._doorbell.stop()

    # ---- by subscriptions -------------------------------------------------------------------------------------

    def watch_task(self, task_id: UUID, listener: TaskListener) -> None:
        self._watch(TaskTopic(task_id), listener)

    def watch_user(self, user_id: UUID, listener: UserListener) -> None:
        self._watch(UserTopic(user_id), listener)

    def unwatch(self, channel: str, listener: object) -> None:
        with self._lock:
            topic = self._topics.get(channel)
            if topic is None:
                return
            topic.remove(listener)
            if not topic.listeners:
                del self._topics[channel]
                self._doorbell.unsubscribe(channel)

    def _watch(self, fresh: Topic[Any], listener: Any) -> None:
        with self._lock:
            topic = self._topics.setdefault(fresh.channel, fresh)
            topic.add(listener)
            if topic is fresh:
                self._doorbell.subscribe(topic.channel)
            # While Redis is down there is nothing to wait for: read, and let the comparison tell what is new.
            ready = topic.acknowledged or not self._doorbell.connected
        if ready:
            listener.acknowledged()

    # ---- by the doorbell, in its thread -----------------------------------------------------------------------

    def acknowledged(self, channel: str) -> None:
        with self._lock:
            topic = self._topics.get(channel)
            if topic is None:
                return
            topic.acknowledged = True
            listeners = topic.listeners
        for listener in listeners:
            listener.acknowledged()

    def rang(self, channel: str, payload: str) -> None:
        topic = self._topics.get(channel)
        if topic is None:
            return
        try:
            topic.rang(payload)
        except Exception:  # whatever was on the channel, the thread that serves all others goes on
            log.exception("can't make use of what is on %s", channel, extra={"action": "doorbell_garbage"})

    def lost(self) -> None:
        with self._lock:
            for topic in self._topics.values():
                topic.acknowledged = False

    # ---- comparing with Postgres, in a thread of its own ------------------------------------------------------

    def _compare_for_ever(self) -> None:
        failing = False
        while not self._stopped.wait(self._limits.poll_s):
            try:
                self._compare()
                failing = False
            except Exception as error:  # noqa: BLE001  (without this thread a lost publish would stay lost)
                if not failing:
                    log.warning("can't compare with Postgres: %r", error, extra={"action": "compare_failed"})
                failing = True

    def _compare(self) -> None:
        with self._lock:
            topics = list(self._topics.values())
        tasks = [topic for topic in topics if isinstance(topic, TaskTopic)]
        users = [topic for topic in topics if isinstance(topic, UserTopic)]
        if tasks:
            self._compare_tasks(tasks)
        if users:
            self._compare_users(users)

    def _compare_tasks(self, topics: list[TaskTopic]) -> None:
        told = {topic: topic.newest for topic in topics}
        with self._services.database.read() as connection:
            existing = last_seqs(connection, [topic.task_id for topic in topics])
        late = []
        for topic in topics:
            last_seq = existing.get(topic.task_id)
            if last_seq is None:
                self._tell_gone(topic, NotFoundError("the task was deleted"))
            elif last_seq < told[topic]:
                self._tell_gone(topic, _went_back())
            elif last_seq > topic.newest or not topic.acknowledged:
                late.append((topic, last_seq))
        if late:
            # Most of these are on their way through Redis right now; a read for them would be for nothing.
            self._stopped.wait(self._limits.poll_grace_s)
        for topic, last_seq in late:
            if last_seq > topic.newest or not topic.acknowledged:
                topic.newest = max(topic.newest, last_seq)
                for listener in topic.listeners:
                    listener.noticed(last_seq)

    def _compare_users(self, topics: list[UserTopic]) -> None:
        with self._services.database.read() as connection:
            tasks = open_tasks_of(connection, [topic.user_id for topic in topics])
        for topic in topics:
            for listener in topic.listeners:
                listener.noticed(tasks[topic.user_id])

    def _tell_gone(self, topic: TaskTopic, error: NotFoundError | ConflictError) -> None:
        for listener in topic.listeners:
            listener.gone(error)


def _went_back() -> ConflictError:
    return ConflictError(
        "the task's log is shorter than what was sent of it: the database was restored",
        hint="Forget what you have of this task and subscribe with after = 0.",
        code="resume_invalid",
    )
