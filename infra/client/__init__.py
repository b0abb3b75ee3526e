"""A client of one deployment: REST, and the live stream of a task that survives lost connections.

    with Client("http://127.0.0.1:8000", token) as client:
        task = client.submit(repo_url="https://…", prompt="Make the failing test pass")
        for frame in client.stream(task["id"]):
            …

Errors are those of `infra.errors`, with the code and the hint that the server gave.
"""

from infra.client.rest import ApiError, Client
from infra.client.stream import Frame

__all__ = ["ApiError", "Client", "Frame"]
