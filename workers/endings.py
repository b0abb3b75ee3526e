"""How an attempt can end. Whoever notices first puts one of these; the first one decides."""

from __future__ import annotations

from dataclasses import dataclass

from agent_runtime.protocol import Finish
from workers.sandbox.base import Exit


@dataclass(frozen=True, slots=True)
class Finished:
    """The loop said that it is done, and the link accepted it."""

    finish: Finish


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The user wants the task to end."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Another attempt owns the task: kill the sandbox and write nothing more."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """This worker shuts down, and nobody comes after it: end the sandbox and give the task to another worker."""


@dataclass(frozen=True, slots=True)
class Left:
    """This worker goes, and has left the sandbox running: write nothing, whoever adopts it goes on."""


@dataclass(frozen=True, slots=True)
class OutOfTime:
    """The attempt used up its wall clock."""


@dataclass(frozen=True, slots=True)
class SandboxDied:
    """The sandbox is gone without a word."""

    exit: Exit


@dataclass(frozen=True, slots=True)
class Broken:
    """Something that the attempt needs could not be had: the repository, the engine, the recording."""

    error: Exception


Ending = Finished | Cancelled | Lost | HandOver | Left | OutOfTime | SandboxDied | Broken
