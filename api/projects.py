"""Routes of projects. SQL and rules stand in `infra.projects`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pydantic import Field
from sqlalchemy import Connection

from api import answers
from api.environments import (
    ChangeEnvironment,
    environment_values,
    environments_json,
    refuse_unusable_image,
    without_secrets,
)
from api.fields import EgressHosts, Line, Name, Secret, Url
from api.idempotency import once
from api.pages import PageQuery, decode_id, encode, page
from api.routes import Call, Json, Reply, Routes
from infra import projects
from infra.egress import Word, check_egress
from infra.errors import InvalidInputError
from infra.projects import PullRequestMode
from infra.repo_url import check_repo_url
from infra.services import Services
from infra.tasks.log import rfc3339

routes = Routes("projects")


class ChangeProject(ChangeEnvironment):
    """What is left out stays; null takes a credential away, and the image, the script, a secret."""

    name: Name | None = None
    git_username: Line | None = Field(None, description="Default: x-access-token.")
    git_token: Secret | None = Field(None, description="Sent as HTTP password. Write-only.")
    egress: Word | EgressHosts | None = Field(
        None,
        description="What its sandboxes may reach: `none` (the default), `registries` (the usual package hosts), "
        "`open` (any public host), or a list of `host`, `host:port` and `*.suffix`. Counts from a task's next attempt.",
    )
    pull_request: PullRequestMode | None = Field(
        None,
        description="When a task gets a pull request: `never`, `on_request` (default) or `always`, as it completes.",
    )


class NewProject(ChangeProject):
    """A git repository, with a token if it is private."""

    repo_url: Url


@routes.post("/v1/projects", answer=answers.Project, status=201, idempotent=True)
def create_project(call: Call, body: NewProject) -> Reply:
    """Make a project of a repository. A task on a `repo_url` makes one by itself."""
    url = check_repo_url(body.repo_url, call.services.settings.allowed_repo_hosts)
    values = _values(body, None, call.services)
    refuse_unusable_image(body, call.user_id, call.services)

    def act(connection: Connection) -> Json:
        return _project_json(connection, projects.create(connection, user_id=call.user_id, repo_url=url, values=values))

    key = call.key_of("create_project", without_secrets(body, call.services))
    made = once(call.services, key, act, status=201)
    return Reply.once(made.body, replayed=made.replayed)


@routes.get("/v1/projects", answer=answers.Page[answers.Project])
def list_projects(call: Call, query: PageQuery) -> Json:
    """Your projects, newest first."""
    before = decode_id(query.cursor)
    with call.services.database.read() as connection:
        rows = projects.list_newest_first(connection, user_id=call.user_id, before=before, limit=query.limit + 1)
        items = _projects_json(connection, rows)
    return page(items, query.limit, lambda item: encode(item["id"]))


@routes.get("/v1/projects/<uuid:project_id>", answer=answers.Project)
def get_project(call: Call, project_id: UUID) -> Json:
    """One project."""
    with call.services.database.read() as connection:
        return _project_json(connection, projects.get(connection, project_id, user_id=call.user_id))


@routes.patch("/v1/projects/<uuid:project_id>", answer=answers.Project)
def change_project(call: Call, project_id: UUID, body: ChangeProject) -> Json:
    """Change all but its repository: for another one, make another project."""
    with call.services.database.read() as connection:
        _values(body, projects.get(connection, project_id, user_id=call.user_id), call.services)
    refuse_unusable_image(body, call.user_id, call.services)
    with call.services.database.begin() as connection:
        row = projects.get(connection, project_id, user_id=call.user_id, to_change=True)
        values = _values(body, row, call.services)
        changed = projects.change(connection, project_id, user_id=call.user_id, values=values)
        return _project_json(connection, changed)


@routes.delete("/v1/projects/<uuid:project_id>")
def delete_project(call: Call, project_id: UUID) -> Reply:
    """Forget a project and its tasks, all of which must have ended. Branches that were pushed stay."""
    with call.services.database.begin() as connection:
        projects.remove(connection, project_id, user_id=call.user_id)
    return Reply(None)


def _values(body: ChangeProject, row: projects.ProjectRow | None, services: Services) -> dict[str, Any]:
    """The columns that a request names; `row` is the project as it is. Raises InvalidInputError."""
    given = body.model_dump(include=body.model_fields_set & {"name", "git_username", "pull_request"})
    for never_null in ("name", "pull_request"):
        if given.get(never_null, "") is None:
            del given[never_null]
    if "git_token" in body.model_fields_set:
        given["git_token_encrypted"] = None if body.git_token is None else services.keys.encrypt(body.git_token)
    if "egress" in body.model_fields_set:
        given["egress"] = _egress(body, services.settings.egress_allow)
    return {**given, **environment_values(body, row, services)}


def _egress(body: ChangeProject, operator: tuple[str, ...]) -> Any:
    try:
        return check_egress("none" if body.egress is None else body.egress, operator)
    except ValueError as error:
        raise InvalidInputError(
            f"egress: {error}",
            hint='Give "none", "registries", "open", or a list such as ["example.com", "*.example.org:8443"].',
            code="egress_invalid",
        ) from None


def _project_json(connection: Connection, row: projects.ProjectRow) -> Json:
    return _projects_json(connection, [row])[0]


def _projects_json(connection: Connection, rows: Sequence[projects.ProjectRow]) -> list[Json]:
    environments = environments_json(connection, rows)
    return [_row_json(row) | environment for row, environment in zip(rows, environments, strict=True)]


def _row_json(row: projects.ProjectRow) -> Json:
    return {
        "id": str(row.id),
        "repo_url": row.repo_url,
        "name": row.name,
        "git_username": row.git_username,
        "has_git_token": row.git_token_encrypted is not None,
        "egress": row.egress,
        "pull_request": row.pull_request,
        "created_at": rfc3339(row.created_at),
    }
