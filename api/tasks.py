"""Routes of tasks: start, look, and everything that acts on one."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from api import actions, answers
from api.actions import AnswerQuestion, Done, NoFields, Retry, SendMessage, StartTask
from api.pages import PageQuery, decode_id, encode, page
from api.routes import Call, Json, Reply, Routes
from infra.errors import NotFoundError
from infra.tasks import transitions
from infra.tasks.log import TaskRow
from infra.tasks.states import Status
from infra.tasks.views import get_task as read_task
from infra.tasks.views import list_tasks as read_tasks
from infra.tasks.views import task_json

routes = Routes("tasks")


class TaskQuery(PageQuery):
    status: Annotated[Status | None, Field(description="Only tasks in this state.")] = None


@routes.post("/v1/tasks", answer=answers.Task, status=202, idempotent=True)
def start_task(call: Call, body: StartTask) -> Reply:
    """Start a task. From 202 on it is not lost, whatever breaks; watch it at `/events` or on the stream."""
    return _done(actions.start_task(call.services, call.user_id, body, key=call.key))


@routes.get("/v1/tasks", answer=answers.Page[answers.Task])
def list_tasks(call: Call, query: TaskQuery) -> Json:
    """Your tasks, newest first."""
    before = decode_id(query.cursor)
    with call.services.database.read() as connection:
        rows = read_tasks(connection, user_id=call.user_id, before=before, limit=query.limit + 1, status=query.status)
    return page([task_json(row) for row in rows], query.limit, lambda item: encode(item["id"]))


@routes.get("/v1/tasks/<uuid:task_id>", answer=answers.Task)
def get_task(call: Call, task_id: UUID) -> Json:
    """One task."""
    return task_json(own_task(call, task_id))


@routes.delete("/v1/tasks/<uuid:task_id>")
def delete_task(call: Call, task_id: UUID) -> Reply:
    """Forget an ended task with its events, messages and patch. Its branch stays where it was pushed."""
    with call.services.tasks.transaction() as tx:
        transitions.delete(tx, task_id, user_id=call.user_id)
    return Reply(None)


@routes.post("/v1/tasks/<uuid:task_id>/messages", answer=answers.Task, status=202, idempotent=True)
def send_message(call: Call, task_id: UUID, body: SendMessage) -> Reply:
    """Say something to the agent. It reads it before its next model call; an ended task wakes up."""
    return _done(actions.send_message(call.services, call.user_id, task_id, body.text, key=call.key))


@routes.post("/v1/tasks/<uuid:task_id>/answer", answer=answers.Task, status=202, idempotent=True)
def answer_question(call: Call, task_id: UUID, body: AnswerQuestion) -> Reply:
    """Answer the agent's question. 409 `no_question` unless it asked that one and waits."""
    return _done(actions.answer_question(call.services, call.user_id, task_id, body, key=call.key))


@routes.post("/v1/tasks/<uuid:task_id>/cancel", answer=answers.Task, status=202, idempotent=True)
def cancel_task(call: Call, task_id: UUID, body: NoFields) -> Reply:  # noqa: ARG001  (says that there is no field)
    """End a task. What nobody runs is cancelled at once; a running one as soon as its sandbox is dead."""
    return _done(actions.cancel_task(call.services, call.user_id, task_id, key=call.key))


@routes.post("/v1/tasks/<uuid:task_id>/retry", answer=answers.Task, status=202, idempotent=True)
def retry_task(call: Call, task_id: UUID, body: Retry) -> Reply:
    """Make an ended task pending again. It goes on from its last recorded step."""
    return _done(actions.retry_task(call.services, call.user_id, task_id, body, key=call.key))


@routes.post("/v1/tasks/<uuid:task_id>/pull-request", answer=answers.Task, status=202, idempotent=True)
def request_pull_request(call: Call, task_id: UUID, body: NoFields) -> Reply:  # noqa: ARG001  (says: no field)
    """Open a pull request of the task's branch, or bring it up to date.

    A worker does so within seconds, and says how that ended in an event: `pull_request`, or `error`. A task has one.
    """
    return _done(actions.request_pull_request(call.services, call.user_id, task_id, key=call.key))


def own_task(call: Call, task_id: UUID) -> TaskRow:
    """The caller's task. Raises NotFoundError, also for somebody else's."""
    with call.services.database.read() as connection:
        row = read_task(connection, task_id, user_id=call.user_id)
    if row is None:
        raise NotFoundError("there is no such task")
    return row


def _done(done: Done) -> Reply:
    return Reply.once(done.task, replayed=done.replayed)
