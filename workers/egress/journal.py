"""The audit records of one attempt, written under its lease.

States of a record, all written by the attempt's own greenlets:

    opened   before anything goes out: a connection that cannot be recorded is refused. If the worker dies now, the
             record stays without an end.
    ended    how it ended and what went over it. Kept here until Postgres has taken it; if the worker dies before that,
             as above. A write that is repeated changes nothing.
    refused  one record each for the first `refusals_recorded`; all further ones are one record with their number,
             written when the first of them comes and once more when the attempt ends.

So an attempt costs at most `attempt_connections + refusals_recorded + 1` rows, whatever its commands do. A lease that
is gone ends the journal: nothing more is written, and whoever runs the attempt is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from gevent.lock import RLock

from infra.errors import AuthorityLostError, UnavailableError
from infra.services import Services
from infra.tasks.egress import Decision, EgressRecord, record_egress
from infra.tasks.transitions import Lease
from workers.egress.bounds import Bounds, Meter
from workers.egress.policy import Target
from workers.egress.refusal import Refused

log = logging.getLogger(__name__)

MORE = "more_not_recorded"


class Journal:
    """For one attempt. `on_lost` is told when the lease turns out to be gone."""

    def __init__(self, services: Services, lease: Lease, bounds: Bounds, on_lost: Callable[[], None]) -> None:
        self._services = services
        self._lease = lease
        self._bounds = bounds
        self._on_lost = on_lost
        self._pending: dict[UUID, EgressRecord] = {}
        self._writing = RLock()
        self._opened = 0
        self._refused = 0
        self._more: EgressRecord | None = None
        self._paused = False

    def open(self, target: Target, address: str, method: str) -> EgressRecord:
        """Record a connection that is about to be made. Raises Refused when that cannot be."""
        if self._opened >= self._bounds.attempt_connections:
            raise Refused(
                403,
                "too_many_connections",
                f"this attempt has made {self._bounds.attempt_connections} connections",
                "The owner can retry the task: the next attempt starts from zero.",
            )
        self._opened += 1
        record = EgressRecord(host=target.host, port=target.port, method=method, decision="allowed", address=address)
        self._pending[record.id] = record
        try:
            self._write()
        except AuthorityLostError:
            self._on_lost()
            raise Refused(403, "authority_lost", "this attempt no longer owns its task", "It ends now.") from None
        except UnavailableError:
            # It may be written all the same: the next write says what became of it.
            refused = Refused(503, "audit_unavailable", "connections cannot be recorded now", "Try again later.")
            self._pending[record.id] = replace(record, decision="refused", reason=refused.code, ended_at=_now())
            refused.recorded = True
            raise refused from None
        return record

    def end(
        self, record: EgressRecord, reason: str, meter: Meter, *, address: str | None, decision: Decision = "allowed"
    ) -> None:
        """How a connection ended. Never waits for a Postgres that is away, and never raises for it."""
        self._pending[record.id] = replace(
            record,
            address=address,
            decision=decision,
            reason=reason,
            bytes_up=meter.up,
            bytes_down=meter.down,
            ended_at=_now(),
        )
        self._write_soon()

    def refuse(self, host: str, port: int, method: str, refused: Refused) -> None:
        """A connection that did not come about. As `end`."""
        self._refused += 1
        beyond = self._refused - self._bounds.refusals_recorded
        if beyond > 1:
            return
        decision: Decision = "refused" if refused.by_us else "allowed"
        record = EgressRecord(host=host, port=port, method=method, decision=decision, reason=refused.code)
        if beyond == 1:
            record = self._more = EgressRecord(host="", port=0, method="", decision="refused", reason=MORE)
        self._pending[record.id] = replace(record, ended_at=_now())
        self._write_soon()

    def pause(self) -> None:
        """Keep what comes until `settle`: nothing waits for Postgres from now on."""
        self._paused = True

    def settle(self) -> None:
        """The attempt is over: write what is left, once."""
        self._paused = False
        if self._more is not None:
            beyond = self._refused - self._bounds.refusals_recorded
            self._pending[self._more.id] = replace(self._more, connections=beyond, ended_at=_now())
        self._write_soon()
        if self._pending:
            action = {"action": "egress_unrecorded", "task_id": self._lease.task_id}
            log.warning("%d ends of connections are not recorded", len(self._pending), extra=action)

    def _write_soon(self) -> None:
        if self._paused:
            return
        try:
            self._write()
        except AuthorityLostError:
            self._pending.clear()
            self._on_lost()
        except UnavailableError as error:  # kept for the next write
            log.warning("can't record egress yet: %s", error, extra={"action": "egress_record_failed"})

    def _write(self) -> None:
        """Everything that waits, in one transaction: whoever waited for another's write finds its own done."""
        with self._writing:
            batch = dict(self._pending)
            if not batch:
                return
            with self._services.tasks.transaction() as tx:
                record_egress(tx, self._lease, list(batch.values()))
            for key, written in batch.items():
                if self._pending.get(key) is written:  # else it has ended meanwhile
                    del self._pending[key]


def _now() -> datetime:
    return datetime.now(UTC)
