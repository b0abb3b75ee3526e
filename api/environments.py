"""The environment of a project in requests and answers: image, setup script, variables, secrets.

An image is looked at by a worker, since the API has no engine. A request that names one waits for the verdict, up to
FARHAND_IMAGE_CHECK_WAIT: a refusal is its answer, and nothing is saved. Without a verdict by then (an image that is
pulled, no worker) the project is saved, and says `checking` until there is one.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from pydantic import Field
from sqlalchemy import Connection

from api.fields import ImageName, Request, Script, SecretChanges, Variables
from infra import images_asked
from infra.environment import (
    check_image,
    check_name,
    check_secret,
    check_size,
    check_together,
    check_value,
    seal,
)
from infra.errors import InvalidInputError
from infra.projects import ProjectRow
from infra.services import Services

Json = dict[str, Any]

_LOOK_S = 0.2

_READABLE = "The agent's commands, and code that they run, can read it"


class ChangeEnvironment(Request):
    """The fields of a project that make its sandboxes' environment. They count from a task's next attempt."""

    image: ImageName | None = Field(
        None,
        description="Image of its sandboxes: any with Python 3.8 or later, git and a shell. A worker looks at it "
        "before the project is saved; one that takes longer, as it has to be pulled, shows in `image_check`. null: the "
        "deployment's own.",
    )
    setup_script: Script | None = Field(
        None,
        description="Run by a shell in the workspace before the first step, with the project's `egress` and "
        "`variables`, without its `secrets`. Once: what it leaves in files that git ignores and in the home "
        "directory is kept until image, script, variables or lock files change.",
    )
    variables: Variables | None = Field(
        None, description="Environment variables of the agent's commands: all of them, the others are dropped. Shown."
    )
    secrets: SecretChanges | None = Field(
        None,
        description="Secrets for the tests, as environment variables of the agent's commands. Those named are set, or "
        "dropped by null; the others stay. Encrypted at rest, never shown again, masked in events and recordings. "
        f"{_READABLE}, and may send it wherever `egress` leads: give no secret whose loss would hurt.",
    )


def environment_values(body: ChangeEnvironment, row: ProjectRow | None, services: Services) -> Json:
    """The columns that a request names; `row` is the project as it is. Raises InvalidInputError."""
    given: Json = {}
    if "setup_script" in body.model_fields_set:
        given["setup_script"] = body.setup_script
    if "image" in body.model_fields_set:
        given["image"] = image_of(body, services)
    variables = row.variables if row is not None else {}
    secrets = row.secrets if row is not None else {}
    try:
        if "variables" in body.model_fields_set:
            given["variables"] = variables = _checked(body.variables or {})
        if "secrets" in body.model_fields_set:
            given["secrets"] = secrets = _merged(secrets, body.secrets or {}, services)
        if given.keys() & {"variables", "secrets"}:
            check_together(variables, frozenset(secrets))
    except ValueError as error:
        raise InvalidInputError(
            f"environment: {error}",
            hint='Give `variables` and `secrets` as {"NAME": "value"}, each name once.',
            code="environment_invalid",
        ) from None
    return given


def image_of(body: ChangeEnvironment, services: Services) -> str | None:
    """The image that a request names, in normal form. Raises InvalidInputError (`image_invalid`)."""
    if body.image is None:
        return None
    try:
        return check_image(body.image, services.settings.project_images)
    except ValueError as error:
        raise InvalidInputError(
            f"image: {error}",
            hint="Name it as `docker pull` takes it. The operator lists allowed ones in FARHAND_PROJECT_IMAGES.",
            code="image_invalid",
        ) from None


def refuse_unusable_image(body: ChangeEnvironment, user_id: UUID, services: Services) -> None:
    """Have a worker look at the image that a request names, and wait for its verdict for a while.

    Raises:
        InvalidInputError: with the worker's code, message and hint.
        ConflictError: `too_many_image_checks`.
    """
    image = image_of(body, services)
    if image is None:
        return
    with services.database.begin() as connection:
        images_asked.ask(connection, image, user_id=user_id)
    deadline = time.monotonic() + services.settings.image_check_wait
    while time.monotonic() < deadline:
        with services.database.read() as connection:
            seen = images_asked.found(connection, {image}).get(image)
        if seen is None or seen["state"] == "ready":
            return
        if seen["state"] == "refused":
            error = seen["error"]
            raise InvalidInputError(error["message"], hint=error["hint"], code=error["code"])
        time.sleep(_LOOK_S)


def environments_json(connection: Connection, rows: Iterable[ProjectRow]) -> list[Json]:
    """What answers show of each project's environment."""
    rows = list(rows)
    seen = images_asked.found(connection, {row.image for row in rows if row.image is not None})
    return [
        {
            "image": row.image,
            "image_check": row.image and seen.get(row.image, {"state": "checking", "error": None}),
            "setup_script": row.setup_script,
            "variables": row.variables,
            "secret_names": sorted(row.secrets),
        }
        for row in rows
    ]


def without_secrets(body: ChangeEnvironment, services: Services) -> Json:
    """The request with each secret as a keyed digest: what is kept to recognise its repeat must not tell it."""
    dumped = body.model_dump(mode="json")
    key = services.keys.signing_keys("idempotency")[-1]
    digests = {
        name: value and hmac.new(key, value.encode(), "sha256").hexdigest()
        for name, value in (body.secrets or {}).items()
    }
    return {**dumped, "secrets": digests}


def _checked(variables: dict[str, str]) -> dict[str, str]:
    for name, value in variables.items():
        check_value(check_name(name), value)
    return variables


def _merged(sealed: dict[str, str], changes: dict[str, str | None], services: Services) -> dict[str, str]:
    new = {check_name(name): value for name, value in changes.items() if value is not None}
    for name, value in new.items():
        check_secret(name, value)
    check_size("secrets", new)
    kept = {name: value for name, value in sealed.items() if name not in changes}
    return {**kept, **seal(new, services.keys)}
