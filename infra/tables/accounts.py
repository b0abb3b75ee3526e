"""Who uses the deployment: users, their credentials and their projects."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from infra.tables.base import Base, CreatedAt, Id, Json, Moment


class User(Base):
    """A person. The first one of a deployment is its admin."""

    __tablename__ = "users"

    id: Mapped[Id]
    email: Mapped[str] = mapped_column()
    password_hash: Mapped[str]
    is_admin: Mapped[bool] = mapped_column(server_default=text("false"))
    max_concurrent_tasks: Mapped[int | None]
    """Null: what `infra.limits` says for users without a limit of their own."""
    created_at: Mapped[CreatedAt]

    __table_args__ = (Index("uq_users_email_lower", func.lower(email), unique=True),)


class Limit(Base):
    """A limit of the whole deployment that can be changed while it runs; `infra.limits` says which there are."""

    __tablename__ = "limits"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]

    __table_args__ = (CheckConstraint("value >= 0", name="value"),)


class Invite(Base):
    """Permission to register once, while registration is by invite."""

    __tablename__ = "invites"

    id: Mapped[Id]
    code_hash: Mapped[str] = mapped_column(unique=True)
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    expires_at: Mapped[Moment]
    used_at: Mapped[Moment | None]
    created_at: Mapped[CreatedAt]


class ApiToken(Base):
    """A named token for scripts and the CLI; only its SHA-256 is stored, the token has 256 random bits."""

    __tablename__ = "api_tokens"

    id: Mapped[Id]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    token_hash: Mapped[str] = mapped_column(unique=True)
    expires_at: Mapped[Moment | None]
    last_used_at: Mapped[Moment | None]
    created_at: Mapped[CreatedAt]


class RefreshToken(Base):
    """One link of a rotation chain. A used token that comes back revokes its whole family (it was stolen)."""

    __tablename__ = "refresh_tokens"

    id: Mapped[Id]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    family_id: Mapped[UUID] = mapped_column(index=True)
    token_hash: Mapped[str] = mapped_column(unique=True)
    expires_at: Mapped[Moment]
    used_at: Mapped[Moment | None]
    revoked_at: Mapped[Moment | None]
    created_at: Mapped[CreatedAt]


class Project(Base):
    """A repository of one user, with the credentials for it."""

    __tablename__ = "projects"

    id: Mapped[Id]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    repo_url: Mapped[str]
    name: Mapped[str]
    git_username: Mapped[str | None]
    git_token_encrypted: Mapped[bytes | None]
    egress: Mapped[Any] = mapped_column(JSONB, server_default=text("'\"none\"'"))
    """What its sandboxes may reach: a word, or a list of hosts; see `infra.egress`."""
    pull_request: Mapped[str] = mapped_column(server_default=text("'on_request'"))
    """When a task gets a pull request: never, on_request or always."""
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        CheckConstraint("pull_request in ('never','on_request','always')", name="pull_request"),
        UniqueConstraint("user_id", "repo_url"),
        Index("ix_projects_user_id_id", "user_id", "id"),
    )


class IdempotencyKey(Base):
    """The answer to a POST, kept so that a repeat of it changes nothing and is told the same."""

    __tablename__ = "idempotency_keys"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    operation: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    status: Mapped[int]
    body: Mapped[Json]
    created_at: Mapped[CreatedAt] = mapped_column(index=True)
