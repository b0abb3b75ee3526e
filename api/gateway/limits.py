"""Every bound of the gateway. Durations are seconds, sizes bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """A deployment runs with these; tests shrink them."""

    # A socket's input
    message_bytes: int = 2**20
    messages_per_s: float = 50.0
    messages_burst: int = 400
    """A client with many tasks subscribes to all of them at once."""
    auth_timeout_s: float = 10.0

    # A socket's output
    kernel_buffer_bytes: int = 128 * 1024
    """Without a bound the kernel takes several megabytes for a client that reads nothing, unseen by the next two."""
    lag_bytes: int = 256 * 1024
    """With more than this unsent a client gets no deltas, and nothing is read for it from Postgres."""
    queue_bytes: int = 4 * 2**20
    """With more than this unsent the next event closes the socket as a slow consumer."""
    send_timeout_s: float = 20.0
    """Longest time in which a client takes nothing of what is sent."""
    close_timeout_s: float = 5.0

    # Liveness
    heartbeat_s: float = 25.0
    """Silence of a client after which it is pinged."""
    pong_timeout_s: float = 20.0
    pulse_s: float = 1.0

    # A socket's and a user's share of this process
    subscriptions: int = 200
    sockets_per_user: int = 64

    # Looking after the doorbell
    poll_s: float = 1.0
    poll_grace_s: float = 0.2
    """How long a committed event may be on its way through Redis before it counts as lost."""
    page_events: int = 512
    page_bytes: int = 2**20
    """A page of either size at most, but at least one event."""
    readers: int = 8
    """Threads that read Postgres on behalf of subscribers."""

    # Draining
    reconnect_jitter_ms: int = 3000
    drain_batch: int = 100
    drain_pause_s: float = 0.05
