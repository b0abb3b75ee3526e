"""Git on the worker's side, without trust in what it reads: mirrors, a task's trees and commit, the push.

Every command runs through `command.Git`: no configuration but ours, no hooks, no redirects, a pinned address,
credentials for that one command, bounded in time, memory, file size and output. No work tree exists outside a sandbox.
"""
