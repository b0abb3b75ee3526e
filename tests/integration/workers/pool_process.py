"""A process with a warm pool, patched by gevent as a worker is. One JSON line in, one out; see `PoolProcess`."""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gevent.fileobject import FileObject  # noqa: E402

from agent_runtime.bundle import write_bundle  # noqa: E402
from tests.services import make_settings  # noqa: E402
from workers.linked_sandbox import LinkedSandbox  # noqa: E402
from workers.pool import Pool  # noqa: E402
from workers.sandbox.base import Driver  # noqa: E402
from workers.sandbox.docker import DockerDriver  # noqa: E402
from workers.sandbox.local import LocalDriver  # noqa: E402

DEADLINE_S = 60.0


class Served:
    """A request `{"do": name, …}` calls the method of that name."""

    def __init__(self, kind: str, run_dir: Path, image: str, size: int, **more: float) -> None:
        given = {"agent_image": image} if image else {}
        settings = make_settings(database_url="", redis_url="", run_dir=run_dir, **given)
        driver: Driver = DockerDriver(settings) if kind == "docker" else LocalDriver(settings)
        self._pool = Pool(driver, run_dir, write_bundle(run_dir / "runtime"), size, **more)
        self._pool.start()
        self._taken: list[LinkedSandbox] = []

    def until(self, **counts: int) -> dict[str, Any]:
        """The counts, once each of these is reached."""
        deadline = time.monotonic() + DEADLINE_S
        while any(self.counts()[name] < count for name, count in counts.items()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{counts} not reached: {self.counts()}")
            gevent.sleep(0.01)
        return self.counts()

    def counts(self) -> dict[str, Any]:
        counts = self._pool.counts
        return {
            **{name: getattr(counts, name) for name in ("hits", "misses", "started", "failed")},
            **{reason: counts.discarded[reason] for reason in ("age", "image", "died", "shutdown")},
            "ready": self._pool.ready,
        }

    def take(self) -> str | None:
        sandbox = self._pool.take()
        if sandbox is None:
            return None
        self._taken.append(sandbox)
        return sandbox.id

    def give_up_holds(self) -> None:
        for sandbox in self._taken:
            sandbox.give_up_hold()

    def discard(self) -> None:
        for sandbox in self._taken:
            sandbox.discard()

    def close(self) -> None:
        self._pool.close(30)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(action)s %(message)s")
    served = Served(**json.loads(sys.argv[1], object_hook=_with_paths))
    for line in FileObject(sys.stdin, "r"):
        request = json.loads(line)
        answer = getattr(served, request.pop("do"))(**request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _with_paths(given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "run_dir": Path(given["run_dir"])}


if __name__ == "__main__":
    main()
