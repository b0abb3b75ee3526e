"""What a client asks for over the stream, done by the same code as REST. `request_id` is the idempotency key."""

from __future__ import annotations

from uuid import UUID

from api import actions
from api.gateway.frames import Answer, Cancel, Command, Json, SendMessage, StartTask
from infra.errors import ConflictError, NotFoundError
from infra.services import Services
from infra.tasks.views import get_task


def perform(services: Services, user_id: UUID, command: Command) -> Json:
    """The task as the command left it, in wire form. Raises FarhandError and its children."""
    key = command.request_id
    match command:
        case StartTask():
            return actions.start_task(services, user_id, command.request(), key=key).task
        case SendMessage(task_id=task_id, text=text):
            return actions.send_message(services, user_id, task_id, text, key=key).task
        case Cancel(task_id=task_id):
            return actions.cancel_task(services, user_id, task_id, key=key).task
        case Answer(task_id=task_id):
            raise _no_question(services, user_id, task_id)


def _no_question(services: Services, user_id: UUID, task_id: UUID) -> ConflictError | NotFoundError:
    with services.database.read() as connection:
        if get_task(connection, task_id, user_id=user_id) is None:
            return NotFoundError("there is no such task")
    return ConflictError(
        "the agent has not asked anything", hint="Use send_message to say something.", code="no_question"
    )
