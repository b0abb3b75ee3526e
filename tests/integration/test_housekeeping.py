from __future__ import annotations

from sqlalchemy import func, insert, select, text, update

from infra.housekeeping import forget_old
from infra.ids import new_id
from infra.tables import IdempotencyKey, RefreshToken
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
