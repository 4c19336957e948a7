"""Airflow plugin: the pages in Airflow's menu, and the report of its night as a tab of each run of `retrain_nightly`.

The folder is Airflow's `core.plugins_folder`. Every process of Airflow imports this file, and only the API server
answers requests, so the application is made at the first one. Its routes are guarded by Airflow's own login
(`serving.airflow_plugin.app`).
"""

from __future__ import annotations

from typing import Any, Final

from airflow.plugins_manager import AirflowPlugin

PREFIX: Final = "/tickwalk"


class _AppOnRequest:
    """ASGI application that is made at the first request."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            from serving.airflow_plugin.app import make_plugin_app

            self._app = make_plugin_app()
        await self._app(scope, receive, send)


def _page(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "href": f"{PREFIX}/{path}", "destination": "nav", "url_route": name.lower()}


class TickwalkPlugin(AirflowPlugin):
    """The pages."""

    name = "tickwalk"
    fastapi_apps = [{"app": _AppOnRequest(), "url_prefix": PREFIX, "name": "tickwalk"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        _page("Morning", ""),
        _page("Coverage", "coverage"),
        _page("Models", "models"),
        {
            "name": "Report",
            "href": f"{PREFIX}/run/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "report",
        },
    ]
