"""Sandboxes: where the loop and its commands run. Two drivers behind one small protocol (`base`).

`choose.choose_driver` picks one; `directory` makes the directory that joins a sandbox to its worker. A driver knows
containers or processes, never tasks: which task a sandbox serves is said over the link.
"""
