"""The user of a run: asks over REST, again and again with the same key until it is answered, as a phone does."""

from __future__ import annotations

import threading
import time
from typing import Any
from uuid import uuid4

import httpx

from tests.referee.waiting import NeverHappenedError

Json = dict[str, Any]

PATIENCE_S = 150.0
PAUSE_S = 0.3
TIMEOUT_S = 20.0


class User:
    """Safe to use from many threads. `complaints`: answers that no outage excuses."""

    def __init__(self, api_url: str, token: str) -> None:
        self.token = token
        self.complaints: list[str] = []
        self._http = httpx.Client(
            base_url=api_url, headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT_S, trust_env=False
        )

    def close(self) -> None:
        self._http.close()

    def post(self, path: str, body: Json, *, stop: threading.Event | None = None) -> Json:
        """The answer of the first request that got one. Raises NeverHappenedError."""
        return self._ask("POST", path, stop=stop, json=body, headers={"Idempotency-Key": str(uuid4())})

    def get(self, path: str, **query: object) -> Json:
        return self._ask("GET", path, params=query)

    def events(self, task_id: str) -> list[Json]:
        found: list[Json] = []
        while page := self.get(f"/v1/tasks/{task_id}/events", after=found[-1]["seq"] if found else 0)["items"]:
            found += page
        return found

    def _ask(self, method: str, path: str, *, stop: threading.Event | None = None, **request: Any) -> Json:
        deadline = time.monotonic() + PATIENCE_S
        last = ""
        while time.monotonic() < deadline and not (stop and stop.is_set()):
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                last = repr(error)
            else:
                last = f"{response.status_code} {response.text[:300]}"
                if response.is_success:
                    answer: Json = response.json()
                    return answer
                self._judge(f"{method} {path}: {last}", response)
            (stop or threading.Event()).wait(PAUSE_S)
        raise NeverHappenedError(f"{method} {path} was not answered: {last}")

    def _judge(self, what: str, response: httpx.Response) -> None:
        """503 says when to come back; 409 is what a repeat may meet whose first request is still under way."""
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            if "Retry-After" not in response.headers:
                self.complaints.append(f"503 without Retry-After: {what}")
        elif response.status_code != httpx.codes.CONFLICT:
            self.complaints.append(what)
