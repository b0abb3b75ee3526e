"""Stand-ins for what Farhand talks to: a model behind the Messages API, and a git host behind smart HTTP.

Both are real servers on loopback that speak the real protocols, so that no part of Farhand knows that it is being
tested. They also run by hand: `python -m tests.standin.model --help`, `python -m tests.standin.gitserver --help`.
"""
