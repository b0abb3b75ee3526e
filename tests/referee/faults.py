"""What happens to a deployment: each fault has a name, a part that it hits, and an end.

A fault that lasts is undone after `seconds`; one that does not is over as soon as it is done. Two never hit the same
part at a time, so that each can be told from the others in the table.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.referee.deployment import Deployment
from tests.referee.hosts import Host
from tests.standin.github import Fault as Answer

Undo = Callable[[], None]


@dataclass
class Fault:
    """One that was done, or is going on. Times are those of the wall clock, in seconds; `ended` 0: not over yet."""

    kind: str
    target: str
    began: float
    ended: float = 0.0
    hit: list[str] = field(default_factory=list)
    """Ids of the tasks that ran on what was hit, when it was hit."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """`targets`: names of the parts that it may hit. `do` hits one, and returns how it is undone if it lasts.

    `seconds`: how long it lasts at least and at most.
    `hits`: whose tasks it hits: `host` those of the host that is its target, `all`, or `none`.
    """

    name: str
    targets: tuple[str, ...]
    do: Callable[[Deployment, str, float], Undo | None]
    seconds: tuple[float, float] = (0.0, 0.0)
    hits: str = "none"

    def draw_seconds(self, chance: random.Random) -> float:
        return chance.uniform(*self.seconds)


HOSTS = ("north", "east", "south")


def host_of(deployment: Deployment, name: str) -> Host:
    return next(host for host in deployment.hosts if host.name == name)


def _kill_worker(deployment: Deployment, target: str, _seconds: float) -> None:
    host_of(deployment, target).worker.send(signal.SIGKILL)


def _end_worker(deployment: Deployment, target: str, _seconds: float) -> None:
    host_of(deployment, target).worker.send(signal.SIGTERM)


def _pause_worker(deployment: Deployment, target: str, _seconds: float) -> Undo:
    worker = host_of(deployment, target).worker
    worker.send(signal.SIGSTOP)
    return lambda: worker.send(signal.SIGCONT)


def _lose_host(deployment: Deployment, target: str, seconds: float) -> Undo:
    host = host_of(deployment, target)
    host.worker.stay_down(seconds)
    host.lose()
    return lambda: None


def _a_sandbox(host: Host) -> str | None:
    """A different one each time, as their ids are random. None: there is none."""
    sandboxes = host.sandboxes()
    return sandboxes[0] if sandboxes else None


def _kill_sandbox(deployment: Deployment, target: str, _seconds: float) -> None:
    host = host_of(deployment, target)
    if (sandbox := _a_sandbox(host)) is not None:
        host.signal_sandbox(sandbox, signal.SIGKILL)


def _pause_sandbox(deployment: Deployment, target: str, _seconds: float) -> Undo | None:
    host = host_of(deployment, target)
    sandbox = _a_sandbox(host)
    if sandbox is None:
        return None
    host.signal_sandbox(sandbox, signal.SIGSTOP)
    return lambda: host.signal_sandbox(sandbox, signal.SIGCONT)


def _way_is(name: str, how: str) -> Callable[[Deployment, str, float], Undo]:
    """The way `name` of a host, or of the deployment, is `cut` or falls silent."""

    def do(deployment: Deployment, target: str, _seconds: float) -> Undo:
        if target in HOSTS:
            host = host_of(deployment, target)
            way = host.postgres if name == "postgres" else host.redis
        else:
            way = deployment.ways[target]
        (way.cut if how == "cut" else way.silence)()
        return way.mend

    return do


def _web(part: str, how: signal.Signals) -> Callable[[Deployment, str, float], Undo | None]:
    def do(deployment: Deployment, _target: str, _seconds: float) -> Undo | None:
        service = deployment.api if part == "api" else deployment.gateway
        service.send(how, whole_session=True)
        if how is signal.SIGSTOP:
            return lambda: service.send(signal.SIGCONT, whole_session=True)
        return None

    return do


def _wipe_redis(deployment: Deployment, _target: str, _seconds: float) -> None:
    """It is killed, and comes back without anything that it held."""
    deployment.redis.stop()
    deployment.redis.start()


def _stop_redis(deployment: Deployment, _target: str, _seconds: float) -> Undo:
    deployment.redis.stop()
    return deployment.redis.start


def _restart_postgres(deployment: Deployment, _target: str, _seconds: float) -> None:
    deployment.postgres.stop()
    deployment.postgres.start()


def _crash_postgres(deployment: Deployment, _target: str, _seconds: float) -> None:
    """Every backend dies at once, and what was not committed is found out from the log of the database."""
    server = deployment.postgres._server
    usual, server._stop_signal = server._stop_signal, signal.SIGQUIT
    try:
        server.stop()
    finally:
        server._stop_signal = usual
    server.start()


def _stop_postgres(deployment: Deployment, _target: str, _seconds: float) -> Undo:
    deployment.postgres.stop()
    return deployment.postgres.start


def _kill_backends(deployment: Deployment, _target: str, _seconds: float) -> None:
    """Every second connection of the product is ended by Postgres, in the middle of whatever it does."""
    deployment.rows(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and pid % 2 = 0"
    )


def _break_github(deployment: Deployment, _target: str, _seconds: float) -> None:
    """The next answers are lost: once before, once after what was asked for has happened."""
    for method in ("GET", "POST"):
        deployment.github.inject(method, Answer("cut", afterwards=method == "POST"))


def _shut_engine(deployment: Deployment, target: str, _seconds: float) -> Undo | None:
    engine = host_of(deployment, target).engine
    if engine is None:
        return None
    engine.shut()
    return engine.open


def kinds(lease_ttl: float) -> tuple[Kind, ...]:
    """All of them. What lasts is sometimes shorter, sometimes longer than the lease of a worker."""
    around_a_lease = (0.3 * lease_ttl, 1.6 * lease_ttl)
    short = (0.5, 4.0)
    term = signal.SIGTERM
    return (
        Kind("worker killed", HOSTS, _kill_worker, hits="host"),
        Kind("worker told to leave", HOSTS, _end_worker, hits="host"),
        Kind("worker paused", HOSTS, _pause_worker, around_a_lease, hits="host"),
        Kind("host lost", HOSTS, _lose_host, (3.0, 8.0), hits="host"),
        Kind("sandbox killed", HOSTS, _kill_sandbox, hits="host"),
        Kind("sandbox paused", HOSTS, _pause_sandbox, short, hits="host"),
        Kind("worker cut off from Postgres", HOSTS, _way_is("postgres", "cut"), around_a_lease, hits="host"),
        Kind("worker's Postgres silent", HOSTS, _way_is("postgres", "silent"), around_a_lease, hits="host"),
        Kind("worker cut off from Redis", HOSTS, _way_is("redis", "cut"), short, hits="host"),
        Kind("worker's Redis silent", HOSTS, _way_is("redis", "silent"), around_a_lease, hits="host"),
        Kind("engine away", HOSTS, _shut_engine, short, hits="host"),
        Kind("api killed", ("api",), _web("api", signal.SIGKILL)),
        Kind("api told to leave", ("api",), _web("api", term)),
        Kind("api paused", ("api",), _web("api", signal.SIGSTOP), short),
        Kind("api cut off", ("api-postgres", "api-redis"), _way_is("", "cut"), short),
        Kind("gateway killed", ("gateway",), _web("gateway", signal.SIGKILL)),
        Kind("gateway told to leave", ("gateway",), _web("gateway", term)),
        Kind("gateway paused", ("gateway",), _web("gateway", signal.SIGSTOP), short),
        Kind("gateway cut off", ("gateway-postgres", "gateway-redis"), _way_is("", "cut"), short),
        Kind("clients cut off", ("clients",), _way_is("", "cut"), short),
        Kind("Redis wiped", ("redis",), _wipe_redis, hits="all"),
        Kind("Redis away", ("redis",), _stop_redis, (1.0, 6.0), hits="all"),
        Kind("Postgres restarted", ("postgres",), _restart_postgres, hits="all"),
        Kind("Postgres crashed", ("postgres",), _crash_postgres, hits="all"),
        Kind("Postgres away", ("postgres",), _stop_postgres, (1.0, 6.0), hits="all"),
        Kind("connections to Postgres ended", ("postgres",), _kill_backends, hits="all"),
        Kind("git host away", ("git",), _way_is("", "cut"), short, hits="all"),
        Kind("git host silent", ("git",), _way_is("", "silent"), short, hits="all"),
        Kind("GitHub's answers lost", ("github",), _break_github),
        Kind("model cut off", ("model",), _way_is("", "cut"), short, hits="all"),
    )
