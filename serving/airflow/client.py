"""Client of Airflow's REST API."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import httpx

from serving.airflow.await_api import HEALTH_PATH
from storage.errors import TickwalkError


class NoAnswerError(TickwalkError):
    """Airflow does not answer, or not in time."""


class AirflowClient:
    """Airflow's REST API as the user `admin`; a context manager.

    Args:
        url: base address without a path, such as `http://127.0.0.1:8080`.
        password: password of `admin`; only `health` works without it.
        timeout_s: timeout of one request.
    """

    def __init__(self, url: str, *, password: str = "", timeout_s: float = 30.0) -> None:
        self.url = url
        self._password = password
        # The service is on this machine, so ignore proxies in the environment.
        self._http = httpx.Client(base_url=url, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> AirflowClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def health(self) -> dict[str, float]:
        """Return the healthy components, each with its last heartbeat in seconds since the epoch.

        `metadatabase` has no heartbeat and is 0. The result is empty if Airflow does not answer.
        """
        try:
            answer = self._http.get(HEALTH_PATH)
        except httpx.TransportError:
            return {}
        if answer.status_code != httpx.codes.OK:
            return {}
        return {
            name: _heartbeat_s(name, facts)
            for name, facts in answer.json().items()
            if facts and facts.get("status") == "healthy"
        }

    def get(self, path: str, **params: str) -> Any:
        """Return the answer to `GET /api/v2/<path>`.

        Raises:
            NoAnswerError: nothing answers in time.
            TickwalkError: Airflow rejects the request; the message has the reason.
        """
        return self._request("GET", path, params=params)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the answer to `POST /api/v2/<path>`."""
        return self._request("POST", path, json=body)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """Return the answer to `PATCH /api/v2/<path>`."""
        return self._request("PATCH", path, json=body)

    def dag_ids(self) -> set[str]:
        """Return the DAGs that Airflow has parsed, including paused ones."""
        return {dag["dag_id"] for dag in self.get("dags", limit="100")["dags"]}

    def import_errors(self) -> list[str]:
        """Return the import errors of DAG files, one text per file."""
        found = self.get("importErrors")["import_errors"]
        return [f"{error['filename']}: {error['stack_trace']}" for error in found]

    def unpause(self, dag_id: str) -> None:
        """Enable the schedule of a DAG."""
        self.patch(f"dags/{dag_id}", {"is_paused": False})

    def _request(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            if "authorization" not in self._http.headers:
                self._http.headers["authorization"] = f"Bearer {self._token()}"
            answer = self._http.request(method, f"/api/v2/{path}", **arguments)
        except httpx.TransportError as error:
            raise TickwalkError(
                f"Airflow does not answer at {self.url}: {error}", hint="run: make up"
            ) from error
        if answer.is_error:
            raise TickwalkError(
                f"Airflow refused {method} {path} with {answer.status_code}: {answer.text[:500]}"
            )
        return answer.json()

    def _token(self) -> str:
        answer = self._http.post("/auth/token", json={"username": "admin", "password": self._password})
        if answer.is_error:
            raise TickwalkError(f"Airflow at {self.url} refused the password of admin ({answer.status_code})")
        return str(answer.json()["access_token"])


def _heartbeat_s(name: str, facts: dict[str, Any]) -> float:
    text = facts.get(f"latest_{name}_heartbeat")
    return datetime.fromisoformat(text).timestamp() if text else 0.0
