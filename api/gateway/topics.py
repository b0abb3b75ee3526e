"""What the hub watches: one topic for a task, one for the tasks of a user, each with its listeners in this process."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar
from uuid import UUID

from api.gateway.parts import PartFrame
from api.gateway.wire import EventFrame, decode
from infra.bus import task_channel, user_channel
from infra.errors import FarhandError

TaskStates = dict[UUID, tuple[str, int]]
"""`status` and `last_seq` of tasks."""


class TopicListener(Protocol):
    """Called by the hub. Must not block, above all not on a client."""

    def acknowledged(self) -> None:
        """What is published from now on arrives. Called again after each loss of Redis; at once while it is down."""


class TaskListener(TopicListener, Protocol):
    def event(self, frame: EventFrame) -> None: ...

    def delta(self, frame: PartFrame) -> None: ...

    def noticed(self, last_seq: int) -> None:
        """Postgres has events that Redis may not have told of."""

    def gone(self, error: FarhandError) -> None:
        """The task was deleted, or its log went back: nothing more can be told of it."""


class UserListener(TopicListener, Protocol):
    def changed(self, task_id: UUID) -> None:
        """The row of a task of this user changed."""

    def noticed(self, open_tasks: TaskStates) -> None:
        """All open tasks of this user, as Postgres has them."""


L = TypeVar("L", bound=TopicListener)


class Topic(Generic[L]):
    """Listeners are replaced as a whole, so whoever iterates needs no lock."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.acknowledged = False
        self.listeners: tuple[L, ...] = ()

    def add(self, listener: L) -> None:
        self.listeners = (*self.listeners, listener)

    def remove(self, listener: L) -> None:
        self.listeners = tuple(other for other in self.listeners if other is not listener)

    def rang(self, payload: str) -> None:
        """Raises KeyError, TypeError or ValueError for what is not of ours."""
        raise NotImplementedError


class TaskTopic(Topic[TaskListener]):
    def __init__(self, task_id: UUID) -> None:
        super().__init__(task_channel(task_id))
        self.task_id = task_id
        self.newest = 0
        """The newest `seq` that the listeners were told of, by Redis or by Postgres."""

    def rang(self, payload: str) -> None:
        match decode(payload):
            case EventFrame() as frame:
                self.newest = max(self.newest, frame.seq)
                for listener in self.listeners:
                    listener.event(frame)
            case PartFrame() as frame:
                for listener in self.listeners:
                    listener.delta(frame)


class UserTopic(Topic[UserListener]):
    def __init__(self, user_id: UUID) -> None:
        super().__init__(user_channel(user_id))
        self.user_id = user_id

    def rang(self, payload: str) -> None:
        task_id = UUID(payload)
        for listener in self.listeners:
            listener.changed(task_id)
