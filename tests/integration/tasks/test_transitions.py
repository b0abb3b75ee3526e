"""The guarded transitions against a real Postgres: who may change what, and who may not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from agent_runtime.protocol import Result
from infra.errors import AuthorityLostError, ConflictError, NotFoundError
from infra.tables import Attempt, EgressConnection, Message, ModelCall, Patch, Step, Task, ToolCall, Tree
from infra.tasks import budget, records, takeover, transitions
from infra.tasks.egress import EgressRecord, record_egress
from infra.tasks.log import Transaction
from infra.tasks.states import TERMINAL, Status
from infra.tasks.transitions import Lease
from tests.world import World

ERROR = {"code": "c", "message": "m", "hint": "h"}
HELD = budget.Hold(UUID(int=1), step=1, try_=1, amount=Decimal(1), spent_before=Decimal(0))
PUSHED = {"branch": "b", "sha": "1" * 40, "files_changed": 1, "insertions": 1, "deletions": 0}
RESULT: Result = {
    "step": 1,
    "index": 0,
    "output": "out",
    "is_error": False,
    "truncated": False,
    "duration_ms": 1,
    "tree": "1" * 40,
    "parent": "0" * 40,
    "left_out": [],
}


def test_a_task_is_claimed_by_one_of_many(world: World) -> None:
    task_id, workers = world.task(), [world.worker() for _ in range(8)]
    leases: list[Lease | None] = []
    threads = [threading.Thread(target=lambda w=w: leases.append(world.claim(task_id, w))) for w in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in leases) == 1
    assert world.row(task_id).attempt == 1
    assert world.events(task_id) == ["task_created", "task_started"]


def test_a_swept_worker_claims_nothing(world: World) -> None:
    worker = world.worker()
    world.let_die(worker)
    world.sweep()
    assert world.claim(world.task(), worker) is None


def test_a_users_limit_holds_back_the_next_claim(world: World) -> None:
    worker = world.worker()
    assert world.claim(world.task(), worker, limit=1) is not None
    second = world.task()
    assert world.claim(second, worker, limit=1) is None
    assert world.row(second).status == Status.PENDING
    assert world.claim(world.task(user_id=world.another_user()), worker, limit=1) is not None


WRITTEN = (Task, Attempt, Step, Message, ToolCall, Tree, Patch, ModelCall, EgressConnection)
STALE_WRITES: dict[str, Callable[[Transaction, Lease], object]] = {
    "complete": lambda tx, lease: transitions.complete(tx, lease, "done"),
    "fail": lambda tx, lease: transitions.fail(tx, lease, ERROR),  # type: ignore[arg-type]
    "hand_over": lambda tx, lease: transitions.hand_over(tx, lease, "handed_over"),
    "cancelled": lambda tx, lease: transitions.confirm_cancelled(tx, lease, confirmed_dead_ms=1),
}
REFUSED_WRITES: dict[str, Callable[[Transaction, Lease], object]] = {
    "event": lambda tx, lease: records.append_event(tx, lease, ("error", {"code": "c", "message": "m"})),
    "sandbox": lambda tx, lease: records.record_sandbox(tx, lease, "x"),
    "base": lambda tx, lease: records.record_base(tx, lease, base_branch="main", base_sha="0" * 40),
    "calls": lambda tx, lease: records.record_calls(tx, lease, {"step": 1, "calls": []}),
    "step": lambda tx, lease: records.record_step(tx, lease, records.NewStep(1, None, {}, "", (), ())),
    "intent": lambda tx, lease: records.record_push_intent(tx, lease, sha="1" * 40, expected=None),
    "result": lambda tx, lease: records.record_result(tx, lease, RESULT, b"pack", limit=10),
    "push": lambda tx, lease: records.record_push(tx, lease, sha="1" * 40, event=("branch_pushed", PUSHED)),
    "egress": lambda tx, lease: record_egress(
        tx, lease, [EgressRecord(host="h", port=1, method="", decision="refused")]
    ),
    "death": lambda tx, lease: transitions.give_back_after_death(tx, lease, error=ERROR),  # type: ignore[arg-type]
    "released": lambda tx, lease: budget.release(tx, lease, HELD, "refused"),
    "lost": lambda tx, lease: budget.lose(tx, lease, HELD, "cut off"),
    "patch": lambda tx, lease: records.save_patch(tx, lease, base_sha="0", tree="", diff=b"", counts=(0, 0, 0)),
}


@pytest.mark.parametrize("name", [*STALE_WRITES, *REFUSED_WRITES])
def test_a_worker_that_lost_its_task_writes_nothing(world: World, name: str) -> None:
    worker, successor = world.worker(), world.worker()
    stale = world.claim(world.task(), worker)
    assert stale is not None
    world.let_die(worker)
    assert [row.id for row in world.sweep()] == [stale.task_id]
    fresh = world.claim(stale.task_id, successor)
    assert fresh is not None
    before, events = everything(world), world.events(stale.task_id)

    if name in STALE_WRITES:
        with world.services.tasks.transaction() as tx:
            assert STALE_WRITES[name](tx, stale) is False
    else:
        with pytest.raises(AuthorityLostError), world.services.tasks.transaction() as tx:
            REFUSED_WRITES[name](tx, stale)

    assert everything(world) == before
    assert world.events(stale.task_id) == events


def test_a_worker_that_lost_its_task_reserves_no_money(world: World) -> None:
    lease = world.claimed()
    with world.services.tasks.transaction() as tx:
        assert transitions.hand_over(tx, lease, "handed_over")
    before = everything(world)
    with pytest.raises(AuthorityLostError):
        budget.reserve(world.services.tasks, lease, step=1, model="m", amount=Decimal(1))
    assert everything(world) == before


def everything(world: World) -> dict[str, list[Any]]:
    """All rows of all tables in which a worker writes for a task."""
    with world.services.database.read() as connection:
        return {table.__tablename__: list(connection.execute(select(*table.__table__.c))) for table in WRITTEN}


def test_the_next_attempt_resumes_with_the_reason(world: World) -> None:
    lease = world.claimed()
    with world.services.tasks.transaction() as tx:
        assert transitions.hand_over(tx, lease, "handed_over")
    again = world.claim(lease.task_id, world.worker())
    assert again is not None
    assert again.attempt == 2
    assert again.token != lease.token
    assert world.events(lease.task_id) == ["task_created", "task_started", "task_resumed"]


def test_completing_waits_for_unread_messages(world: World) -> None:
    lease = world.claimed()  # its prompt is unread: no step contains it yet
    with world.services.tasks.transaction() as tx:
        assert transitions.complete(tx, lease, "done") is False
    assert world.row(lease.task_id).status == Status.RUNNING


def test_cancel_of_a_pending_task_is_immediate_and_repeatable(world: World) -> None:
    task_id = world.task()
    for _ in range(2):
        with world.services.tasks.transaction() as tx:
            assert transitions.request_cancel(tx, task_id, user_id=world.user_id).status == Status.CANCELLED
    assert world.events(task_id) == ["task_created", "cancelled"]
    assert world.claim(task_id, world.worker()) is None


def test_a_cancel_does_not_fall_between_two_states(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = world.claimed()
    advance, calls = Transaction.advance, []

    def interrupted(tx: Transaction, *given: Any, **more: Any) -> Any:
        row = advance(tx, *given, **more)
        calls.append(row)
        if len(calls) == 1:  # it was running, so not pending; now it is given back
            with world.services.tasks.transaction() as other:
                assert transitions.hand_over(other, lease, "handed_over")
        return row

    monkeypatch.setattr(Transaction, "advance", interrupted)
    with world.services.tasks.transaction() as tx:
        assert transitions.request_cancel(tx, lease.task_id, user_id=world.user_id).status == Status.CANCELLED


def test_cancel_of_a_running_task_waits_for_its_worker(world: World) -> None:
    lease = world.claimed()
    with world.services.tasks.transaction() as tx:
        row = transitions.request_cancel(tx, lease.task_id, user_id=world.user_id)
    assert row.status == Status.RUNNING
    assert row.cancel_requested_at is not None
    with world.services.tasks.transaction() as tx:
        assert transitions.confirm_cancelled(tx, lease, confirmed_dead_ms=7)
    assert world.row(lease.task_id).status == Status.CANCELLED


def test_others_see_no_task_to_act_on(world: World) -> None:
    task_id, stranger = world.task(), world.another_user()
    acts: list[Callable[[Transaction], object]] = [
        lambda tx: transitions.request_cancel(tx, task_id, user_id=stranger),
        lambda tx: transitions.add_message(tx, task_id, "hi", user_id=stranger),
        lambda tx: transitions.retry(tx, task_id, user_id=stranger, budget_usd=None),
    ]
    for act in acts:
        with pytest.raises(NotFoundError), world.services.tasks.transaction() as tx:
            act(tx)


def test_a_message_wakes_an_ended_task(world: World) -> None:
    lease = world.claimed()
    with world.services.tasks.transaction() as tx:
        assert transitions.fail(tx, lease, ERROR)  # type: ignore[arg-type]
    with world.services.tasks.transaction() as tx:
        row = transitions.add_message(tx, lease.task_id, "and the docs", user_id=world.user_id)
    assert row.status == Status.PENDING
    assert row.error is None
    assert row.unread == 2
    with world.services.database.begin() as connection:
        assert [m["text"] for m in records.inbox(connection, lease.task_id)][-1] == "and the docs"


def test_a_message_is_refused_while_the_task_is_being_cancelled(world: World) -> None:
    lease = world.claimed()
    with world.services.tasks.transaction() as tx:
        transitions.request_cancel(tx, lease.task_id, user_id=world.user_id)
    with pytest.raises(ConflictError) as refused, world.services.tasks.transaction() as tx:
        transitions.add_message(tx, lease.task_id, "wait", user_id=world.user_id)
    assert refused.value.code == "task_cancelling"


class Life(RuleBasedStateMachine):
    """Any order of what users, workers and the sweep do leaves a task in a state that makes sense."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.task_id = self.world.task()
        self.worker_id: UUID | None = None
        self.leases: list[Lease] = []

    @rule()
    def claim(self) -> None:
        worker_id = self.world.worker()
        lease = self.world.claim(self.task_id, worker_id)
        if lease is not None:
            self.worker_id = worker_id
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), name=st.sampled_from(sorted(STALE_WRITES)))
    def end_by_some_lease(self, data: st.DataObject, name: str) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        held = self.world.row(self.task_id).lease_token == lease.token
        with self.world.services.tasks.transaction() as tx:
            changed = STALE_WRITES[name](tx, lease)
        assert held or not changed

    @rule()
    def cancel(self) -> None:
        with self.world.services.tasks.transaction() as tx:
            transitions.request_cancel(tx, self.task_id, user_id=self.world.user_id)

    @rule()
    def retry(self) -> None:
        try:
            with self.world.services.tasks.transaction() as tx:
                transitions.retry(tx, self.task_id, user_id=self.world.user_id, budget_usd=None)
        except ConflictError:
            assert self.world.row(self.task_id).status not in TERMINAL

    @precondition(lambda self: self.worker_id)
    @rule()
    def die_and_sweep(self) -> None:
        assert self.worker_id is not None
        self.world.let_die(self.worker_id)
        self.world.sweep()
        assert self.world.row(self.task_id).status != Status.RUNNING

    @precondition(lambda self: self.worker_id)
    @rule(leaves=st.booleans(), adopted=st.booleans())
    def die_and_be_succeeded(self, *, leaves: bool, adopted: bool) -> None:
        """By a process that found its lock free."""
        assert self.worker_id is not None
        heir = self.world.worker()
        if self.world.row(self.task_id).status == Status.RUNNING:
            with self.world.services.tasks.transaction() as tx:
                records.record_sandbox(tx, self.leases[-1], "sandbox")
        if leaves:
            self.world.leave(self.worker_id)
        with self.world.services.tasks.transaction() as tx:
            sandboxes = {self.task_id: "sandbox"} if adopted else {}
            taken, _ = takeover.take_over(tx, self.worker_id, heir=heir, sandboxes=sandboxes, all_of_it=True)
        assert (self.world.row(self.task_id).status == Status.RUNNING) == bool(taken)
        self.leases += [adoption.lease for adoption in taken]
        self.worker_id = heir

    @invariant()
    def the_row_and_its_log_agree(self) -> None:
        row, events = self.world.row(self.task_id), self.world.events(self.task_id)
        assert row.last_seq == len(events)
        assert (row.lease_token is not None) == (row.status == Status.RUNNING)
        assert (row.completed_at is not None) == (row.status in TERMINAL)
        assert row.attempt == len(self.leases)
        assert events.count("task_started") + events.count("task_resumed") == len(self.leases)


def test_no_order_of_things_breaks_a_task(world: World) -> None:
    Life.world = world
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
