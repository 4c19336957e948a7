"""Waits between reconnects of one socket: exponential backoff with full jitter.

The wait is uniform from zero up to a limit that doubles with each failure, so that sockets which an upgrade cut at
one instant do not reconnect at one instant.
"""

from __future__ import annotations

import random
from typing import Final

from websockets.exceptions import InvalidStatus

from storage.settings.recording import RecordSettings

# A connection that lasted this long resets the backoff: the venue works again.
_HEALTHY_S: Final = 60.0
_TOO_MANY: Final = 429


class Backoff:
    """Count the failures of one socket, and draw the wait before its next attempt."""

    def __init__(
        self, record: RecordSettings, random_source: random.Random, *, patience: float = 1.0
    ) -> None:
        """Start without a failure.

        Args:
            record: settings `backoff_first_s`, `backoff_max_s` and `refused_wait_s`.
            random_source: draws the waits.
            patience: factor on every wait.
        """
        self._record = record
        self._random = random_source
        self._patience = patience
        self._failures = 0

    def failed(self, lasted_s: float, error: BaseException | None = None) -> float:
        """Return the wait after a connection that lasted `lasted_s`, or after an error in the handshake."""
        record = self._record
        self._failures = 1 if lasted_s > _HEALTHY_S else self._failures + 1
        longest_s = min(record.backoff_max_s, record.backoff_first_s * 2.0 ** min(self._failures - 1, 30))
        return self._required_wait_s(error) + self._random.uniform(0.0, self._patience * longest_s)

    def _required_wait_s(self, error: BaseException | None) -> float:
        if not isinstance(error, InvalidStatus) or error.response.status_code != _TOO_MANY:
            return 0.0
        retry_after = error.response.headers.get("Retry-After", "")
        return max(self._record.refused_wait_s, float(retry_after) if retry_after.isdecimal() else 0.0)
