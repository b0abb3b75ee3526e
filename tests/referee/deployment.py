"""A deployment in parts: three worker hosts, api, gateway, Postgres, Redis, git host, GitHub and model.

Each service reaches Postgres and Redis by a way of its own, so that it alone can be cut off. Everything listens on
loopback and is gone when the deployment is left, however it is left.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
from sqlalchemy import insert

from infra.cli import launch
from infra.cli.local_user import make_token
from infra.db import Database
from infra.ids import new_id
from infra.tables import User
from tests.contract.engine_proxy import EngineProxy
from tests.referee.hosts import Host, worker_command
from tests.referee.parts import Keeper, Part
from tests.referee.plans import BASE
from tests.referee.tcp_proxy import Roads, TcpProxy
from tests.referee.waiting import eventually
from tests.run_dir import new_run_dir
from tests.services import SECRET_KEY, Postgres, Redis
from tests.standin.github import GitHubStandIn
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn
from workers.open_files import allow_open_files

HOSTS = ("north", "east", "south")
CREDENTIALS = ("farhand", "a-git-password")
SLOTS = 16
TASKS_OF_THE_USER = 48
START_S = 120.0
CONNECTIONS = 500
"""Each of its parts has some tens at a time, and a way that can be cut holds both ends of each."""


@dataclass
class Deployment:
    """What runs. `sandbox` is docker or local."""

    sandbox: str
    lease_ttl: float
    scratch: Path
    roads: Roads
    keeper: Keeper
    postgres: Postgres
    redis: Redis
    git_host: GitServer
    github: GitHubStandIn
    model: ModelStandIn
    database_url: str
    ways: dict[str, TcpProxy]
    """By name: `api-postgres`, `api-redis`, the same of the gateway, `clients`, `git`, `github`, `model`."""
    hosts: list[Host] = field(default_factory=list)
    api: Part = field(init=False)
    gateway: Part = field(init=False)
    api_url: str = field(init=False)
    stopped_badly: list[str] = field(default_factory=list)

    @property
    def stream_url(self) -> str:
        """By the way that clients take."""
        return f"ws://127.0.0.1:{self.ways['clients'].port}/v1/stream"

    def new_user(self, name: str) -> str:
        """A token of a user more."""
        email = f"{name}@referee.invalid"
        with closing(Database(self.database_url, pool_size=1)) as database:
            with database.begin() as connection:
                connection.execute(insert(User).values(id=new_id(), email=email, password_hash="no password fits"))
            return make_token(database, email=email, name="referee")

    def repo_url(self, repo: str) -> str:
        return f"http://127.0.0.1:{self.ways['git'].port}/{repo}.git"

    def create_repo(self, repo: str) -> None:
        tree = self.scratch / "tree"
        if not tree.exists():
            tree.mkdir()
            for name, (_mode, content) in BASE.items():
                (tree / name).write_text(content)
        self.git_host.create(repo, from_dir=tree)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """From Postgres itself, past every proxy. Raises psycopg.Error when it is away."""
        with psycopg.connect(self.database_url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(query.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def stop_services(self) -> None:
        """As an operator does: TERM. What does not end in time is killed, and named in `stopped_badly`."""
        self.stopped_badly += self.keeper.stop_all()


@contextmanager
def deployed(
    trajectories: Mapping[str, Sequence[Any]], *, sandbox: str, lease_ttl: float, warm: int = 1
) -> Iterator[Deployment]:
    """Everything, started. Raises NeverHappenedError when it does not start; nothing is left in any case."""
    allow_open_files(CONNECTIONS)
    with ExitStack() as held:
        scratch = Path(tempfile.mkdtemp(prefix="fh-referee-"))
        held.callback(shutil.rmtree, scratch, ignore_errors=True)
        roads = Roads()
        held.callback(roads.close)
        postgres, redis = _databases(held)
        git_host = held.enter_context(GitServer(scratch / "git", auth=CREDENTIALS))
        github = held.enter_context(GitHubStandIn(git_host, token=CREDENTIALS[1]))
        model = held.enter_context(ModelStandIn(trajectories))
        url = postgres.create_database()
        keeper = Keeper()
        servers = {"git": git_host, "github": github, "model": model}
        ways = {name: roads.to(int(server.server_address[1])) for name, server in servers.items()}
        for name in ("api", "gateway"):
            ways |= {f"{name}-postgres": roads.to(postgres.port), f"{name}-redis": roads.to(redis.port)}
        deployment = Deployment(
            sandbox, lease_ttl, scratch, roads, keeper, postgres, redis, git_host, github, model, url, ways
        )
        with ExitStack() as places:
            try:
                _start_web(deployment, places)
                for name in HOSTS:
                    deployment.hosts.append(_start_host(deployment, name, warm, places))
                _wait_until_it_answers(deployment)
                yield deployment
            finally:
                # Services before what they use: a worker that still runs would start what was just removed.
                deployment.stop_services()
                for host in deployment.hosts:
                    host.clear()


def _databases(held: ExitStack) -> tuple[Postgres, Redis]:
    postgres, redis = Postgres(), Redis()
    held.callback(postgres.remove)
    held.callback(redis.remove)
    # A commit that was acknowledged outlives a crash of Postgres, which is one of the faults.
    command = postgres._server.command
    command[command.index("synchronous_commit=off")] = "synchronous_commit=on"
    redis._server._stop_signal = signal.SIGKILL
    postgres.start()
    postgres.make_template()
    redis.start()
    return postgres, redis


def _environment(deployment: Deployment, postgres: TcpProxy, redis: TcpProxy, more: dict[str, str]) -> dict[str, str]:
    git, github = (f"127.0.0.1:{deployment.ways[name].port}" for name in ("git", "github"))
    database = deployment.database_url.rpartition("/")[2]
    clean = {
        name: value
        for name, value in launch.service_environment(os.environ).items()
        if not name.startswith(("FARHAND_", "ANTHROPIC_")) or name == "FARHAND_AGENT_IMAGE"
    }
    return (
        clean
        | {
            "FARHAND_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{postgres.port}/{database}",
            "FARHAND_REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
            "FARHAND_SECRET_KEYS": SECRET_KEY,
            "FARHAND_ANTHROPIC_BASE_URL": f"http://127.0.0.1:{deployment.ways['model'].port}",
            "FARHAND_ANTHROPIC_API_KEY": "a-model-key",
            "FARHAND_ALLOWED_REPO_HOSTS": f"{git},{github}",
            "FARHAND_GITHUB_HOSTS": f"{git}=http://{github}/api/v3",
            "FARHAND_SANDBOX": deployment.sandbox,
            "FARHAND_WORKER_SLOTS": str(SLOTS),
            "FARHAND_CONCURRENT_STARTS": str(SLOTS),  # tasks that are held as they start must hold up no others
            "FARHAND_MAX_CONCURRENT_TASKS": str(TASKS_OF_THE_USER),
            "FARHAND_LEASE_TTL": f"{deployment.lease_ttl:g}",
        }
        | more
    )


def _start_web(deployment: Deployment, held: ExitStack) -> None:
    ways = deployment.ways
    for name, part in (("api", "rest"), ("gateway", "stream")):
        listener = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        listener.set_inheritable(True)
        run_dir = held.enter_context(new_run_dir())
        given = _environment(
            deployment, ways[f"{name}-postgres"], ways[f"{name}-redis"], {"FARHAND_RUN_DIR": str(run_dir)}
        )
        command = launch.api_command(bind=f"fd://{listener.fileno()}", part=part)
        log = deployment.scratch / f"{name}.log"
        started = deployment.keeper.start(Part(name, command, given, log, socket=listener.fileno()))
        port = int(listener.getsockname()[1])
        if name == "api":
            deployment.api, deployment.api_url = started, f"http://127.0.0.1:{port}"
        else:
            deployment.gateway, ways["clients"] = started, deployment.roads.to(port)


def _start_host(deployment: Deployment, name: str, warm: int, held: ExitStack) -> Host:
    run_dir = held.enter_context(new_run_dir())
    run_dir.chmod(0o711)
    postgres, redis = (deployment.roads.to(port) for port in (deployment.postgres.port, deployment.redis.port))
    more = {"FARHAND_RUN_DIR": str(run_dir), "FARHAND_WARM_SANDBOXES": str(warm)}
    engine = None
    if deployment.sandbox == "docker":
        engine = EngineProxy(deployment.scratch / f"{name}.sock")
        engine.open()
        held.callback(engine.shut)
        more["DOCKER_HOST"] = f"unix://{engine.path}"
    given = _environment(deployment, postgres, redis, more)
    worker = Part(f"worker-{name}", worker_command(SLOTS, name), given, deployment.scratch / f"worker-{name}.log")
    host = Host(name, run_dir, worker, postgres, redis, engine)
    deployment.keeper.start(worker)
    return host


def _wait_until_it_answers(deployment: Deployment) -> None:
    gateway = f"http://127.0.0.1:{deployment.ways['clients'].port}"
    for url in (f"{deployment.api_url}/readyz", f"{gateway}/readyz"):
        eventually(lambda url=url: _answers(url), f"{url} answers", START_S)  # type: ignore[misc]
    alive = "select count(*) from workers where alive_until > now()"
    eventually(lambda: deployment.rows(alive)[0][0] >= len(HOSTS), "all workers have registered", START_S)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=3, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
