"""Setup scripts and images of projects in a whole deployment: run once, kept for later tasks, shown while they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.client.rest import Client
from infra.errors import FarhandError
from tests.acceptance.conftest import CREDENTIALS
from tests.acceptance.test_trouble import DONE, command
from tests.deployment import Deployment, events_of, watch
from tests.images import Images
from tests.integration.egress import goods
from tests.standin.git_command import run_git
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SECRET = "a-password-of-the-tests"
# 127.0.0.1 is the sandbox's own, unless a program is told not to take it for that.
SCRIPT = """
NO_PROXY= no_proxy= git clone -q {url} .venv/parcel
echo "$MODE ${{TEST_PASSWORD:-none}}" > ~/.setup
"""
LOOK = 'cat .venv/parcel/parcel.txt ~/.setup; echo "mode $MODE"; echo more > more.txt'
USES: list[Any] = [command(LOOK), DONE]
SETUP_STAGES = {"setup", "setup_wait", "setup_kept", "pull_image"}


@pytest.fixture
def images() -> Iterator[Images]:
    with Images() as made:
        yield made


@pytest.fixture
def work(git_host: GitServer, tmp_path: Path) -> str:
    """A repository that ignores `.venv`; its URL."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, content in ((".gitignore", ".venv/\n"), ("requirements.txt", "parcel\n")):
        (tree / name).write_text(content)
    git_host.create("work", from_dir=tree)
    return git_host.url("work")


def project(client: Client, url: str, **environment: object) -> dict[str, Any]:
    return client.create_project(repo_url=url, git_username=CREDENTIALS[0], git_token=CREDENTIALS[1], **environment)


def run(client: Client, url: str, trajectory: str) -> list[dict[str, Any]]:
    task = client.submit(repo_url=url, prompt=f"do it [trajectory:{trajectory}]")
    return events_of(watch(client, task["id"]))


def stages(events: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Of the project's environment; those of git are others."""
    told = [event["data"] for event in events if event["type"] == "build_progress"]
    return [(data["stage"], data["percent"]) for data in told if data["stage"] in SETUP_STAGES]


def output(events: list[dict[str, Any]]) -> str:
    (result,) = [event["data"]["output"] for event in events if event["type"] == "tool_result"]
    return str(result)


def test_a_script_runs_once_with_egress_and_its_result_is_there_for_later_tasks(
    deploy: Callable[..., Deployment], git_host: GitServer, work: str, tmp_path: Path
) -> None:
    with (
        GitServer(tmp_path / "public") as public,
        ModelStandIn(dict.fromkeys(("first", "second", "third"), USES), api_key="a-model-key") as model,
    ):
        goods.bare_repository(tmp_path / "public/parcel")
        script = SCRIPT.format(url=public.url("parcel"))
        deployment = deploy(model, FARHAND_EGRESS_ALLOW=public.base_url.removeprefix("http://"))
        with deployment.client() as client:
            given = {"variables": {"MODE": "ci"}, "secrets": {"TEST_PASSWORD": SECRET}}
            project(client, work, egress=["git.example"], setup_script=script, **given)
            first = run(client, work, "first")
            asked = len(public.requests)
            second = run(client, work, "second")
            assert (asked > 0, len(public.requests)) == (True, asked), "the second one fetched nothing"
            _push(git_host, tmp_path, "requirements.txt", "parcel\nanother\n")
            third = run(client, work, "third")
            assert len(public.requests) > asked, "another lock file: run anew"
            task_id = first[0]["task_id"]
            assert {record["decision"] for record in client.egress(task_id)} == {"allowed"}
    logs = deployment.logs()
    for events in (first, second, third):
        assert events[-1]["type"] == "completed", logs
        assert output(events).startswith("the parcel is here\nci none\nmode ci\n"), logs
    assert [stages(events) for events in (first, second, third)] == [
        [("setup", 0), ("setup", 100)],
        [("setup_kept", 100)],
        [("setup", 0), ("setup", 100)],
    ]
    (pushed,) = [event["data"] for event in first if event["type"] == "branch_pushed"]
    assert pushed["files_changed"] == 1, "what the script left is in no branch"


def test_a_script_that_fails_ends_the_task_with_its_output(deploy: Callable[..., Deployment], work: str) -> None:
    with ModelStandIn({"fails": USES, "mended": [command("cat .venv/made"), DONE]}, api_key="a-model-key") as model:
        deployment = deploy(model)
        with deployment.client() as client:
            made = project(client, work, setup_script="echo there is no such thing; exit 3")
            failed = run(client, work, "fails")[-1]
            assert failed["type"] == "failed", deployment.logs()
            assert model.requests == []
            client.change_project(made["id"], setup_script="mkdir .venv; echo mended > .venv/made; echo x > stray.txt")
            mended = run(client, work, "mended")
    error = failed["data"]["error"]
    assert error["code"] == "setup_failed"
    assert "exit code 3" in error["message"]
    assert "there is no such thing" in error["message"]
    assert output(mended).startswith("mended\n")
    (told,) = [event["data"] for event in mended if event["type"] == "error"]
    assert told["code"] == "setup_files_left"
    assert "stray.txt" in told["message"]


def test_a_project_s_image_is_looked_at_when_it_is_saved_and_used_by_its_tasks(
    deploy: Callable[..., Deployment], work: str, images: Images
) -> None:
    good, bare = images.make("echo of the project > /opt/tool"), images.make("rm -f /usr/bin/git")
    with ModelStandIn({"tool": [command("cat /opt/tool .venv/made; id -u"), DONE]}, api_key="a-model-key") as model:
        deployment = deploy(model)
        with deployment.client() as client:
            with pytest.raises(FarhandError) as refused:
                project(client, work, image=bare)
            assert (refused.value.code, client.projects()) == ("image_without_git", [])
            assert refused.value.hint
            script = "mkdir .venv; cp /opt/tool .venv/made"
            made = project(client, work, image=good, setup_script=script)
            assert made["image_check"] == {"state": "ready", "error": None}
            events = run(client, work, "tool")
    assert output(events) == "of the project\nof the project\n61002\n[exit code 0]", deployment.logs()


def _push(git_host: GitServer, tmp_path: Path, name: str, content: str) -> None:
    """A commit to the default branch, by somebody else."""
    clone = tmp_path / "clone"
    run_git("clone", "--quiet", str(git_host.path("work")), str(clone))
    (clone / name).write_text(content)
    run_git("add", "--all", cwd=clone)
    run_git("commit", "--quiet", "--message=More", cwd=clone)
    run_git("push", "--quiet", "origin", "HEAD", cwd=clone)
