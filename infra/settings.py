"""Every setting of a deployment: `FARHAND_*` environment variables, read once, frozen.

The table in `docs/settings.md` is checked against this class by a test.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from infra.egress import parse_literals
from infra.github import check_github_hosts


def _split(value: object) -> object:
    """`"a, b"` as `("a", "b")`: lists in environment variables are separated by commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _address(*schemes: str) -> AfterValidator:
    """Empty, or an address of one of these schemes: a typo is told by its name, before anything connects."""

    def check(value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in schemes or (parts.port or 0) < 0):  # a port that is no number raises
            raise ValueError(f"An address starts with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    return AfterValidator(check)


def _literals(value: tuple[str, ...]) -> tuple[str, ...]:
    parse_literals(value)
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
GitHubHosts = Annotated[Names, AfterValidator(check_github_hosts)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """One deployment's settings. Durations are seconds, sizes bytes, money US dollars, unless a name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="FARHAND_", frozen=True, extra="ignore", populate_by_name=True)

    database_url: Annotated[str, _address("postgresql", "postgres", "postgresql+psycopg")] = Field(
        "", description="Postgres, as `postgresql://user:password@host:port/name`."
    )
    redis_url: Annotated[str, _address("redis", "rediss", "unix")] = Field(
        "", description="Redis, as `redis://[:password@]host:port/db` (`rediss:` for TLS)."
    )
    secret_keys: Secrets = Field(
        (), description="Key ring for secrets at rest and for sessions: first encrypts, all decrypt."
    )
    run_dir: Path = Field(
        Path("/run/farhand"),
        description="Sockets, mirrors, locks of a worker host. Short: a socket path has 108 bytes.",
    )

    sandbox: Literal["auto", "docker", "local"] = Field(
        "auto", description="Where agents run; `auto` is docker where an engine answers."
    )
    agent_image: str = Field("farhand-agent:1", description="Image of a sandbox.")
    container_runtime: str = Field(
        "", description="Runtime of the engine for sandboxes, such as `runsc`; empty is the engine's default."
    )
    sandbox_memory_bytes: int = Field(
        3 * 2**30, ge=2**28, description="Memory of one sandbox, its files included; no swap."
    )
    sandbox_disk_bytes: int = Field(1 * 2**30, ge=2**24, description="Work directory of one sandbox (a tmpfs).")
    sandbox_cpus: float = Field(2.0, gt=0, description="CPUs of one sandbox.")
    sandbox_pids: int = Field(512, ge=32, description="Processes of one sandbox.")
    warm_sandboxes: int = Field(
        1, ge=0, le=1000, description="Sandboxes that each worker keeps started for tasks to come; 0 starts none ahead."
    )

    anthropic_api_key: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("FARHAND_ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY"),
        description="Key of the Messages API; falls back to ANTHROPIC_API_KEY.",
    )
    workers_have_model_key: bool = Field(
        False, description="For the API and the gateway: take tasks for real models without a key of their own."
    )
    anthropic_base_url: str = Field("https://api.anthropic.com", description="Address of the Messages API.")
    model: str = Field("claude-sonnet", description="Default model: an alias of the model table or a full name.")
    model_deadline: float = Field(600.0, gt=0, description="One model call, its retries included.")
    model_idle_timeout: float = Field(
        120.0, gt=0, description="Silence of the model within one call before it is tried again."
    )
    model_prices: Path | None = Field(None, description="JSON file of prices that override the built-in table.")
    recordings: Path | None = Field(None, description="Directory of recordings for `model: replay:<name>`.")
    default_budget_usd: Decimal = Field(Decimal(5), gt=0, description="Budget of a task that names none.")
    max_budget_usd: Decimal = Field(Decimal(100), gt=0, description="Largest budget that a task may name.")

    allowed_repo_hosts: Names = Field((), description="Exceptions: `host` or `host:port` that are private, or `file`.")
    github_hosts: GitHubHosts = Field(
        (),
        description="GitHub Enterprise hosts, as `host` or `host=address of its REST API`; github.com needs no entry.",
    )
    egress_allow: Annotated[Names, AfterValidator(_literals)] = Field(
        (), description="`host:port` literals, private ones too, that every project with egress may reach."
    )
    git_timeout: float = Field(300.0, gt=0, description="One clone, fetch or push.")
    git_idle_timeout: float = Field(
        60.0, ge=1, description="Silence of a repository's host before a clone, fetch or push is given up."
    )
    max_repo_bytes: int = Field(2 * 2**30, gt=0, description="Largest mirror of a repository.")

    registration: Literal["closed", "invite", "open"] = Field(
        "closed", description="Who may register after the first user."
    )
    access_token_ttl: int = Field(900, ge=60, description="Life of an access token.")
    refresh_token_ttl: int = Field(30 * 86400, ge=3600, description="Life of a refresh token.")
    auth_rate_limit: str = Field("10/minute", description="Logins, registrations and refreshes of one address.")
    max_concurrent_tasks: int = Field(
        10, ge=1, description="Running tasks of one user, unless `farhand limits` says otherwise; more stay pending."
    )
    public_url: str = Field(
        "",
        description="Origin that browsers use, such as `https://farhand.example`; empty: the request's own.",
    )

    worker_slots: int = Field(4, ge=1, description="Tasks that one worker process runs at a time.")
    concurrent_starts: int = Field(
        4, ge=1, description="Tasks that one worker process starts at a time; more wait in line and say so."
    )
    min_free_bytes: int = Field(
        2**29, ge=0, description="Free space below FARHAND_RUN_DIR without which a worker takes no new task."
    )
    lease_ttl: float = Field(10.0, ge=1, description="A worker without a heartbeat for this long has lost its tasks.")
    task_wall_clock: float = Field(3600.0, gt=0, description="One attempt of a task.")
    task_work_bytes: int = Field(
        2**30, ge=2**20, description="Changes of one task that are kept between pushes, of all its steps together."
    )
    max_steps: int = Field(200, ge=1, description="Model calls of one attempt.")
    command_timeout: float = Field(30.0, gt=0, description="A command of the agent that names no timeout.")
    max_command_timeout: float = Field(600.0, gt=0, description="Longest timeout that the agent may name.")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")


OTHER_VARIABLES = frozenset({"FARHAND_DATA", "FARHAND_SERVER", "FARHAND_TOKEN", "FARHAND_PYTHON", "FARHAND_REQUIRE"})
"""What commands, `./farhand` and tests read, not services."""


def unknown_variables(names: Iterable[str]) -> list[str]:
    """A sentence for each `FARHAND_*` variable that nothing reads, with the name that was probably meant."""
    known = {_variable((field,)) for field in Settings.model_fields} | OTHER_VARIABLES
    strangers = sorted({name for name in names if name.upper().startswith("FARHAND_")} - known)
    return [_stranger(name, known) for name in strangers if name.upper() not in known]


def _stranger(name: str, known: Iterable[str]) -> str:
    # Without the prefix, which would make every name look like every other.
    rests = [other.removeprefix("FARHAND_") for other in known]
    meant = difflib.get_close_matches(name.upper().removeprefix("FARHAND_"), rests, n=1)
    return f"{name} is set, but there is no such setting" + (f"; did you mean FARHAND_{meant[0]}?" if meant else "")


@lru_cache(maxsize=1)
def load() -> Settings:
    """The settings of this process. Later changes of the environment are not seen.

    Raises:
        ConfigurationError: a value is not what its setting takes; the message names the variables.
    """
    from pydantic import ValidationError

    from infra.errors import ConfigurationError

    try:
        return Settings()  # type: ignore[call-arg]  # all fields come from the environment
    except ValidationError as error:
        wrong = "; ".join(f"{_variable(e['loc'])}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        raise ConfigurationError(f"invalid settings: {wrong}") from None


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0])
    return name if name.startswith(("FARHAND_", "ANTHROPIC_")) else f"FARHAND_{name.upper()}"
