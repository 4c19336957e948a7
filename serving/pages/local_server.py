"""`tickwalk ui`: the pages on 127.0.0.1 without Airflow, for the person who started it.

The address has a token, which becomes a cookie at the first visit and then leaves the address. A request must name this
server as its host, so that a page of another site cannot reach it through a name of its own that points to 127.0.0.1,
and a change must come from one of these pages.
"""

from __future__ import annotations

import getpass
import hmac
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from serving.pages.app import make_app
from storage.clock import TimeSource
from storage.errors import SettingsError
from storage.settings import Settings

HOST: Final = "127.0.0.1"
COOKIE: Final = "tickwalk"


@dataclass(frozen=True, slots=True)
class LocalAccess:
    """Who may use the pages: whoever has the token.

    Args:
        port: of the server.
        token: random text.
    """

    port: int
    token: str

    @property
    def url(self) -> str:
        """Address for the first visit."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    def may_read(self, request: Request) -> None:
        """Refuse another host, and a visitor without the cookie.

        Raises:
            HTTPException: 421 or 401.
        """
        if request.headers.get("host") not in self._hosts:
            raise HTTPException(421, f"this server is http://{HOST}:{self.port} only")
        if not hmac.compare_digest(request.cookies.get(self.cookie, ""), self.token):
            raise HTTPException(401, "open the address that `tickwalk ui` printed")

    def may_change(self, request: Request) -> None:
        """Refuse a change that another site asks for.

        Raises:
            HTTPException: 403.
        """
        if request.headers.get("origin") not in {f"http://{host}" for host in self._hosts}:
            raise HTTPException(403, "changes come from these pages only")

    @property
    def cookie(self) -> str:
        """Name of the cookie; cookies do not tell ports apart, so that of another home has another name."""
        return f"{COOKIE}-{self.port}"

    @property
    def _hosts(self) -> set[str]:
        return {f"{HOST}:{self.port}", f"localhost:{self.port}"}


def make_local_app(settings: Settings, access: LocalAccess, *, clock: TimeSource | None = None) -> FastAPI:
    """Return the application with its login."""
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    app = make_app(
        settings, may_read=access.may_read, may_change=access.may_change, who=lambda _: who, clock=clock
    )

    @app.middleware("http")
    async def _log_in(request: Request, call_next: Callable[[Request], Response]) -> Response:
        token = request.query_params.get("token")
        if token is None or request.method != "GET" or not hmac.compare_digest(token, access.token):
            return await call_next(request)  # type: ignore[misc, no-any-return]  # it is a coroutine
        response = RedirectResponse(request.url.path, status_code=303)
        response.set_cookie(access.cookie, access.token, httponly=True, samesite="strict", path="/")
        return response

    return app


def serve(settings: Settings, *, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve the pages until Ctrl-C.

    Args:
        settings: the home.
        port: on 127.0.0.1; 0: a free one.
        on_ready: called with the address once the port is open.

    Raises:
        SettingsError: the port is taken.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise SettingsError(
                f"port {port} on {HOST} is taken", hint="choose another with --port"
            ) from error
        access = LocalAccess(listener.getsockname()[1], secrets.token_urlsafe(24))
        config = uvicorn.Config(
            make_local_app(settings, access), log_level="warning", access_log=False, lifespan="off"
        )
        listener.listen()
        on_ready(access.url)
        uvicorn.Server(config).run(sockets=[listener])
