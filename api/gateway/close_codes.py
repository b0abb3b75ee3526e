"""Close codes. They carry the verdict: 40xx do not come back, 41xx back off, 42xx come back now."""

from __future__ import annotations


class Close:
    """`(code, reason)` of every close that is ours; 1000 to 1011 mean what RFC 6455 says."""

    UNAUTHENTICATED = (4001, "log in again")
    ORIGIN = (4003, "this page may not open a stream here")
    UNAVAILABLE = (4100, "a part of the service does not answer: come back a little later")
    SLOW_CONSUMER = (4108, "too slow: subscribe again with the last seq that you have")
    UNRESPONSIVE = (4109, "no answer to a ping")
    RATE = (4129, "too many messages or sockets: come back a little later")
    DRAINING = (4200, "the gateway restarts: come back now")
    INTERNAL = (1011, "internal error")
