"""State file of the supervisor: what it last knew of each service, for `status` and for the next supervisor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from serving.airflow.supervisor import ServiceRecord
from storage.atomic_write import write_atomic

STALE_S: Final = 60.0
"""Age of the file above which its supervisor hangs: it writes once a second, and waits 25 s at most for others."""


@dataclass(frozen=True, slots=True)
class SupervisorState:
    """Content of the state file."""

    database: str
    """Kind of the database: `sqlite`, `postgres` or `server`."""
    written_s: float
    """Seconds since the epoch."""
    services: tuple[ServiceRecord, ...]

    def find(self, name: str) -> ServiceRecord | None:
        """Return the record of a service, if it is supervised."""
        return next((record for record in self.services if record.name == name), None)


def state_path(folder: Path) -> Path:
    """Return the state file's path in the folder of the daemons."""
    return folder / "supervisor.state.json"


def write_state(folder: Path, state: SupervisorState) -> None:
    """Replace the state file."""
    write_atomic(state_path(folder), msgspec.json.encode(state), is_synced=False, is_unique=False)


def read_state(folder: Path) -> SupervisorState | None:
    """Return the state; None if there is none, or one of another release."""
    try:
        return msgspec.json.decode(state_path(folder).read_bytes(), type=SupervisorState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
