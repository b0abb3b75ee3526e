"""What a worker host does when it runs short itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from infra.settings import Settings
from tests.deployment import Deployment
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn

pytestmark = pytest.mark.slow
DONE = {"content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn"}


def test_a_worker_without_room_starts_nothing_and_the_user_sees_why(settings: Settings, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "file").write_text("x\n")
    free = shutil.disk_usage(settings.run_dir).free
    with GitServer(tmp_path / "git") as host, ModelStandIn({"all": [DONE]}, default="all") as model:
        host.create("repo", from_dir=work)
        environment = {
            "FARHAND_ANTHROPIC_BASE_URL": model.base_url,
            "FARHAND_ANTHROPIC_API_KEY": "a-model-key",
            "FARHAND_ALLOWED_REPO_HOSTS": host.url("x").split("/")[2],
            "FARHAND_SANDBOX": "local",
            "FARHAND_MIN_FREE_BYTES": str(free * 2),
        }
        with Deployment(settings, tmp_path / "data", **environment) as deployment, deployment.client() as client:
            task = client.submit(repo_url=host.url("repo"), prompt="do it")
            for frame in client.stream(task["id"]):
                if frame["type"] == "event" and frame["event"]["type"] == "error":
                    break
            assert frame["event"]["data"]["code"] == "worker_disk_full"
            assert client.task(task["id"])["status"] == "pending"
    assert host.requests == []
    assert model.requests == []
