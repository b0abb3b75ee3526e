"""G2 as a property: whatever workers, users and sweepers do, and in whatever order, a task has one owner at most.

Several workers live, fall silent, are taken for dead and come back; processes die, with a word or without, and heirs
take over from them, as successors or as siblings. Each keeps every lease that it was ever given and goes on trying to
write with all of them. A model beside the database says who the owner is.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import delete, func, select, update

from infra.errors import AuthorityLostError, ConflictError
from infra.tables import Attempt, Task, Worker
from infra.tasks import ownership, records, takeover, transitions, turns
from infra.tasks.records import NewStep
from infra.tasks.states import TERMINAL, Status
from infra.tasks.transitions import Lease
from tests.world import World

ERROR: Any = {"code": "c", "message": "m", "hint": "h"}
WORKERS, TASKS, USER_LIMIT = 3, 3, 2

some_worker = st.integers(0, WORKERS - 1)
some_task = st.integers(0, TASKS - 1)


class Owners(RuleBasedStateMachine):
    """`owner[task]` is the lease that must be the only one with which anything can be written."""

    world: World
    adopted = 0
    """In all sequences."""

    @initialize()
    def begin(self) -> None:
        with self.world.services.database.begin() as connection:
            for table in (Task, Worker):  # of the sequence before, which would stand in this one's line
                connection.execute(delete(table))
        fresh = self.world.another_user()
        self.user_id = fresh
        self.tasks = [self.world.task(user_id=fresh) for _ in range(TASKS)]
        self.workers = [self.world.worker() for _ in range(WORKERS)]
        self.given: list[Lease] = []
        self.owner: dict[UUID, Lease | None] = dict.fromkeys(self.tasks)
        self.worker_of: dict[UUID, UUID] = {}
        self.sandbox_of: dict[UUID, str] = {}
        self.dead: list[UUID] = []
        """Workers whose process is gone, so that its lock is free."""
        self.left: set[UUID] = set()
        self.silent: set[UUID] = set()
        self.swept: set[UUID] = set()

    # ---- workers -----------------------------------------------------------------------------------------------

    @rule(worker=some_worker, task=some_task)
    def a_wake_up_comes(self, worker: int, task: int) -> None:
        worker_id = self.workers[worker]
        claimed = turns.claim_next(
            self.world.services.tasks,
            self.tasks[task],
            worker_id=worker_id,
            worker_name="w",
            sandbox="local",
            user_limit=USER_LIMIT,
        )
        if claimed is None:
            return
        lease = claimed[0]
        assert worker_id not in self.swept, "a worker that was taken for dead got a task"
        assert self.owner[lease.task_id] is None, "a second owner"
        self._give(lease, worker_id)
        self.sandbox_of[lease.task_id] = f"sandbox{len(self.given)}"
        with self.world.services.tasks.transaction() as tx:
            records.record_sandbox(tx, lease, self.sandbox_of[lease.task_id])

    def _give(self, lease: Lease, worker_id: UUID) -> None:
        assert all(lease.token != old.token for old in self.given)
        self.given.append(lease)
        self.owner[lease.task_id] = lease
        self.worker_of[lease.token] = worker_id

    def _owned_by(self, worker_id: UUID) -> set[Lease]:
        return {lease for lease in self.owner.values() if lease and self.worker_of[lease.token] == worker_id}

    @rule(data=st.data(), how=st.sampled_from(["step", "event", "complete", "fail", "hand over", "death", "cancelled"]))
    def some_lease_is_written_with(self, data: st.DataObject, how: str) -> None:
        if not self.given:
            return
        lease = data.draw(st.sampled_from(self.given))
        owns = self.owner[lease.task_id] == lease
        before = self.world.row(lease.task_id)
        try:
            with self.world.services.tasks.transaction() as tx:
                wrote = self._write(tx, lease, how, before)
        except AuthorityLostError:
            wrote = False
        after = self.world.row(lease.task_id)
        assert owns or not wrote, f"{how} with a lease that is lost"
        assert wrote or after == before
        if after.lease_token != lease.token and owns:
            self.owner[lease.task_id] = None

    def _write(self, tx: Any, lease: Lease, how: str, row: Any) -> bool:
        match how:
            case "step":
                read = tuple(UUID(message["id"]) for message in records.inbox(tx.connection, lease.task_id))
                records.record_step(tx, lease, NewStep(row.last_step + 1, None, {"content": []}, "", read, ()))
                wrote = True
            case "event":
                records.append_event(tx, lease, ("error", {"code": "c", "message": "m"}))
                wrote = True
            case "death":
                wrote = transitions.give_back_after_death(tx, lease, error=ERROR)
            case "complete":
                wrote = transitions.complete(tx, lease, "done")
            case "fail":
                wrote = transitions.fail(tx, lease, ERROR)
            case "cancelled":
                wrote = transitions.confirm_cancelled(tx, lease, confirmed_dead_ms=None)
            case _:
                wrote = transitions.hand_over(tx, lease, "handed_over")
        return wrote

    @rule(worker=some_worker)
    def a_worker_falls_silent(self, worker: int) -> None:
        self.world.let_die(self.workers[worker])
        self.silent.add(self.workers[worker])

    @rule(worker=some_worker)
    def a_worker_beats(self, worker: int) -> None:
        worker_id = self.workers[worker]
        with self.world.services.database.begin() as connection:
            beat = ownership.heartbeat(connection, worker_id, ttl=60)
        assert set(beat.held) == self._owned_by(worker_id)
        assert beat.alive == (worker_id not in self.swept)
        self.silent.discard(worker_id)
        if not beat.alive:
            self.workers[worker] = self.world.worker()  # it registers anew

    @rule(data=st.data(), worker=some_worker, announced=st.booleans(), heir=st.none() | some_worker)
    def a_process_ends_and_another_begins(
        self, data: st.DataObject, worker: int, heir: int | None, *, announced: bool
    ) -> None:
        """`heir`: who takes over from it at once; often the one that begins in its place."""
        gone = self.workers[worker]
        if announced:
            self.world.leave(gone, seconds=60)  # nobody falls silent but by a rule
            self.left.add(gone)
        self.dead.append(gone)
        self.workers[worker] = self.world.worker()
        if heir is not None:
            self._take_over(data, gone, self.workers[heir], all_of_it=heir == worker)

    @rule(data=st.data(), heir=some_worker, all_of_it=st.booleans())
    def an_heir_comes_late(self, data: st.DataObject, heir: int, *, all_of_it: bool) -> None:
        if self.dead:
            dead = data.draw(st.sampled_from(self.dead))
            self._take_over(data, dead, self.workers[heir], all_of_it=all_of_it)

    def _take_over(self, data: st.DataObject, dead: UUID, heir_id: UUID, *, all_of_it: bool) -> None:
        """`all_of_it`: as the successor; else as a sibling. Some sandboxes run, others do not."""
        owned = self._owned_by(dead)
        runs = {task for task in sorted(lease.task_id for lease in owned) if data.draw(st.booleans())}
        nothing = dead in self.swept or heir_id in self.swept
        deaths = {lease.task_id: self.world.row(lease.task_id).deaths + (dead not in self.left) for lease in owned}
        adoptable = {task for task in runs if dead in self.left or deaths[task] < transitions.MAX_DEATHS}
        with self.world.services.tasks.transaction() as tx:
            sandboxes = {task: self.sandbox_of[task] for task in runs}
            adopted, _ = takeover.take_over(tx, dead, heir=heir_id, sandboxes=sandboxes, all_of_it=all_of_it)
        assert {adoption.task.id for adoption in adopted} == (set() if nothing else adoptable)
        Owners.adopted += len(adopted)
        for adoption in adopted:
            self._give(adoption.lease, heir_id)
            assert self.world.row(adoption.task.id).deaths == deaths[adoption.task.id]
        left_over = self._owned_by(dead)
        if not nothing and (all_of_it or not left_over):
            self.swept.add(dead)
            self.owner |= {lease.task_id: None for lease in left_over}

    @rule(data=st.data())
    def nobody_hears_of_the_dead(self, data: st.DataObject) -> None:
        if self.dead:
            gone = data.draw(st.sampled_from(self.dead))
            self.world.let_die(gone)
            self.silent.add(gone)

    @rule()
    def somebody_sweeps(self) -> None:
        taken = {row.id for row in self.world.sweep()}
        gone = self.silent - self.swept
        lost = {task for task, lease in self.owner.items() if lease and self.worker_of[lease.token] in gone}
        assert taken == lost
        self.swept |= gone
        self.owner |= dict.fromkeys(lost)

    @rule()
    def time_passes(self) -> None:
        """What rests has rested."""
        with self.world.services.database.begin() as connection:
            connection.execute(update(Task).values(not_before=None))

    # ---- the user ----------------------------------------------------------------------------------------------

    @rule(task=some_task, what=st.sampled_from(["cancel", "retry", "say"]))
    def the_user_acts(self, task: int, what: str) -> None:
        task_id = self.tasks[task]
        before = self.world.row(task_id)
        try:
            with self.world.services.tasks.transaction() as tx:
                if what == "cancel":
                    transitions.request_cancel(tx, task_id, user_id=self.user_id)
                elif what == "retry":
                    transitions.retry(tx, task_id, user_id=self.user_id, budget_usd=None)
                else:
                    transitions.add_message(tx, task_id, "more", user_id=self.user_id)
        except ConflictError:
            return
        # Nobody but its owner or the sweep takes a task from its owner.
        assert self.world.row(task_id).lease_token == before.lease_token

    # ---- what always holds -------------------------------------------------------------------------------------

    @invariant()
    def the_database_knows_the_same_owners(self) -> None:
        if not hasattr(self, "tasks"):
            return
        for task_id in self.tasks:
            row, lease = self.world.row(task_id), self.owner[task_id]
            assert row.lease_token == (lease and lease.token)
            assert (row.status == Status.RUNNING) == (lease is not None)
            assert (row.completed_at is not None) == (row.status in TERMINAL)
            assert row.last_seq == len(self.world.events(task_id))
        running = sum(lease is not None for lease in self.owner.values())
        assert running <= USER_LIMIT
        with self.world.services.database.read() as connection:
            mine = (Attempt.task_id.in_(self.tasks), Attempt.ended_at.is_(None))
            assert connection.execute(select(func.count()).select_from(Attempt).where(*mine)).scalar_one() == running


def test_no_sequence_gives_a_task_two_owners(world: World) -> None:
    Owners.world = world
    run_state_machine_as_test(
        Owners,
        settings=settings(
            max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    assert Owners.adopted > 0, "no sequence had an heir"
