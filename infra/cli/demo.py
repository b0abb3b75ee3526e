"""`farhand demo`: a whole deployment in a temporary directory, and one task from its prompt to a green test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from infra import settings
from infra.cli import launch
from infra.cli.data_dir import DataDir, remove_tree
from infra.cli.engine import look_for_engine
from infra.cli.errors import FAILED
from infra.cli.options import connect
from infra.cli.process import end_with_parent
from infra.cli.sample_repo import TEST_COMMAND, DemoError, SampleRepo
from infra.cli.screen import PlainScreen, screen
from infra.cli.up import say
from infra.cli.watching import show_diff, watch_task
from infra.demo import PROMPT, RECORDINGS

RECORDED_MODEL = "replay:demo"
STOP_DEADLINE_S = 40

_OWN = ("DATABASE_URL", "REDIS_URL", "RUN_DIR", "SECRET_KEYS", "DATA", "SERVER", "TOKEN", "PUBLIC_URL")
"""Settings of a real deployment that the demo must not touch."""


@click.command(name="demo")
@click.option("--keep", is_flag=True, help="Keep the temporary directory and say where it is.")
def demo(*, keep: bool) -> None:
    """See all of it at work, on this machine, in less than 15 seconds.

    Starts Postgres, Redis, the API and a worker in a temporary directory, sends a task on a sample repository with a
    failing test, shows what the agent does while it does it, then the diff, and runs the test again. Needs no model
    key: without one a recording is played.
    """
    began = time.monotonic()
    for name in _OWN:  # before the settings are read: not even a wrong one concerns us
        os.environ.pop(f"FARHAND_{name}", None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that it cleans up as after Ctrl-C
    with _scratch(keep=keep) as directory:
        model = _chosen_model()
        repo = SampleRepo(directory)
        repo.make()
        _expect(repo, "main", passing=False)
        say("starting Postgres, Redis, the API and a worker …")
        data = DataDir(directory / "data")
        with _deployment(data):
            say(f"all of it answers after {time.monotonic() - began:.1f} s")
            task = _watch_task(data, repo, model)
        _expect(repo, task["branch"], passing=True)
    say(f"that took {time.monotonic() - began:.1f} s. Your own: `farhand up`, then `farhand run --repo URL PROMPT`.")


def _watch_task(data: DataDir, repo: SampleRepo, model: str | None) -> dict[str, str]:
    shown = screen(as_json=False)
    with connect(None, None, data.path) as client:
        task = client.submit(repo_url=repo.url, prompt=PROMPT, model=model)
        code = watch_task(client, task["id"], shown, cancels=True)
        if code != 0:
            sys.exit(code)
        if isinstance(shown, PlainScreen):
            show_diff(client, task["id"], shown)
        return client.task(task["id"])


def _chosen_model() -> str | None:
    """None is the deployment's own. A real model needs a sandbox that isolates, or one that was named."""
    loaded = settings.load()
    engine = look_for_engine(loaded.agent_image)
    isolated = engine.is_ready and loaded.sandbox != "local"
    if not isolated and loaded.sandbox != "docker":  # else the worker refuses to start, and says why
        no_image = f"no image {loaded.agent_image} (`farhand image` builds it)"
        why = no_image if engine.version else f"no Docker Engine answers ({engine.problem})"
        say(
            f"commands run as plain processes, not in containers: {'FARHAND_SANDBOX=local' if engine.is_ready else why}"
        )
    if not loaded.anthropic_api_key.get_secret_value():
        say("no model key is set (FARHAND_ANTHROPIC_API_KEY): a recording speaks in place of the model")
        return RECORDED_MODEL
    if not isolated and loaded.sandbox != "local":
        say("a real model needs containers here: a recording speaks in its place")
        return RECORDED_MODEL
    say(f"the model is {loaded.model}; this costs a few cents of your key")
    return None


def _expect(repo: SampleRepo, branch: str, *, passing: bool) -> None:
    """Run the sample's test and say how it went. Exits when it went otherwise than expected."""
    run = repo.test(branch)
    colour = "green" if run.passed else "red"
    click.echo(f"  $ {TEST_COMMAND}   (a fresh clone of {branch})\n  {click.style(run.verdict, fg=colour, bold=True)}")
    if run.passed != passing:
        say(f"{branch} was expected to be {'green' if passing else 'red'}")
        sys.exit(FAILED)


@contextmanager
def _deployment(data: DataDir) -> Iterator[None]:
    """`farhand up`, as a user would start it; what it says goes to our standard error."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "infra.cli", "up", "--data", str(data.path)],
        env=_environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=end_with_parent(),  # noqa: PLW1509  (no other thread runs by then)
    )
    assert process.stdout is not None  # noqa: S101  (it is a pipe)
    try:
        if not process.stdout.readline().startswith("ready "):
            raise DemoError("the deployment did not start; the reason stands above")
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    hosts = ",".join(filter(None, (given.get("FARHAND_ALLOWED_REPO_HOSTS"), "file")))
    own = {"FARHAND_ALLOWED_REPO_HOSTS": hosts, "FARHAND_RECORDINGS": str(RECORDINGS)}
    return launch.service_environment({**given, **own})


@contextmanager
def _scratch(*, keep: bool) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="farhand-demo-")).resolve()
    try:
        yield directory
    finally:
        if keep:
            say(f"kept: {directory}")
        else:
            for path in (DataDir(directory / "data").run_dir(), directory):
                remove_tree(path)
