"""The tables, as SQLAlchemy declarative classes. Migrations are proven equal to them by a test."""

from infra.tables.accounts import ApiToken, IdempotencyKey, Invite, Limit, Project, RefreshToken, User
from infra.tables.base import Base
from infra.tables.work import (
    Attempt,
    EgressConnection,
    Event,
    Message,
    ModelCall,
    Patch,
    Step,
    Task,
    ToolCall,
    Tree,
    Worker,
)

__all__ = [
    "ApiToken",
    "Attempt",
    "Base",
    "EgressConnection",
    "Event",
    "IdempotencyKey",
    "Invite",
    "Limit",
    "Message",
    "ModelCall",
    "Patch",
    "Project",
    "RefreshToken",
    "Step",
    "Task",
    "ToolCall",
    "Tree",
    "User",
    "Worker",
]
