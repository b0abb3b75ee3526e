"""What a project gives its tasks: variables, secrets for tests, a setup script, an image. Said, checked and explained.

Variables are shown, secrets never; commands can read both. Decision 14 says where each of them goes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select

from infra.crypto import KeyRing
from infra.tables import Project

MAX_VARIABLES = 50
"""Of each kind, variables and secrets."""
MAX_NAME_CHARS = 100
MAX_VALUE_CHARS = 8192
MAX_ALL_BYTES = 64 * 1024
"""Names and values of all variables; the same for the secrets of one request. A command's memory has to hold them."""
MIN_SECRET_CHARS = 8
"""A shorter one can't be masked without tearing ordinary text apart."""
MAX_SCRIPT_CHARS = 32_768
MAX_IMAGE_CHARS = 256

OWN_IMAGES = "farhand-"
"""Names of images that begin so are Farhand's own, its services' among them: no project names one."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = frozenset({"HOME", "USER", "LOGNAME", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "_"})
_RESERVED_PREFIXES = ("FARHAND_", "IN_FARHAND_")

_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*(?::[0-9]{1,5})?/)?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>{_HOST}{_PART}(?:/{_PART})*)(?P<tag>:[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}})?(?P<digest>@sha256:[0-9a-f]{{64}})?"
)


@dataclass(frozen=True, slots=True)
class Environment:
    """A project's environment as an attempt uses it. `secrets` are in the clear: keep them out of logs and reprs.

    `fingerprint` is another one whenever the project's environment was changed; it is made of what is stored, where
    secrets are sealed, and so tells nothing of them.
    """

    image: str | None = None
    setup_script: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    fingerprint: str = ""


def check_name(name: str) -> str:
    """The name of a variable. Raises ValueError with what is wrong."""
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        raise ValueError(
            f"{name[:40]!r} is not the name of a variable: letters, digits and _, at most {MAX_NAME_CHARS}"
        )
    if name.upper() in _RESERVED or name.upper().startswith(_RESERVED_PREFIXES):
        raise ValueError(f"{name} is set by the sandbox itself")
    return name


def check_value(name: str, value: str) -> None:
    """Raises ValueError. The value is never repeated: it may be a secret."""
    if len(value) > MAX_VALUE_CHARS:
        raise ValueError(f"the value of {name} has more than {MAX_VALUE_CHARS} characters")
    if "\0" in value:
        raise ValueError(f"the value of {name} has a NUL character, which no environment can hold")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError(f"the value of {name} is not text")


def check_secret(name: str, value: str) -> None:
    """Raises ValueError without the value."""
    check_value(name, value)
    if len(value.strip()) < MIN_SECRET_CHARS:
        raise ValueError(
            f"the secret {name} has less than {MIN_SECRET_CHARS} characters: too few to be masked; make it a variable"
        )


def check_together(variables: Mapping[str, str], secret_names: frozenset[str]) -> None:
    """What holds for all of them at once. Raises ValueError."""
    for what, count in (("variables", len(variables)), ("secrets", len(secret_names))):
        if count > MAX_VARIABLES:
            raise ValueError(f"at most {MAX_VARIABLES} {what}")
    if both := sorted(variables.keys() & secret_names):
        raise ValueError(f"{', '.join(both)}: a variable and a secret cannot have the same name")
    check_size("variables", variables)


def check_size(what: str, values: Mapping[str, str]) -> None:
    """Raises ValueError."""
    if sum(len(f"{name}={value}".encode()) + 1 for name, value in values.items()) > MAX_ALL_BYTES:
        raise ValueError(f"all {what} together have more than {MAX_ALL_BYTES} bytes")


def check_image(reference: str, allowed: tuple[str, ...]) -> str:
    """A reference in normal form: always with a tag or a digest, so that no engine takes it for an image's id.

    `allowed` are the operator's patterns, FARHAND_PROJECT_IMAGES. Raises ValueError with what is wrong.
    """
    found = _REFERENCE.fullmatch(reference) if len(reference) <= MAX_IMAGE_CHARS else None
    if found is None or found["name"] in ("sha256", "scratch"):
        raise ValueError(
            f"{reference[:80]!r} is not an image, such as python:3.12 or registry.example/team/ci@sha256:…"
        )
    if found["tag"] and found["digest"]:
        raise ValueError("give a tag or a digest of the image, not both")
    name = _familiar(found["name"])
    normal = f"{name}{found['tag'] or ''}{found['digest'] or ''}"
    normal = normal if normal != name else f"{name}:latest"
    if name.startswith(OWN_IMAGES):
        raise ValueError(f"{name}: images whose names begin with {OWN_IMAGES} are Farhand's own")
    if not any(fnmatchcase(normal, pattern) for pattern in allowed):
        raise ValueError(f"{normal} is none of the images that this deployment's operator allows to projects")
    return normal


def seal(secrets: Mapping[str, str], keys: KeyRing) -> dict[str, str]:
    """Each value encrypted, as it is stored."""
    return {name: keys.encrypt(value).decode() for name, value in secrets.items()}


def environment_of(connection: Connection, project_id: UUID, keys: KeyRing) -> Environment:
    """Raises ConfigurationError when no key opens a secret."""
    row: Any = connection.execute(
        select(Project.image, Project.setup_script, Project.variables, Project.secrets).where(Project.id == project_id)
    ).one()
    opened = {name: keys.decrypt(sealed.encode()) for name, sealed in row.secrets.items()}
    stored = json.dumps(list(row), sort_keys=True)
    return Environment(row.image, row.setup_script, row.variables, opened, hashlib.sha256(stored.encode()).hexdigest())


def in_words(environment: Environment) -> str:
    """For the agent's instructions; empty where there is nothing to say."""
    said = []
    if environment.setup_script is not None:
        said.append(
            "The project's setup script has been run: files that git ignores and the home directory are as it left "
            "them."
        )
    if environment.variables:
        said.append(f"Commands have the project's variables {_names(environment.variables)}.")
    if environment.secrets:
        said.append(
            f"Commands have secrets for the tests in {_names(environment.secrets)}. Their values are masked as ***"
            " wherever you could see them: use them by name, and write them into no file."
        )
    return " ".join(said)


def _familiar(name: str) -> str:
    """As engines show it: the registry that is meant without saying so is left out."""
    for registry in ("docker.io/", "index.docker.io/"):
        name = name.removeprefix(registry)
    return name.removeprefix("library/")


def _names(values: Mapping[str, str]) -> str:
    return ", ".join(sorted(values))
