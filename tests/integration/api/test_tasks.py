"""Tasks over REST: stored, listed, told things, cancelled, retried, deleted."""

from __future__ import annotations

import json
import threading
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from infra.services import Services
from infra.tables import Message, Project, Task
from infra.tasks import transitions
from tests.integration.api.conftest import REPO, Person
from tests.world import World


def queued(services: Services) -> list[tuple[str, str]]:
    """What waits for workers: (argument, Celery's id)."""
    assert services.wake_ups.outbox.flush(10)
    messages = [json.loads(raw) for raw in services.bus.redis.lrange("agents", 0, -1)]
    return [(json.loads(m["headers"]["argsrepr"].replace("'", '"'))[0], m["headers"]["id"]) for m in messages]


def test_a_posted_task_is_stored_with_its_first_event_and_message_and_wakes_a_worker(
    ada: Person, services: Services
) -> None:
    task = ada.task(prompt="fix\n\tit", base_branch="main", budget_usd=1.5)
    assert (task["status"], task["attempt"], task["last_seq"]) == ("pending", 0, 1)
    assert (task["repo_url"], task["base_branch"], task["model"]) == (REPO, "main", "replay:demo")
    assert (task["budget_usd"], task["spent_usd"], task["error"]) == (1.5, 0, None)
    assert task["branch"] == f"farhand/{task['id']}"
    assert ada.get(f"/v1/tasks/{task['id']}") == task
    (event,) = ada.get(f"/v1/tasks/{task['id']}/events")["items"]
    told = {"prompt": "fix\n\tit", "repo_url": REPO, "model": "replay:demo", "budget_usd": 1.5}
    assert (event["seq"], event["type"], event["data"]) == (1, "task_created", told)
    (message,) = ada.get(f"/v1/tasks/{task['id']}/messages")["items"]
    assert (message["role"], message["text"], message["step"]) == ("user", "fix\n\tit", None)
    assert queued(services) == [(task["id"], f"{task['id']}.1")]


def test_a_task_is_published_after_it_is_stored(ada: Person, services: Services) -> None:
    with services.bus.redis.pubsub() as pubsub:
        pubsub.subscribe(f"farhand:user:{ada.id}")
        assert pubsub.get_message(timeout=5)
        task = ada.task()
        doorbell = pubsub.get_message(timeout=5)
    assert doorbell is not None
    assert doorbell["data"] == task["id"]


def test_tasks_of_one_repository_share_a_project(ada: Person, bob: Person) -> None:
    first, second = ada.task(), ada.task(repo_url="https://EXAMPLE.com:443/owner/name/")
    assert first["project_id"] == second["project_id"]
    assert ada.task(repo_url="https://example.com/other")["project_id"] != first["project_id"]
    assert bob.task()["project_id"] != first["project_id"]
    in_project = ada.post("/v1/tasks", {"project_id": first["project_id"], "prompt": "p"})
    assert (in_project["project_id"], in_project["repo_url"]) == (first["project_id"], REPO)
    (event,) = ada.get(f"/v1/tasks/{in_project['id']}/events")["items"]
    assert event["data"]["repo_url"] == REPO


def test_first_tasks_of_a_repository_at_the_same_time_make_one_project(ada: Person, services: Services) -> None:
    answers: list[int] = []
    start = threading.Barrier(8)

    def post() -> None:
        start.wait(10)
        answers.append(ada("POST", "/v1/tasks", {"repo_url": REPO, "prompt": "p"}).status_code)

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [202] * 8
    with services.database.begin() as connection:
        assert connection.execute(select(func.count()).select_from(Project)).scalar_one() == 1
        assert connection.execute(select(func.count()).select_from(Task)).scalar_one() == 8


def test_the_list_goes_newest_first_in_pages_without_gap_or_double(ada: Person, bob: Person) -> None:
    bob.task()
    posted = [ada.task(prompt=f"task {n}")["id"] for n in range(7)]
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        page = ada.get("/v1/tasks", query_string={"limit": 3, **({"cursor": cursor} if cursor else {})})
        seen += [task["id"] for task in page["items"]]
        cursor, pages = page["next"], pages + 1
    assert seen == posted[::-1]
    assert pages == 3


def test_the_list_is_filtered_by_state(ada: Person) -> None:
    ended, pending = ada.ended_task(), ada.task()
    assert [task["id"] for task in ada.get("/v1/tasks?status=failed")["items"]] == [ended["id"]]
    assert [task["id"] for task in ada.get("/v1/tasks?status=pending")["items"]] == [pending["id"]]
    assert ada.get("/v1/tasks?status=nonsense", 422)["errors"][0]["field"] == "status"


def test_cancelling_what_nobody_runs_ends_it_at_once(ada: Person) -> None:
    task = ada.task()
    assert ada.post(f"/v1/tasks/{task['id']}/cancel")["status"] == "cancelled"
    events = ada.get(f"/v1/tasks/{task['id']}/events")["items"]
    assert [(e["seq"], e["type"]) for e in events] == [(1, "task_created"), (2, "cancelled")]
    assert events[1]["data"] == {"by": "user", "confirmed_dead_ms": None}, "there was no sandbox that could have died"
    assert ada.post(f"/v1/tasks/{task['id']}/cancel", {})["last_seq"] == 2


def test_cancelling_a_running_task_rings_its_worker(ada: Person, services: Services) -> None:
    task = ada.task()
    ada.claimed(task)
    with services.bus.redis.pubsub() as pubsub:
        pubsub.subscribe("farhand:cancel")
        assert pubsub.get_message(timeout=5)
        assert ada.post(f"/v1/tasks/{task['id']}/cancel")["status"] == "running"
        doorbell = pubsub.get_message(timeout=5)
    assert doorbell is not None
    assert doorbell["data"] == task["id"]
    with services.database.begin() as connection:
        row = connection.execute(select(Task.cancel_requested_at).where(Task.id == UUID(task["id"]))).one()
    assert row.cancel_requested_at is not None
    assert ada.post(f"/v1/tasks/{task['id']}/messages", {"text": "wait"}, 409)["code"] == "task_cancelling"


def test_a_message_wakes_an_ended_task(ada: Person, services: Services) -> None:
    task = ada.ended_task()
    woken = ada.post(f"/v1/tasks/{task['id']}/messages", {"text": "one more thing"})
    assert (woken["status"], woken["error"], woken["attempt"]) == ("pending", None, 1)
    assert queued(services)[0] == (task["id"], f"{task['id']}.2")
    with services.database.begin() as connection:
        unread = connection.execute(select(Task.unread).where(Task.id == UUID(task["id"]))).scalar_one()
        texts = connection.execute(select(Message.text).order_by(Message.id)).scalars().all()
    assert unread == 2
    assert texts == ["do it", "one more thing"]


def test_an_ended_task_can_be_retried_with_another_budget(ada: Person, services: Services) -> None:
    task = ada.ended_task()
    retried = ada.post(f"/v1/tasks/{task['id']}/retry", {"budget_usd": 9})
    assert (retried["status"], retried["budget_usd"]) == ("pending", 9)
    assert queued(services)[0] == (task["id"], f"{task['id']}.2")
    assert ada.post(f"/v1/tasks/{task['id']}/retry", {}, 409)["code"] == "task_not_ended"
    assert ada.post(f"/v1/tasks/{task['id']}/retry", {"budget_usd": 1000}, 422)["code"] == "budget_too_large"


def test_there_is_no_question_to_answer(ada: Person) -> None:
    task = ada.task()
    asked = {"question_id": "1", "text": "yes"}
    assert ada.post(f"/v1/tasks/{task['id']}/answer", asked, 409)["code"] == "no_question"


def test_only_an_ended_task_is_deleted_and_then_with_all_that_it_recorded(ada: Person, services: Services) -> None:
    task = ada.ended_task()
    open_task = ada.task()
    refused = ada("DELETE", f"/v1/tasks/{open_task['id']}")
    assert (refused.status_code, refused.json["code"]) == (409, "task_not_ended")
    assert ada("DELETE", f"/v1/tasks/{task['id']}").status_code == 204
    assert ada.get(f"/v1/tasks/{task['id']}", 404)["code"] == "not_found"
    with services.database.begin() as connection:
        for table in ("events", "messages", "attempts"):
            left = connection.execute(
                text(f"select count(*) from {table} where task_id = :id"), {"id": task["id"]}
            ).scalar_one()
            assert left == 0, table


@pytest.mark.parametrize("more_settings", [{"default_budget_usd": 3, "max_budget_usd": 4}])
def test_budgets_come_from_the_settings(ada: Person, more_settings: dict[str, Any]) -> None:
    assert ada.task()["budget_usd"] == 3
    assert ada.task(budget_usd=4)["budget_usd"] == 4
    refused = ada.post("/v1/tasks", {"repo_url": REPO, "prompt": "p", "budget_usd": 4.01}, 422)
    assert refused["code"] == "budget_too_large"


def test_a_task_of_the_api_can_be_claimed_and_completed(ada: Person, services: Services) -> None:
    task = ada.task()
    world = World(services, ada.id, UUID(task["project_id"]))
    lease = world.claim(UUID(task["id"]), world.worker())
    assert lease is not None
    with services.database.begin() as connection:
        connection.execute(text("update tasks set unread = 0"))
    with services.tasks.transaction() as tx:
        assert transitions.complete(tx, lease, "done")
    answer = ada.get(f"/v1/tasks/{task['id']}")
    assert (answer["status"], answer["final_message"]) == ("completed", "done")
    assert answer["completed_at"] > answer["started_at"] > answer["created_at"]
