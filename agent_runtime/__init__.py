"""What runs inside a sandbox: standard library only, and nothing of ours from outside this package.

The package is mounted read-only into whatever image a task uses and is started by `python3 -I -S`.
It owns the wire protocol (`agent_runtime.protocol`); the worker imports that module, never the reverse.
"""
