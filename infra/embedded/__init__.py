"""The real Postgres and Redis, shipped in wheels, under our own supervision: their command lines and data.

unprivileged   who a server runs as when we are root, and programs that this user can reach
postgres       initdb once, then `postgres` in the foreground on a Unix socket
redis          `redis-server` in the foreground on a loopback port with a password, everything kept in its data

Each module makes a `Server`: what to start, where it listens, and how to ask whether it answers. Starting it again on
the same data gives the same address.
"""
