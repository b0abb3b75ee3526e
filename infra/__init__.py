"""The floor that both services stand on: settings, tables, guarded transitions, event log, queue, bus, crypto, CLI."""

__version__ = "0.1.0"
