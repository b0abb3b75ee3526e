"""`farhand doctor`: looks at what a deployment needs, and says what to do about what is wrong."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.text import Text

from infra import settings
from infra.cli.data_dir import DataDir
from infra.cli.databases import REDIS_URL
from infra.cli.engine import look_for_engine
from infra.cli.options import data_option
from infra.cli.output import json_option, print_json
from infra.embedded import postgres as embedded_postgres
from infra.embedded import redis as embedded_redis
from infra.errors import FarhandError, UnavailableError
from infra.settings import Settings

Verdict = Literal["ok", "note", "wrong"]

LEAST_PYTHON = (3, 11)
LEAST_GIT = (2, 37)
"""Of the workers, which pin the address of a host."""
LEAST_POSTGRES = 15
LEAST_REDIS = (6, 2)
LEAST_FREE_BYTES = 5 * 2**30
LARGEST_CLOCK_GAP_S = 2.0

_MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "wrong": ("✗", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` says what to do, unless it is ok."""

    verdict: Verdict
    what: str
    advice: str = ""


Findings = Iterator[Finding]


@click.command(name="doctor")
@json_option
@data_option
def doctor(data: Path, *, as_json: bool) -> None:
    """Check what a deployment needs, and say what to do.

    Looks at Docker, Postgres, Redis, versions, disk and clock of the deployment that FARHAND_DATABASE_URL and
    FARHAND_REDIS_URL name, else of the one in --data. Exit code 1 when something is wrong.
    """
    found = [finding for check in _checks(DataDir(data)) for finding in _carried_out(check)]
    if as_json:
        for finding in found:
            print_json(asdict(finding))
    else:
        _print(found)
    sys.exit(any(finding.verdict == "wrong" for finding in found))


def _print(found: list[Finding]) -> None:
    console = Console(highlight=False)
    for finding in found:
        mark, style = _MARKS[finding.verdict]
        console.print(Text.assemble((mark, style), f" {finding.what}"), soft_wrap=True)
        if finding.advice:
            console.print(Text(f"    {finding.advice}", style="dim"), soft_wrap=True)


def _checks(data: DataDir) -> list[Callable[[], Findings]]:
    loaded = settings.load()
    run_dir = Path(os.environ.get("FARHAND_RUN_DIR") or data.run_dir())
    return [
        _programs,
        _variables,
        lambda: _docker(loaded),
        lambda: _database(loaded, data, run_dir),
        lambda: _redis(loaded, data),
        lambda: _keys(loaded),
        lambda: _model(loaded),
        lambda: _disk(data, run_dir),
    ]


def _carried_out(check: Callable[[], Findings]) -> Findings:
    try:
        yield from check()
    except FarhandError as error:
        yield Finding("wrong", f"{error.message} ({error.code})", error.hint)


def _programs() -> Findings:
    version = sys.version_info[:2]
    verdict: Verdict = "ok" if version >= LEAST_PYTHON else "wrong"
    yield Finding(verdict, f"Python {platform.python_version()}", "" if verdict == "ok" else "Install Python 3.11.")
    found = _numbers(_output("git", "--version"))
    if found < LEAST_GIT:
        yield Finding("wrong", "git is missing or too old", f"Install git {_dotted(LEAST_GIT)} or later.")
    else:
        yield Finding("ok", f"git {_dotted(found)}")


def _variables() -> Findings:
    for stranger in settings.unknown_variables(os.environ):
        yield Finding("note", stranger, "docs/settings.md lists them all. Correct the name, or unset it.")


def _docker(loaded: Settings) -> Findings:
    engine = look_for_engine(loaded.agent_image)
    missing: Verdict = "note" if loaded.sandbox != "docker" else "wrong"
    if loaded.sandbox == "local":
        yield Finding("note", "FARHAND_SANDBOX=local: commands of agents run on this host, without isolation")
    elif not engine.version:
        yield Finding(
            missing,
            f"no Docker Engine answers at {engine.host}: {engine.problem}",
            "Install Docker and see that this user may use it. Without it only recordings can be played.",
        )
    elif not engine.has_image:
        yield Finding(missing, f"Docker {engine.version} has no image {loaded.agent_image}", "Run `farhand image`.")
    else:
        yield Finding("ok", f"Docker {engine.version} with the image {loaded.agent_image}")


def _database(loaded: Settings, data: DataDir, run_dir: Path) -> Findings:
    """Raises FarhandError for what makes it unusable."""
    url = loaded.database_url
    if not url:
        if not (data.postgres / "postmaster.pid").exists():
            yield Finding("ok", f"Postgres {embedded_postgres.MAJOR}: the embedded one (not running)")
            return
        url = embedded_postgres.url_at(run_dir / "pg")
    from sqlalchemy import text

    from infra.db import Database
    from infra.migrate import check_schema

    database = Database(url, pool_size=1)
    try:
        with database.begin() as connection:
            asked = text("select current_setting('server_version_num')::int, extract(epoch from clock_timestamp())")
            number, clock = connection.execute(asked).one()
            gap = abs(float(clock) - time.time())
        old = number // 10000 < LEAST_POSTGRES
        advice = f"Use Postgres {LEAST_POSTGRES} or later." if old else ""
        yield Finding("wrong" if old else "ok", f"Postgres {number // 10000}.{number % 10000}", advice)
        if gap > LARGEST_CLOCK_GAP_S:
            yield Finding("note", f"the clocks of Postgres and this host differ by {gap:.1f} s", "Run NTP on both.")
        check_schema(database)
        yield Finding("ok", "the schema is that of this version")
    except UnavailableError as error:
        if loaded.database_url:
            raise
        # An `up` that was killed leaves its Postgres's pid file: the next start clears it away.
        yield Finding("note", f"the embedded Postgres is not running: {error.message}", "`farhand up` starts it.")
    finally:
        database.close()


def _redis(loaded: Settings, data: DataDir) -> Findings:
    url = loaded.redis_url or embedded_redis.url_in(data.redis)
    if url is None:
        yield Finding("ok", f"Redis {embedded_redis.program()[1]}: the embedded one (not running)")
        return
    import redis

    try:
        with redis.Redis.from_url(url, decode_responses=True, socket_timeout=5, socket_connect_timeout=5) as client:
            version: str = client.info("server")["redis_version"]
            options: dict[str, str] = client.config_get("maxmemory-policy", "appendonly")
    except redis.RedisError as error:
        if loaded.redis_url:
            yield Finding("wrong", f"Redis does not answer: {error}", f"Start it, or correct {REDIS_URL}.")
        else:
            yield Finding("ok", f"Redis {embedded_redis.program()[1]}: the embedded one (not running)")
        return
    yield from _redis_options(version, options)


def _redis_options(version: str, options: dict[str, str]) -> Findings:
    if _numbers(version) < LEAST_REDIS:
        yield Finding("wrong", f"Redis {version} is too old", f"Use Redis {_dotted(LEAST_REDIS)} or later.")
    else:
        yield Finding("ok", f"Redis {version}")
    if options.get("maxmemory-policy") != "noeviction":
        yield Finding(
            "wrong",
            f"Redis evicts keys ({options.get('maxmemory-policy')}): wake-ups and limits would vanish",
            "Set `maxmemory-policy noeviction`.",
        )
    if options.get("appendonly") != "yes":
        yield Finding("note", "Redis keeps nothing over a restart", "Set `appendonly yes`; else the sweep sends again.")


def _keys(loaded: Settings) -> Findings:
    """Raises ConfigurationError for a ring that no service starts with."""
    from infra.crypto import KeyRing

    if loaded.secret_keys:
        KeyRing.from_settings(loaded)
        yield Finding("ok", f"FARHAND_SECRET_KEYS holds {len(loaded.secret_keys)} key(s)")


def _model(loaded: Settings) -> Findings:
    if loaded.anthropic_api_key.get_secret_value():
        yield Finding("ok", f"a model key is set; the default model is {loaded.model}")
    elif loaded.workers_have_model_key:
        yield Finding("ok", f"the model key is with the workers; the default model is {loaded.model}")
    else:
        yield Finding(
            "note", "no model key: only recordings can be played", "Set FARHAND_ANTHROPIC_API_KEY for real models."
        )


def _disk(data: DataDir, run_dir: Path) -> Findings:
    for name, wanted in (("data", data.path), ("run", run_dir)):
        there = next(path for path in (wanted, *wanted.parents) if path.exists())
        free = shutil.disk_usage(there).free
        if free < LEAST_FREE_BYTES:
            yield Finding("note", f"{free / 2**30:.1f} GiB free for {wanted}", "Mirrors of repositories need room.")
        else:
            yield Finding("ok", f"{free / 2**30:.0f} GiB free for {wanted} ({name})")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _numbers(text: str) -> tuple[int, ...]:
    """The first version number in a text."""
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _dotted(version: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in version)
