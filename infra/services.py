"""What every process of a deployment opens once: settings, database, Redis, queue, key ring."""

from __future__ import annotations

from dataclasses import dataclass

from celery import Celery

from infra.bus import Bus
from infra.crypto import KeyRing
from infra.db import Database
from infra.queue import WakeUps, make_celery
from infra.settings import Settings
from infra.tasks.log import TaskLog


@dataclass(frozen=True, slots=True)
class Services:
    """Handed to whoever needs a part of the floor; nothing of this is global."""

    settings: Settings
    database: Database
    bus: Bus
    tasks: TaskLog
    celery: Celery
    wake_ups: WakeUps
    keys: KeyRing

    @classmethod
    def open(cls, settings: Settings) -> Services:
        """Connects to nothing yet. Raises ConfigurationError for settings that are missing."""
        database = Database(settings.database_url)
        bus = Bus(settings.redis_url)
        celery = make_celery(settings)
        return cls(
            settings=settings,
            database=database,
            bus=bus,
            tasks=TaskLog(database, bus),
            celery=celery,
            wake_ups=WakeUps(celery),
            keys=KeyRing.from_settings(settings),
        )

    def close(self) -> None:
        """Close every connection. What was put into the outboxes and is not sent yet may be lost."""
        self.database.close()
        self.bus.redis.close()
        self.celery.close()
