"""The one map from errors to statuses knows every error that there is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.limits import RateLimitedError
from api.problems import MalformedError, status_of
from infra import errors
from infra.errors import FarhandError


def every(kind: type[FarhandError] = FarhandError) -> Iterator[type[FarhandError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from every(child)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.InvalidInputError, 422),
        (errors.RepoRefusedError, 422),
        (MalformedError, 400),
        (errors.NotFoundError, 404),
        (errors.ConflictError, 409),
        (errors.UnauthenticatedError, 401),
        (errors.ForbiddenError, 403),
        (errors.ConfigurationError, 503),
        (errors.UnavailableError, 503),
        (errors.BudgetExceededError, 402),
        (FarhandError, 500),
    ],
)
def test_a_class_means_a_status(kind: type[FarhandError], status: int) -> None:
    assert status_of(kind("m")) == status


def test_too_many_requests() -> None:
    assert status_of(RateLimitedError("m", retry_after_s=3)) == 429


def test_only_the_root_of_the_tree_is_a_bug() -> None:
    own = {kind for kind in every() if kind.__module__.startswith("infra.errors")}
    assert {kind for kind in own if status_of(kind("m")) == 500} == {FarhandError}
