"""What a user can do with tasks, for REST and for the stream alike.

Each is one transaction; the doorbells ring after its commit and may be lost (the sweep and the worker's poll make up).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from pydantic import Field, model_validator

from api import idempotency
from api.fields import BranchName, Line, Name, Request, Text, Url, Usd
from api.idempotency import Json, Key
from infra.agents import AGENTS, DEFAULT_AGENT, AgentDefinition
from infra.errors import InvalidInputError
from infra.models import check_model
from infra.repo_url import check_repo_url
from infra.services import Services
from infra.settings import Settings
from infra.tasks import pull_requests, transitions
from infra.tasks.log import TaskRow, Transaction
from infra.tasks.states import Status
from infra.tasks.views import task_json


class StartTask(Request):
    """A coding task on a git repository: `repo_url`, or `project_id` of one of the caller's projects."""

    repo_url: Url | None = None
    project_id: UUID | None = None
    prompt: Text
    base_branch: BranchName | None = Field(None, description="Default: the default branch of the repository.")
    model: Line | None = Field(None, min_length=1, description="An alias, a full name, or `replay:<recording>`.")
    budget_usd: Usd | None = None
    agent: Name | None = None

    @model_validator(mode="after")
    def _one_repository(self) -> StartTask:
        if (self.repo_url is None) == (self.project_id is None):
            raise ValueError("give exactly one of repo_url and project_id")
        return self


class SendMessage(Request):
    text: Text


class Retry(Request):
    """A new attempt at an ended task; it goes on from its last recorded step."""

    budget_usd: Usd | None = Field(None, description="A new budget for the whole task, what is spent included.")


class NoFields(Request):
    """The body may be empty."""


@dataclass(frozen=True, slots=True)
class Done:
    """The task as the action left it, in wire form. `replayed`: an earlier request with the same key did it."""

    task: Json
    replayed: bool = False


def start_task(services: Services, user_id: UUID, request: StartTask, *, key: str | None = None) -> Done:
    """Store a task and wake a worker. `key` makes it idempotent.

    Raises:
        InvalidInputError: and its children, for what no schema can tell (model, its key, repository, budget, agent).
        NotFoundError: the project is not there or somebody else's.
    """
    agent = _agent(request.agent)
    model = check_model(request.model or agent.model or services.settings.model, services.settings)
    budget = _checked_budget(request.budget_usd, services.settings)
    url = request.repo_url and check_repo_url(request.repo_url, services.settings.allowed_repo_hosts)

    new = transitions.NewTask(
        user_id=user_id,
        project_id=request.project_id,
        repo_url=url or "",
        prompt=request.prompt,
        agent=agent.name,
        model=model,
        base_branch=request.base_branch,
        budget_usd=budget,
        user_limit=services.settings.max_concurrent_tasks,
    )
    if key is None:
        with services.tasks.single_statement() as tx:
            row = transitions.create(tx, new)
        return _rung(services, row)
    asked = request.model_dump(mode="json")
    return _perform(
        services,
        user_id=user_id,
        operation="start_task",
        asked=asked,
        key=key,
        act=lambda tx: transitions.create(tx, new),
    )


def cancel_task(services: Services, user_id: UUID, task_id: UUID, *, key: str | None = None) -> Done:
    """End a task: at once when nobody runs it, else as soon as its worker has killed the sandbox."""

    def act(tx: Transaction) -> TaskRow:
        return transitions.request_cancel(tx, task_id, user_id=user_id)

    return _perform(
        services, user_id=user_id, operation="cancel_task", asked={"task_id": str(task_id)}, key=key, act=act
    )


def send_message(services: Services, user_id: UUID, task_id: UUID, text: str, *, key: str | None = None) -> Done:
    """Say something to the agent; an ended task wakes up. `text` must have passed `SendMessage`."""

    def act(tx: Transaction) -> TaskRow:
        return transitions.add_message(tx, task_id, text, user_id=user_id)

    return _perform(
        services,
        user_id=user_id,
        operation="send_message",
        asked={"task_id": str(task_id), "text": text},
        key=key,
        act=act,
    )


def retry_task(services: Services, user_id: UUID, task_id: UUID, request: Retry, *, key: str | None = None) -> Done:
    """Make an ended task pending again. Raises ConflictError (`task_not_ended`)."""
    budget = request.budget_usd and _checked_budget(request.budget_usd, services.settings)

    def act(tx: Transaction) -> TaskRow:
        return transitions.retry(tx, task_id, user_id=user_id, budget_usd=budget)

    asked = {"task_id": str(task_id), **request.model_dump(mode="json")}
    return _perform(services, user_id=user_id, operation="retry_task", asked=asked, key=key, act=act)


def request_pull_request(services: Services, user_id: UUID, task_id: UUID, *, key: str | None = None) -> Done:
    """Want the pull request of a task; a worker sees to it. Raises ConflictError where there can be none."""

    def act(tx: Transaction) -> TaskRow:
        hosts = services.settings.github_hosts
        return pull_requests.request(tx, task_id, user_id=user_id, github_hosts=hosts)

    return _perform(
        services,
        user_id=user_id,
        operation="request_pull_request",
        asked={"task_id": str(task_id)},
        key=key,
        act=act,
    )


def _perform(
    services: Services,
    *,
    user_id: UUID,
    operation: str,
    asked: Json,
    key: str | None,
    act: Callable[[Transaction], TaskRow],
) -> Done:
    claimed = None if key is None else Key.of(user_id, operation, key, asked)
    with services.tasks.transaction() as tx:
        if claimed and (kept := idempotency.claim(tx.connection, claimed)) is not None:
            return Done(kept, replayed=True)
        row = act(tx)
        if claimed:
            idempotency.keep(tx.connection, claimed, 202, task_json(row))
    return _rung(services, row)


def _rung(services: Services, row: TaskRow) -> Done:
    """After the doorbells for what the row says now. One too many is harmless: the claim in Postgres decides.

    A task beyond its user's limit waits for its turn without one.
    """
    if row.status == Status.PENDING and row.enqueued_at is not None:
        services.wake_ups.send(row.id, row.attempt + 1)
    elif row.cancel_requested_at is not None:
        services.bus.ring_cancel(row.id)
    return Done(task_json(row))


def _agent(name: str | None) -> AgentDefinition:
    found = AGENTS.get(name or DEFAULT_AGENT)
    if found is None:
        raise InvalidInputError(
            f"unknown agent {name!r}", hint=f"Use one of: {', '.join(sorted(AGENTS))}.", code="unknown_agent"
        )
    return found


def _checked_budget(asked: Decimal | None, settings: Settings) -> Decimal:
    budget = asked or settings.default_budget_usd
    if budget > settings.max_budget_usd:
        raise InvalidInputError(
            f"budget_usd is more than {settings.max_budget_usd}, the most that a task may have here",
            hint="Ask for less, or ask the operator to raise FARHAND_MAX_BUDGET_USD.",
            code="budget_too_large",
        )
    return budget
