"""What a client asks for over the stream, done by the same code as REST. `request_id` is the idempotency key."""

from __future__ import annotations

from uuid import UUID

from api import actions
from api.gateway.frames import Answer, Cancel, Command, Json, SendMessage, StartTask
from infra.services import Services


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
        case Answer(task_id=task_id, question_id=question_id, text=text):
            answer = actions.AnswerQuestion(question_id=question_id, text=text)
            return actions.answer_question(services, user_id, task_id, answer, key=key).task
