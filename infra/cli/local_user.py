"""The user of a deployment on one's own machine, and the token that its command line uses."""

from __future__ import annotations

from uuid import UUID

from argon2 import PasswordHasher
from sqlalchemy import Connection, delete, func, insert, select

from infra.cli.data_dir import DataDir, write_private
from infra.crypto import fingerprint, new_secret
from infra.db import Database
from infra.errors import NotFoundError
from infra.ids import new_id
from infra.tables import ApiToken, User

LOCAL_EMAIL = "local@farhand.invalid"
LOCAL_TOKEN = "local"  # noqa: S105  (the name of the token)


def ensure_local_user(database: Database, data: DataDir) -> None:
    """The local user exists, is an admin, and the token in DIR/token is theirs and valid."""
    with database.begin() as connection:
        user_id = _local_user(connection)
        known = data.token()
        if known is not None and _is_token_of(connection, known, user_id):
            return
        connection.execute(delete(ApiToken).where(ApiToken.user_id == user_id, ApiToken.name == LOCAL_TOKEN))
        token = _insert_token(connection, user_id, LOCAL_TOKEN)
    write_private(data.token_file, token)


def make_token(database: Database, *, email: str, name: str) -> str:
    """A new API token of a user; only its hash is stored. Raises NotFoundError."""
    with database.begin() as connection:
        user_id = connection.execute(
            select(User.id).where(func.lower(User.email) == email.lower())
        ).scalar_one_or_none()
        if user_id is None:
            raise NotFoundError(f"there is no user {email}", hint="Register it first: POST /v1/auth/register.")
        return _insert_token(connection, user_id, name)


def _local_user(connection: Connection) -> UUID:
    found = connection.execute(select(User.id).where(func.lower(User.email) == LOCAL_EMAIL)).scalar_one_or_none()
    if found is not None:
        return found
    user_id = new_id()
    # Nobody knows this password: the user comes in by token only.
    password_hash = PasswordHasher().hash(new_secret())
    connection.execute(insert(User).values(id=user_id, email=LOCAL_EMAIL, password_hash=password_hash, is_admin=True))
    return user_id


def _is_token_of(connection: Connection, token: str, user_id: UUID) -> bool:
    found = select(ApiToken.id).where(ApiToken.token_hash == fingerprint(token), ApiToken.user_id == user_id)
    return connection.execute(found).first() is not None


def _insert_token(connection: Connection, user_id: UUID, name: str) -> str:
    token = f"fh_{new_secret()}"  # the prefix by which the API tells it from an access token
    connection.execute(insert(ApiToken).values(id=new_id(), user_id=user_id, name=name, token_hash=fingerprint(token)))
    return token
