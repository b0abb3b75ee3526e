"""Who opens a stream: by a one-use ticket, by the session cookie of a page of ours, or by a first frame `auth`."""

from __future__ import annotations

from uuid import UUID

from flask import Request

from api.auth import cookies
from api.auth.identity import authenticate_cookie
from api.gateway.close_codes import Close
from infra.errors import UnauthenticatedError, UnavailableError
from infra.services import Services


class RefusedError(Exception):
    """The socket is closed with this code and reason; the code tells the client whether to come back."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def admit(services: Services, request: Request) -> UUID | None:
    """The user of a handshake; None: a first frame `auth` is to tell. Raises RefusedError.

    Browsers send an Origin with every handshake and do not keep other sites from opening sockets, cookie included.
    So whoever names an Origin must name ours, and a cookie counts only together with it.
    """
    from_a_page = "Origin" in request.headers
    if from_a_page and not cookies.origin_is_ours(services.settings, request):
        raise RefusedError(*Close.ORIGIN)
    ticket = request.args.get("ticket")
    try:
        if ticket is not None:
            return _redeem(services, ticket)
        return authenticate_cookie(services, request) if from_a_page else None
    except UnauthenticatedError as error:
        raise RefusedError(Close.UNAUTHENTICATED[0], error.message) from error
    except UnavailableError as error:
        raise RefusedError(*Close.UNAVAILABLE) from error


def _redeem(services: Services, ticket: str) -> UUID:
    user_id = services.bus.redeem_ticket(ticket)
    if user_id is None:
        raise UnauthenticatedError("this ticket was used, has expired, or never was one: get a new one")
    return user_id
