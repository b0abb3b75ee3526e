"""Looks at images that users want to name in projects, and writes down what it found: `infra.images_asked`.

A thread of each worker, as for pull requests: a check must not wait for a slot that an attempt has for hours.
"""

from __future__ import annotations

import logging
import threading

from infra import images_asked
from infra.errors import FarhandError, TaskFailedError, UnavailableError
from infra.images_asked import MAX_TRIES, Look
from infra.services import Services
from workers.sandbox.base import Driver

log = logging.getLogger(__name__)

LOOK_S = 0.5
"""Somebody waits for the answer."""
REST_S = 5.0


class ImageDesk:
    """Serves what `images_asked.take` hands out."""

    def __init__(self, services: Services, driver: Driver) -> None:
        self._database = services.database
        self._driver = driver

    def run(self, stopping: threading.Event) -> None:
        """Until `stopping`, on a thread of its own; any number of them side by side."""
        while not stopping.wait(LOOK_S):
            try:
                while not stopping.is_set() and self.serve_next():
                    pass
            except UnavailableError as error:
                log.warning("can't look at images: %s", error, extra={"action": "images_not_read"})
            except Exception:
                log.exception("looking at images broke", extra={"action": "images_not_read"})

    def serve_next(self) -> bool:
        """Look at one that is asked for. False when there is none. Raises UnavailableError when Postgres is away."""
        with self._database.begin() as connection:
            look = images_asked.take(connection)
        if look is None:
            return False
        if look.tries > MAX_TRIES:
            self._decide(look, _given_up(FarhandError(f"{MAX_TRIES} workers in a row did not come back from it")))
            return True
        try:
            self._driver.provide(look.reference, lambda _percent: None)
        except TaskFailedError as error:
            self._decide(look, error)
        except FarhandError as error:
            self._put_off(look, error)
        except Exception as error:
            log.exception("looking at an image broke", extra={"action": "image_broke"})
            self._put_off(look, FarhandError(f"the worker failed: {type(error).__name__}"))
        else:
            self._decide(look, None)
        return True

    def _decide(self, look: Look, error: FarhandError | None) -> None:
        said = "ready" if error is None else f"refused: {error}"
        log.info("image %s is %s", look.reference, said, extra={"action": "image_looked_at"})
        with self._database.begin() as connection:
            images_asked.decide(connection, look, None if error is None else error.as_failure())

    def _put_off(self, look: Look, error: FarhandError) -> None:
        if look.tries >= MAX_TRIES:
            self._decide(look, _given_up(error))
            return
        log.warning("can't look at %s now: %s", look.reference, error, extra={"action": "image_put_off"})
        with self._database.begin() as connection:
            images_asked.put_off(connection, look, REST_S)


def _given_up(error: FarhandError) -> TaskFailedError:
    return TaskFailedError(
        f"no worker could look at the image: {error.message}",
        hint="Save the project again once the workers' engines are well.",
        code="image_check_failed",
    )
