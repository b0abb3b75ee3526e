"""A key that is put in front of the ring takes over everything that is stored, and the old one can go."""

from __future__ import annotations

import logging
import threading
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, select, update

from infra.crypto import KeyRing
from infra.ids import new_id
from infra.rotation import rotate_secrets
from infra.tables import IdempotencyKey, Project
from tests.integration.database_locks import wait_until_somebody_waits
from tests.world import World

OLD, NEW, OTHER = KeyRing(("o" * 32,)), KeyRing(("n" * 32,)), KeyRing(("x" * 32,))
ROTATING = KeyRing(("n" * 32, "o" * 32))


def project(world: World, sealed: bytes | None) -> UUID:
    with world.services.database.begin() as connection:
        values = {"id": new_id(), "user_id": world.user_id, "repo_url": str(new_id()), "name": "r"}
        made = insert(Project).values(**values, git_token_encrypted=sealed).returning(Project.id)
        return connection.execute(made).scalar_one()


def answer(world: World, key: str, sealed: bytes) -> None:
    with world.services.database.begin() as connection:
        values = {
            "user_id": world.user_id,
            "operation": "o",
            "key": key,
            "request_hash": "h",
            "status": 201,
            "body": {},
        }
        connection.execute(insert(IdempotencyKey).values(**values, sealed=sealed))


def sealed(world: World, column: Any) -> list[Any]:
    with world.services.database.read() as connection:
        return list(connection.execute(select(column).where(column.is_not(None))).scalars())


def test_everything_comes_under_the_first_key(world: World) -> None:
    """More rows than a page has, and some that are there already."""
    for number in range(7):
        project(world, (OLD if number % 3 else NEW).encrypt(f"token {number}"))
        answer(world, f"k{number}", OLD.encrypt(f"answer {number}"))
    project(world, None)
    assert rotate_secrets(world.services.database, ROTATING, page=3) == 4 + 7
    tokens, answers = (sealed(world, column) for column in (Project.git_token_encrypted, IdempotencyKey.sealed))
    assert {NEW.decrypt(one) for one in tokens} == {f"token {number}" for number in range(7)}
    assert {NEW.decrypt(one) for one in answers} == {f"answer {number}" for number in range(7)}
    assert rotate_secrets(world.services.database, ROTATING, page=3) == 0


def test_each_secret_of_an_environment_comes_under_the_first_key(world: World) -> None:
    with world.services.database.begin() as connection:
        values = {"id": new_id(), "user_id": world.user_id, "repo_url": str(new_id()), "name": "r"}
        secrets = {"OLD": OLD.encrypt("an old secret").decode(), "NEW": NEW.encrypt("a new secret").decode()}
        connection.execute(insert(Project).values(**values, secrets=secrets))
    assert rotate_secrets(world.services.database, ROTATING) == 1
    (kept,) = (one for one in sealed(world, Project.secrets) if one)
    assert kept["NEW"] == secrets["NEW"]
    assert {name: NEW.decrypt(one.encode()) for name, one in kept.items()} == {
        "OLD": "an old secret",
        "NEW": "a new secret",
    }


def test_what_no_key_opens_stays_and_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    lost = OTHER.encrypt("a token")
    project(world, lost)
    project(world, OLD.encrypt("a token"))
    with caplog.at_level(logging.INFO, "infra.rotation"):
        assert rotate_secrets(world.services.database, ROTATING) == 1
    assert lost in sealed(world, Project.git_token_encrypted)
    assert [record.getMessage() for record in caplog.records] == [
        "no key of FARHAND_SECRET_KEYS opens 1 of the stored secrets"
    ]


def test_a_token_that_its_user_changes_meanwhile_is_not_overwritten(world: World) -> None:
    changed = project(world, OLD.encrypt("the old token"))
    rotated: list[int] = []
    with world.services.database.engine.connect() as user:
        fresh = NEW.encrypt("the new token")
        user.execute(update(Project).where(Project.id == changed).values(git_token_encrypted=fresh))
        sweep = threading.Thread(target=lambda: rotated.append(rotate_secrets(world.services.database, ROTATING)))
        sweep.start()  # it reads the old token, and waits for the row
        wait_until_somebody_waits(world.services)
        user.commit()
    sweep.join(30)
    assert rotated == [0]
    assert [NEW.decrypt(one) for one in sealed(world, Project.git_token_encrypted)] == ["the new token"]
