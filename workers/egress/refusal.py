"""Why a connection of a sandbox does not come about, as its client and the audit record are told."""

from __future__ import annotations

import json

from infra.hosts import in_authority

_REASONS = {400: "Bad Request", 403: "Forbidden", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
_REASONS |= {502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}


class Refused(Exception):  # noqa: N818  (an outcome that is told to the client, not a fault)
    """`code` goes into the audit record. Nothing that only the deployment knows (an address) may stand in the text."""

    def __init__(self, status: int, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.recorded = False
        """The journal has it already."""

    @classmethod
    def by_policy(cls, code: str, host: str, port: int, why: str, *, hint: str) -> Refused:
        return cls(403, code, f"{in_authority(host)}:{port} is refused: {why}", hint)

    @property
    def by_us(self) -> bool:
        """Whether the decision was ours; else something between us and the host went wrong."""
        return self.status not in {502, 504}

    def response(self) -> bytes:
        """The whole response. The first line says it too: pip and others show nothing else of a failed CONNECT."""
        words = f" ({self.message})" if self.message.isascii() and self.message.isprintable() else ""
        error = {"code": self.code, "message": self.message, "hint": self.hint}
        body = json.dumps({"error": error}).encode() + b"\n"
        head = (
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}{words}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body
