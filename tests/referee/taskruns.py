"""The user of each task: sends it, watches it, follows up, cancels, and asks again where that is the user's part."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.referee.plans import Plan
from tests.referee.subscriber import Subscriber
from tests.referee.user import User
from tests.referee.waiting import NeverHappenedError

Json = dict[str, Any]

OUTAGE_ERRORS = frozenset({"repo_unreachable", "repo_timeout", "push_failed", "git_failed"})
"""With these a task fails while its git host is away, and tells its user to retry it."""
TERMINAL = frozenset({"completed", "failed", "cancelled"})
MAX_RETRIES = 6


class TaskRun:
    """One task of the run. `trouble`: what its user was never answered."""

    def __init__(self, plan: Plan, user: User, repo_url: str, stream_url: str) -> None:
        self.plan = plan
        self.id = ""
        self.retries = 0
        self.trouble: list[str] = []
        self.submitted_at = 0.0
        self._user = user
        self._repo_url = repo_url
        self._stream_url = stream_url
        self._lock = threading.Lock()
        self._rounds_left = len(plan.rounds) - 1
        self._cancelled = False
        self._acting = 0
        self.subscriber: Subscriber | None = None

    def submit(self, *, stop: threading.Event | None = None) -> None:
        """Returns once it is accepted. Raises NeverHappenedError."""
        self.submitted_at = time.time()
        body = {"repo_url": self._repo_url, "prompt": self.plan.prompt, "budget_usd": self.plan.budget_usd}
        self.id = str(self._user.post("/v1/tasks", body, stop=stop)["id"])
        self.subscriber = Subscriber(self._stream_url, self._user.token, self.id, self._on_event)
        self.subscriber.start()

    def is_over(self, status: str, last_seq: int) -> bool:
        """Whether it has ended, as Postgres has it, its subscriber has seen that, and its user has no more to say."""
        if self.subscriber is None or status not in TERMINAL or self.subscriber.last_seq < last_seq:
            return False
        with self._lock:
            goes_on = status == "completed" and self._rounds_left > 0
            return self._acting == 0 and not goes_on

    def _on_event(self, event: Json) -> None:
        kind, data = event["type"], event["data"]
        with self._lock:
            act = self._what_to_do(kind, data)
            if act is None:
                return
            self._acting += 1
        threading.Thread(target=self._act, args=act, name=f"user of {self.plan.name}", daemon=True).start()

    def _what_to_do(self, kind: str, data: Json) -> tuple[str, Json] | None:
        plan = self.plan
        if kind == "usage" and plan.cancel_after_step is not None and not self._cancelled:
            if data["step"] >= plan.cancel_after_step:
                self._cancelled = True
                return ("cancel", {})
        elif kind == "completed" and self._rounds_left:
            self._rounds_left -= 1
            return ("messages", {"text": "and go on"})
        elif kind == "failed" and data["error"]["code"] in OUTAGE_ERRORS and self.retries < MAX_RETRIES:
            self.retries += 1
            return ("retry", {})
        return None

    def _act(self, what: str, body: Json) -> None:
        try:
            self._user.post(f"/v1/tasks/{self.id}/{what}", body)
        except NeverHappenedError as error:
            self.trouble.append(str(error))
        finally:
            with self._lock:
                self._acting -= 1
