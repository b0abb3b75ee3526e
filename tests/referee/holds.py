"""Writes of the product that are held at the moment of their commit, from outside: triggers and locks of the referee.

A deferred trigger runs at the end of the writer's transaction, when the writer has nothing more to say than `commit`,
or has said so. There it waits for an advisory lock that the referee's own session has. So whoever wrote can be killed
while its write is neither there nor lost, and the referee decides which it becomes:

    drop     Postgres ends the backend, as it does when it notices that its client is gone: the write never was
    let_go   the lock is given up: the write is committed, and nobody who asked for it is there to hear so

The referee that dies takes its session with it: every lock is free then, and nothing waits any longer.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from tests.referee.waiting import eventually

_SETUP = """
create schema referee;
create table referee.holds (
    key bigint primary key,
    place text not null,
    detail text not null,
    mark text not null
);
create function referee.wait_there(which text, what text, prompt text) returns void language plpgsql as $$
declare
    found_key bigint;
begin
    select key into found_key from referee.holds
    where place = which and (detail = '' or detail = what) and position(mark in prompt) > 0;
    if found then
        perform pg_advisory_xact_lock_shared(found_key);
    end if;
end $$;
create function referee.on_event() returns trigger language plpgsql as $$
begin
    perform referee.wait_there(
        new.type,
        coalesce(new.data ->> 'call_id', new.data ->> 'step', ''),
        (select prompt from public.tasks where id = new.task_id)
    );
    return null;
end $$;
create function referee.on_row() returns trigger language plpgsql as $$
begin
    perform referee.wait_there(
        tg_argv[0], coalesce(to_jsonb(new) ->> 'step', ''), (select prompt from public.tasks where id = new.task_id)
    );
    return null;
end $$;
create function referee.on_task() returns trigger language plpgsql as $$
begin
    perform referee.wait_there(tg_argv[0], '', new.prompt);
    return null;
end $$;
create constraint trigger referee_event after insert on events
    deferrable initially deferred for each row execute function referee.on_event();
create constraint trigger referee_sandbox after update of sandbox_id on attempts
    deferrable initially deferred for each row execute function referee.on_row('sandbox_named');
create constraint trigger referee_reserve after insert on model_calls
    deferrable initially deferred for each row execute function referee.on_row('money_held');
create constraint trigger referee_patch after insert or update on patches
    deferrable initially deferred for each row execute function referee.on_row('patch_kept');
create constraint trigger referee_base after update of base_sha on tasks
    deferrable initially deferred for each row
    when (new.base_sha is distinct from old.base_sha) execute function referee.on_task('base_fixed');
create constraint trigger referee_intent after update of push_intent on tasks
    deferrable initially deferred for each row
    when (new.push_intent is not null) execute function referee.on_task('push_meant');
"""

_REMOVE = """
drop trigger referee_event on events;
drop trigger referee_sandbox on attempts;
drop trigger referee_reserve on model_calls;
drop trigger referee_patch on patches;
drop trigger referee_base on tasks;
drop trigger referee_intent on tasks;
drop schema referee cascade;
"""

_WAITING = b"select pid from pg_locks where locktype = 'advisory' and objid = %s and not granted"


@dataclass(frozen=True, slots=True)
class Hold:
    """A place where one task's writer waits. `key` is the lock."""

    key: int
    place: str


class Holds:
    """`url` is the database's own address, past every proxy. Raises psycopg.Error when Postgres is away."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute(_SETUP)
        self._last = 0

    def add(self, place: str, mark: str, detail: str = "") -> Hold:
        """From now on the writer waits there, for a task whose prompt holds `mark`. Call it before that task exists.

        `place` is the type of an event or a name in the triggers; `detail` its call or step, if it happens often.
        """
        self._last += 1
        self._connection.execute(b"select pg_advisory_lock(%s)", (self._last,))
        self._connection.execute(
            b"insert into referee.holds values (%s, %s, %s, %s)", (self._last, place, detail, mark)
        )
        return Hold(self._last, place)

    def is_reached(self, hold: Hold) -> bool:
        """Whether somebody waits there now."""
        return bool(self._waiting(hold))

    def drop(self, hold: Hold) -> None:
        """What waits there never was."""
        for pid in self._waiting(hold):
            self._connection.execute(b"select pg_terminate_backend(%s)", (pid,))
        eventually(lambda: not self._waiting(hold), f"Postgres has given up the write at {hold.place}")
        self.let_go(hold)

    def let_go(self, hold: Hold) -> None:
        """What waits there happens, and nobody waits there again."""
        self._connection.execute(b"select pg_advisory_unlock(%s)", (hold.key,))

    def remove(self) -> None:
        """Leave the database as it was."""
        self._connection.execute(b"select pg_advisory_unlock_all()")
        self._connection.execute(_REMOVE)
        self._connection.close()

    def _waiting(self, hold: Hold) -> list[int]:
        return [pid for (pid,) in self._connection.execute(_WAITING, (hold.key,)).fetchall()]
