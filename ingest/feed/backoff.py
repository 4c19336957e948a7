"""How long does a lost socket wait before it tries again?

Full jitter (uniform from zero up to a limit that doubles with each failure), so that sockets which an upgrade cut at
one instant do not come back at one instant.
"""

from __future__ import annotations

import random
from typing import Final

from websockets.exceptions import InvalidStatus

from storage.settings.recording import RecordSettings

# A connection that held this long ends the backoff: the venue is well again.
_HEALTHY_S: Final = 60.0
_TOO_MANY: Final = 429


class Backoff:
    """Counts the failures of one socket."""

    def __init__(
        self, record: RecordSettings, random_source: random.Random, *, patience: float = 1.0
    ) -> None:
        """Start without a failure.

        Args:
            record: `backoff_first_s`, `backoff_max_s` and `refused_wait_s` rule.
            random_source: draws the waits.
            patience: multiplies them.
        """
        self._record = record
        self._random = random_source
        self._patience = patience
        self._failures = 0

    def failed(self, held_s: float, error: BaseException | None = None) -> float:
        """Return how long to wait after a connection that held for `held_s`, or whose handshake met an error."""
        record = self._record
        self._failures = 1 if held_s > _HEALTHY_S else self._failures + 1
        longest_s = min(record.backoff_max_s, record.backoff_first_s * 2.0 ** min(self._failures - 1, 30))
        return self._least_s(error) + self._random.uniform(0.0, self._patience * longest_s)

    def _least_s(self, error: BaseException | None) -> float:
        if not isinstance(error, InvalidStatus) or error.response.status_code != _TOO_MANY:
            return 0.0
        asked = error.response.headers.get("Retry-After", "")
        return max(self._record.refused_wait_s, float(asked) if asked.isdecimal() else 0.0)
