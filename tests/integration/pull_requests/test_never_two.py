"""Whatever happens in whatever order to requests, workers and answers: never two pull requests of one task."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from infra.errors import AuthorityLostError
from infra.tasks.pull_requests import Hold
from infra.tasks.transitions import Lease
from infra.tasks.views import branch_name
from tests.integration.pull_requests.conftest import REPO, Scene
from tests.standin.github import Fault

FAULTS: list[dict[str, Any]] = [
    {"kind": "cut"},
    {"kind": "cut", "afterwards": True},
    {"status": 502},
    {"status": 502, "afterwards": True},
    {"status": 403, "body": {"message": "You have exceeded a secondary rate limit"}},
]


class Requests(RuleBasedStateMachine):
    """A task whose user asks, whose attempts push, and whose workers work, stop, die and come back."""

    scene: Scene

    @initialize(mode=st.sampled_from(["on_request", "always"]))
    def start(self, mode: str) -> None:
        self.scene.github.clear()
        self.scene.project(pull_request=mode)
        self.lease: Lease | None = self.scene.running()
        self.task_id: UUID = self.lease.task_id
        self.holds: list[Hold] = []
        self.keep(self.scene.push(self.lease))

    @rule()
    def ask(self) -> None:
        self.scene.request(self.task_id)

    @rule()
    def take_and_be_slow(self) -> None:
        self.keep(self.scene.take())

    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        """Any worker that ever held it goes on now, alive or taken for dead."""
        if self.holds:
            self.scene.desk.serve(data.draw(st.sampled_from(self.holds)))

    @rule(data=st.data())
    def die_after_the_answer(self, data: st.DataObject) -> None:
        if self.holds:
            hold = data.draw(st.sampled_from(self.holds))
            try:
                self.scene.desk._bring_about(hold)
            except (AuthorityLostError, Exception):  # noqa: BLE001  (a worker that dies says nothing)
                return

    @rule()
    def serve(self) -> None:
        self.scene.desk.serve_next()

    @rule()
    def time_passes(self) -> None:
        self.scene.rested(self.task_id)

    @rule(method=st.sampled_from(["GET", "POST", "PATCH"]), fault=st.sampled_from(FAULTS))
    def trouble(self, method: str, fault: dict[str, Any]) -> None:
        self.scene.github.inject(method, Fault(**fault))

    @precondition(lambda self: self.lease is not None)
    @rule()
    def complete(self) -> None:
        assert self.lease is not None
        self.scene.completed(self.lease)
        self.lease = None

    @precondition(lambda self: self.lease is None)
    @rule()
    def follow_up(self) -> None:
        self.lease = self.scene.again(self.task_id)
        self.keep(self.scene.push(self.lease))

    @precondition(lambda self: self.pulls())
    @rule()
    def close(self) -> None:
        self.scene.github.change(REPO, self.pulls()[0]["number"], state="closed")

    def keep(self, hold: Hold | None) -> None:
        if hold is not None:
            self.holds.append(hold)

    def pulls(self) -> list[dict[str, Any]]:
        return [pull for pull in self.scene.github.pulls(REPO) if pull["head"]["ref"] == branch_name(self.task_id)]

    @invariant()
    def never_two(self) -> None:
        if not hasattr(self, "task_id"):
            return
        assert len(self.pulls()) <= 1
        told = self.scene.events(self.task_id, "pull_request")
        assert told in ([], [{"url": pull["html_url"], "number": pull["number"]} for pull in self.pulls()])

    def teardown(self) -> None:
        """In the end what was asked for is there."""
        self.scene.github.clear()
        self.scene.request(self.task_id)
        self.scene.rested(self.task_id)
        while self.scene.desk.serve_next():
            pass
        assert len(self.pulls()) == 1
        assert len(self.scene.events(self.task_id, "pull_request")) == 1
        assert self.scene.row(self.task_id).pull_request_requested_at is None


@pytest.mark.slow
def test_never_two(scene: Scene) -> None:
    Requests.scene = scene
    run_state_machine_as_test(
        Requests,
        settings=settings(
            max_examples=20, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
