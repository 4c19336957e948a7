"""Web application of the pages, for `tickwalk ui` and for Airflow's plugin, which differ in who may see them.

Every route, also those of the style sheet and the script, depends on `may_read`, and every route that changes something
on `may_change` and is a POST. There is no static mount, which would pass by both. Pages are rendered on the server;
without their script they lose only the picture of the coverage.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Form, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from serving.day_jobs.quality import read_quality
from serving.pages.coverage import LETTERS, read_cell, read_grid
from serving.pages.models import read_models
from serving.pages.morning import read_morning
from serving.pages.progress import read_progress
from serving.promotions import apply_decision, asked_decision
from storage.clock import TimeSource, WallTime, parse_time_ns
from storage.errors import GateError, LakeError, TickwalkError
from storage.lake.lake import Lake
from storage.settings import Settings

PAGES: Final = (("", "Morning"), ("coverage", "Coverage"), ("models", "Models"))
_DAY: Final = r"^\d{4}-\d\d-\d\d$"

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# A report is one file with its styles and scripts in it.
_REPORT_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'self'"
)

_templates = Environment(
    loader=PackageLoader("serving.pages", ""), autoescape=True, undefined=StrictUndefined
)


def make_app(
    settings: Settings,
    *,
    may_read: Callable[..., Any],
    may_change: Callable[..., Any],
    who: Callable[[Request], str],
    night_of_run: Callable[[str, str], str | None] = lambda _dag, _run: None,
    clock: TimeSource | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        settings: the home.
        may_read: dependency of every route; raises an HTTP error for strangers.
        may_change: dependency of routes that change something.
        who: returns in whose name a request is made.
        night_of_run: returns the night of a run of Airflow, from its DAG and id.
        clock: default: wall clock.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(
        _reading(settings, clock or WallTime(), night_of_run), dependencies=[Depends(may_read)]
    )
    app.include_router(
        _changing(settings, clock or WallTime(), who), dependencies=[Depends(may_read), Depends(may_change)]
    )

    @app.middleware("http")
    async def _add_headers(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(TickwalkError)
    async def _explain(request: Request, error: TickwalkError) -> Response:
        status = 409 if isinstance(error, GateError) else 500
        return _render(request, "error", "Error", status=status, message=error.message, hint=error.hint)

    return app


class _SharedLake:
    """A lake that is opened for reading once, for one request at a time: to open it takes longer than to read it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._lake: Lake | None = None

    @contextmanager
    def opened(self) -> Iterator[Lake]:
        """Lend the lake to a block; after an error it is opened again, since it may have been restored meanwhile."""
        with self._lock:
            if self._lake is None:
                self._lake = Lake.open(self._settings, read_only=True)
            try:
                yield self._lake
            except LakeError:
                self._lake.close()
                self._lake = None
                raise


def _reading(
    settings: Settings, clock: TimeSource, night_of_run: Callable[[str, str], str | None]
) -> APIRouter:
    """Return the routes that change nothing."""
    router = APIRouter()
    lake = _SharedLake(settings)

    @router.get("/")
    def morning(request: Request) -> HTMLResponse:
        with lake.opened() as opened:
            content = read_morning(settings, opened, now_ns=clock.now_ns())
        return _render(request, "morning", "Morning", morning=content)

    @router.get("/coverage")
    def coverage(request: Request) -> HTMLResponse:
        with lake.opened() as opened:
            grid = read_grid(opened)
        return _render(request, "coverage", "Coverage", grid=grid, letters=LETTERS)

    @router.get("/coverage/cell")
    def cell(instrument: Annotated[str, Query()], day: Annotated[str, Query(pattern=_DAY)]) -> Response:
        with lake.opened() as opened:
            found = read_cell(opened, instrument, day)
        return JSONResponse(found, status_code=200 if found else 404)

    @router.get("/models")
    def models(request: Request) -> HTMLResponse:
        with lake.opened() as opened:
            found = read_models(settings, opened)
        return _render(request, "models", "Models", recipes=found)

    @router.get("/report/{night}")
    def report(request: Request, night: str) -> Response:
        progress = read_progress(settings, night)
        if progress.report is None:
            return _render(request, "progress", f"Night {night}", progress=progress)
        page = HTMLResponse(progress.report.read_bytes())
        page.headers["Content-Security-Policy"] = _REPORT_POLICY
        return page

    @router.get("/run/{dag_id}/{run_id:path}")
    def run(request: Request, dag_id: str, run_id: str) -> Response:
        night = night_of_run(dag_id, run_id)
        if night is None:
            return _render(request, "no_night", "Report", run=run_id)
        return report(request, night)

    @router.get("/quality")
    def quality(
        since: Annotated[str | None, Query(pattern=_DAY)] = None,
        until: Annotated[str | None, Query(pattern=_DAY)] = None,
    ) -> JSONResponse:
        return JSONResponse(
            read_quality(
                settings,
                since_ns=parse_time_ns(since) if since else None,
                until_ns=parse_time_ns(until) if until else None,
                clock=clock,
            )
        )

    for name, kind in (("pages.css", "text/css"), ("pages.js", "text/javascript")):
        router.add_api_route(f"/{name}", _file(name, kind), methods=["GET"], name=name)
    return router


def _changing(settings: Settings, clock: TimeSource, who: Callable[[Request], str]) -> APIRouter:
    """Return the routes that change something."""
    router = APIRouter()

    @router.post("/models/decide")
    def decide(
        request: Request,
        action: Annotated[str, Form()],
        version: Annotated[str, Form()],
        champion: Annotated[str, Form()],
        reason: Annotated[str, Form()] = "",
    ) -> Response:
        asked = asked_decision(settings, {"action": action, "version": version, "reason": reason})
        # What the person saw, which may have changed since.
        decision = asked.to_plain() | {"champion": champion or None}
        apply_decision(settings, decision, who=who(request), now_ns=clock.now_ns())
        return RedirectResponse(f"{request.scope.get('root_path', '')}/models", status_code=303)

    return router


def _file(name: str, kind: str) -> Callable[[], Response]:
    def read() -> Response:
        return Response((files("serving.pages") / name).read_bytes(), media_type=kind)

    return read


def _render(request: Request, template: str, title: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    base = request.scope.get("root_path", "").rstrip("/")
    common: Mapping[str, Any] = {"base": base, "pages": PAGES, "title": title}
    text = _templates.get_template(f"{template}.html.j2").render(**common, **values)
    return HTMLResponse(text, status_code=status)
