"""Passwords: argon2id, off the event loop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from gevent import monkey
from gevent.threadpool import ThreadPool

T = TypeVar("T")

_HASHER = PasswordHasher()
_THREADS = 2
"""At a time: each takes 64 MiB for about 50 ms."""


def hashed(password: str) -> str:
    return _off_the_loop(_HASHER.hash, password)


def matches(stored: str | None, password: str) -> bool:
    """Whether the password is the hashed one. For `stored` None (no such user) it is not, after as long a time."""
    try:
        _off_the_loop(_HASHER.verify, stored or _hash_of_nobody(), password)
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


def is_outdated(stored: str) -> bool:
    """Hashed with other parameters than today's: hash again while the password is at hand."""
    return _HASHER.check_needs_rehash(stored)


@functools.cache
def _hash_of_nobody() -> str:
    return hashed("nobody has this password")


def _off_the_loop(function: Callable[..., T], *args: Any) -> T:
    """argon2 gives the GIL back but not gevent's loop: under gevent it runs on a real thread."""
    if not monkey.is_module_patched("threading"):
        return function(*args)
    result: T = _pool().apply(function, args)
    return result


@functools.cache
def _pool() -> ThreadPool:
    return ThreadPool(_THREADS)
