from __future__ import annotations

from sqlalchemy import func, insert, select, text, update

from infra.housekeeping import forget_old
from infra.ids import new_id
from infra.tables import Attempt, IdempotencyKey, RefreshToken, Worker
from infra.tasks import ownership, transitions
from tests.world import World


def test_old_answers_and_sessions_are_forgotten_and_fresh_ones_kept(world: World) -> None:
    with world.services.database.begin() as connection:
        for key in ("old", "fresh"):
            answer = {
                "user_id": world.user_id,
                "operation": "o",
                "key": key,
                "request_hash": "h",
                "status": 202,
                "body": {},
            }
            connection.execute(insert(IdempotencyKey).values(answer))
            session = {"user_id": world.user_id, "family_id": new_id(), "token_hash": key, "expires_at": func.now()}
            connection.execute(insert(RefreshToken).values(id=new_id(), **session))
        past = text("now() - interval '8 days'")
        connection.execute(update(IdempotencyKey).where(IdempotencyKey.key == "old").values(created_at=past))
        connection.execute(update(RefreshToken).where(RefreshToken.token_hash == "old").values(expires_at=past))
        assert forget_old(connection) == 2
        assert forget_old(connection) == 0
        assert connection.execute(select(IdempotencyKey.key)).scalars().all() == ["fresh"]
        assert connection.execute(select(RefreshToken.token_hash)).scalars().all() == ["fresh"]


def test_rows_of_workers_that_are_long_dead_go_and_their_attempts_stay(world: World) -> None:
    dead, fresh, alive, owner = (world.worker() for _ in range(4))
    lease, held = world.claim(world.task(), dead), world.claim(world.task(), owner)
    assert lease is not None
    assert held is not None
    with world.services.tasks.transaction() as tx:
        transitions.hand_over(tx, lease, "handed_over")
    for worker in (dead, fresh):
        world.let_die(worker)
    world.sweep()
    past = text("now() - interval '8 days'")
    with world.services.database.begin() as connection:
        # `owner`: a claim that was under way when its worker was marked; the next sweep takes the task back.
        marked = update(Worker).where(Worker.id.in_((dead, owner))).values(swept_at=past, alive_until=past)
        connection.execute(marked)
        assert forget_old(connection) == 1
        assert set(connection.execute(select(Worker.id)).scalars()) == {fresh, alive, owner}
        attempts = connection.execute(select(Attempt.task_id, Attempt.outcome, Attempt.worker_id)).all()
        assert (lease.task_id, "handed_over", None) in attempts
        assert not ownership.heartbeat(connection, dead, ttl=10).alive
    assert [row.id for row in world.sweep()] == [held.task_id]
