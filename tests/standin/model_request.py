"""One request to the model stand-in, as tests see it."""

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ModelRequest:
    """What arrived, and what became of it. Times are `time.monotonic()` seconds."""

    body: Any = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    arrived_at: float = field(default_factory=time.monotonic)
    trajectory: str | None = None
    turn: int | None = None
    fault: str | None = None
    held_at: str | None = None  # the gate that holds it at this moment
    status: int | None = None  # the HTTP status of the reply, once one was begun
    error: str | None = None  # the message of an API error that it was answered with
    delivered: bool = False  # an unspoilt reply was handed over whole, while the client was there
    finished_at: float | None = None  # when the stand-in was done with it, delivered or not
