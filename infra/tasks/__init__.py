"""Everything that reads or writes the `tasks` row and what hangs on it.

states        the states, a sentence for each, and the drawing
log           the event log: append in the transaction that changes the row, publish after its commit
transitions   every change of `tasks.status`, one guarded statement each: by the user, by a worker
ownership     workers, heartbeats and the sweep
turns         which pending task comes next, and which wake-ups are sent
records       what an attempt recorded: steps, tool calls, trees; and the job that the next attempt gets
step_writes   what a step writes, in one statement each
egress        the audit records of what sandboxes connected to
budget        money held before a model call and settled after it
views         what clients read
"""
