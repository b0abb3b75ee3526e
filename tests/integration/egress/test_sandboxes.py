"""pip, npm and git in real sandboxes, through forwarder, link and proxy; and what commands try there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.bundle import remove_bundle, write_bundle
from agent_runtime.protocol import EGRESS_PORT, SOCKET
from infra.settings import Settings
from tests.conftest import need
from tests.contract.job import make_job
from tests.integration.egress import goods
from tests.integration.egress.authority import Authority
from tests.integration.egress.internet import DEADLINE_S, Internet, Proxy
from tests.integration.egress.upstream import Upstream
from tests.standin.git_command import run_git
from tests.standin.gitserver import GitServer
from tests.unit.runtime.linkserver import LinkServer, Reply, says, tool_use
from tests.world import World
from workers.sandbox import directory
from workers.sandbox.base import Driver, Exit, Kind, SandboxSpec
from workers.sandbox.docker import DockerDriver
from workers.sandbox.local import LocalDriver

HERE = "the parcel is here"
LIMITS = {
    "max_steps": 20,
    "wall_clock_s": DEADLINE_S,
    "command_timeout_s": 50.0,
    "max_command_timeout_s": 50.0,
    "output_bytes": 20_000,
}
PIP = "python3 -m venv ../venv && ../venv/bin/pip install --disable-pip-version-check --no-cache-dir"


class Task:
    """A sandbox at work on an empty repository, with its proxy."""

    def __init__(
        self, driver: Driver, proxy: Proxy, spec: SandboxSpec, *, commands: tuple[str, ...], egress: bool
    ) -> None:
        path = spec.directory
        base = _empty_repo(path / "in/objects")
        script: list[Reply] = [says(tool_use("run_command", command=command)) for command in commands]
        job = {**make_job(base, ["run_command"], LIMITS), "egress": egress}
        self.proxy = proxy
        self.link = LinkServer(path / "link" / SOCKET, job, [*script, says("Done.")]).start()
        self.sandbox = driver.start(spec)

    def outputs(self) -> list[str]:
        """Of all commands, once the runtime has finished well."""
        assert self.sandbox.wait(DEADLINE_S) == Exit(0, False, "")
        assert self.link.finish["error"] is None
        return self.link.outputs


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.docker), "local"])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
def driver(kind: Kind, settings: Settings) -> Iterator[Driver]:
    driver: Driver = DockerDriver(settings) if kind == "docker" else LocalDriver(settings)
    driver.check()
    yield driver
    for sandbox_id in driver.leftovers():
        driver.remove(sandbox_id)
    driver.close()


@pytest.fixture
def task(driver: Driver, world: World, internet: Internet, run_dir: Path) -> Iterator[Callable[..., Task]]:
    tasks: list[Task] = []
    bundle = write_bundle(run_dir / "runtime")

    def start(*commands: str, allow: Any, operator: tuple[str, ...] = ()) -> Task:
        path = directory.make(run_dir, directory.new_sandbox_id())
        proxy = Proxy(world, path / "link", internet)
        proxy.allow(allow, *operator)
        spec = SandboxSpec(path.name, path, bundle)
        tasks.append(Task(driver, proxy, spec, commands=commands, egress=allow != "none"))
        return tasks[-1]

    yield start
    for task in tasks:
        task.proxy.close()
        task.link.stop()
        task.sandbox.remove()
    remove_bundle(bundle)


def put_file(name: str, content: str) -> str:
    return f"cat > {name} <<'END'\n{content}END\n"


def test_pip_installs_over_http(task: Callable[..., Task], internet: Internet) -> None:
    with Upstream() as index:
        index.files = goods.python_index()
        internet.put("index.example", 80, index.port)
        install = f"{PIP} --index-url http://index.example/simple --trusted-host index.example {goods.NAME}"
        started = task(f"{install} && ../venv/bin/python -m farhand_parcel", allow=["index.example"])
        (output,) = started.outputs()
    assert HERE in output
    assert {r["reason"] for r in started.proxy.settled()} == {"done"}


def test_pip_installs_over_tls(task: Callable[..., Task], internet: Internet, authority: Authority) -> None:
    with Upstream(authority.server_context("index.example")) as index:
        index.files = goods.python_index()
        internet.put("index.example", 443, index.port)
        trust = put_file("../ca.pem", authority.path.read_text())
        install = f"{PIP} --index-url https://index.example/simple --cert ../ca.pem {goods.NAME}"
        started = task(f"{trust}{install} && ../venv/bin/python -m farhand_parcel", allow=["index.example"])
        (output,) = started.outputs()
    assert HERE in output
    assert {r["method"] for r in started.proxy.settled()} == {"CONNECT"}


def test_git_clones_over_http(task: Callable[..., Task], internet: Internet, tmp_path: Path) -> None:
    with GitServer(tmp_path / "git") as host:
        goods.bare_repository(tmp_path / "git/parcel")
        internet.put("git.example", 80, host.server_address[1])
        clone = "git clone -q http://git.example/parcel.git ../parcel && cat ../parcel/parcel.txt"
        (output,) = task(clone, allow=["git.example"]).outputs()
    assert HERE in output


def test_git_clones_over_tls(
    task: Callable[..., Task], internet: Internet, authority: Authority, tmp_path: Path
) -> None:
    with Upstream(authority.server_context("git.example")) as host:
        host.files = goods.dumb_repository(goods.bare_repository(tmp_path / "parcel"))
        internet.put("git.example", 443, host.port)
        trust = put_file("../ca.pem", authority.path.read_text()) + "export GIT_SSL_CAINFO=$PWD/../ca.pem\n"
        clone = "git clone -q https://git.example/parcel.git ../parcel && cat ../parcel/parcel.txt"
        (output,) = task(trust + clone, allow=["git.example"]).outputs()
    assert HERE in output


@pytest.mark.parametrize("kind", ["local"])
def test_npm_installs(task: Callable[..., Task], internet: Internet) -> None:
    need("npm", None if shutil.which("npm") else "there is no npm on this host")
    with Upstream() as registry:
        registry.files = goods.npm_registry("http://npm.example")
        internet.put("npm.example", 80, registry.port)
        install = f"npm install --no-audit --no-fund --no-update-notifier --registry http://npm.example/ {goods.NAME}"
        (output,) = task(f"{install} && node -e 'require(\"{goods.NAME}\")'", allow=["npm.example"]).outputs()
    assert HERE in output


def test_a_refused_host_is_told_to_the_agent(task: Callable[..., Task], internet: Internet) -> None:
    fetch = "python3 -c 'import urllib.request as r; r.urlopen(\"{}\")' 2>&1 | tail -n 1"
    commands = [fetch.format(url) for url in ("http://evil.example/", "https://evil.example/", "http://10.0.0.1/")]
    started = task(*commands, allow=["site.example"])
    plain, tunnel, private = started.outputs()
    assert "403" in plain
    assert "evil.example:443 is refused" in tunnel
    assert "403" in private
    assert [(r["host"], r["reason"]) for r in started.proxy.settled()] == [
        ("evil.example", "host_not_allowed"),
        ("evil.example", "host_not_allowed"),
        ("10.0.0.1", "address_private"),
    ]
    assert internet.resolved == []


def test_commands_are_told_of_the_proxy_where_there_is_one(task: Callable[..., Task], kind: Kind) -> None:
    (seen,) = task("env | grep -i proxy | sort", allow="open").outputs()
    lines = dict(line.split("=", 1) for line in seen.splitlines() if "=" in line)
    assert lines.keys() == {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
    assert lines["HTTPS_PROXY"].startswith("http://127.0.0.1:")
    assert (lines["HTTPS_PROXY"] == f"http://127.0.0.1:{EGRESS_PORT}") == (kind == "docker")
    (none,) = task("env | grep -i proxy", allow="none").outputs()
    assert none == "[exit code 1]"


def test_what_runs_inside_is_reached_without_the_proxy(task: Callable[..., Task], internet: Internet) -> None:
    serve = 'python3 -c \'import http.server as h, os; s = h.HTTPServer(("127.0.0.1", 0), h.SimpleHTTPRequestHandler);'
    serve += ' open("../port", "w").write(str(s.server_port)); s.handle_request()\' 2>/dev/null &\n'
    wait = "until test -s ../port; do sleep 0.02; done\n"
    fetch = "python3 -c \"import urllib.request as r; print(r.urlopen('http://127.0.0.1:$(cat ../port)/').status)\""
    (output,) = task(serve + wait + fetch, allow="open").outputs()
    assert "200" in output


@pytest.mark.docker
@pytest.mark.parametrize("kind", ["docker"])
def test_there_is_no_way_past_the_proxy(task: Callable[..., Task], site: Upstream) -> None:
    connect = "python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"/farhand/link/egress.sock\")'"
    resolve = "getent hosts site.example || echo unresolved"
    direct = f"python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {site.port}))'"
    kill = "kill -9 -1"
    fetch = "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://site.example/\").status)'"
    outputs = task(connect, resolve, direct, kill, fetch, allow=["site.example"]).outputs()
    assert "PermissionError" in outputs[0]
    assert "unresolved" in outputs[1]
    assert "ConnectionRefusedError" in outputs[2]
    assert "200" in outputs[4], "the forwarder is not for commands to kill"


FLOOD = """
import os, socket
port = int(os.environ["HTTP_PROXY"].rpartition(":")[2])
held = []
for number in range(120):
    s = socket.create_connection(("127.0.0.1", port), 10)
    s.sendall(b"GET http://evil.example/ HTTP/1.1\\r\\nHost: x\\r\\n" if number % 2 else b"")
    held.append(s)
"""


def test_a_flood_of_connections_costs_only_itself(task: Callable[..., Task], site: Upstream) -> None:
    """As many as the queues take; when they are closed the next one gets through."""
    flood = put_file("../flood.py", FLOOD) + "timeout 20 python3 ../flood.py; "
    fetch = "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://site.example/\").status)'"
    (output,) = task(flood + fetch, allow=["site.example"]).outputs()
    assert "200" in output


def test_the_end_of_the_attempt_ends_a_download_in_the_sandbox(task: Callable[..., Task], site: Upstream) -> None:
    script = 'import urllib.request as r; f = r.urlopen("http://site.example/endless")\nwhile f.read(65536): pass'
    fetch = f"python3 -c '{script}'"
    started = task(fetch, allow=["site.example"])
    assert site.flowing.wait(DEADLINE_S)
    started.proxy.end()
    (output,) = started.outputs()
    assert "IncompleteRead" in output or "[exit code 0]" not in output
    assert [r["reason"] for r in started.proxy.records()] == ["cut"]


def _empty_repo(objects: Path) -> str:
    """Makes a repository with one commit, packs it into `objects`, returns the commit."""
    bare = goods.bare_repository(objects.parent / "repo")
    for pack in (bare / "objects/pack").iterdir():
        (objects / "pack" / pack.name).hardlink_to(pack)
    return run_git(f"--git-dir={bare}", "rev-parse", "HEAD").strip()
