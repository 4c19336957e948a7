"""Time during which the machine kept a runnable process from running.

Drills that measure in milliseconds are run on machines that have other work too. A thread that only sleeps notices
how late it is woken; what it notices, no process of the drill can be blamed for.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from storage.clock import NS

_NAP_S: Final = 0.005


def waited_ns(pid: int) -> int:
    """Return how long the threads of a process have been ready to run and waited for a processor, all together."""
    waits = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):  # a thread that has ended meanwhile
            waits += int(path.read_text().split()[1])
    return waits


class Stalls:
    """Watches while its block runs."""

    def __init__(self) -> None:
        self._late: list[tuple[int, int]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stalls", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def longest_ns(self, from_ns: int, to_ns: int) -> int:
        """Return the longest delay between two instants, in ns since 1970."""
        return max((late for at, late in self._late if from_ns <= at <= to_ns + late), default=0)

    def _watch(self) -> None:
        before_ns = time.time_ns()
        while not self._ending.wait(_NAP_S):
            now_ns = time.time_ns()
            late_ns = now_ns - before_ns - round(_NAP_S * NS)
            if late_ns > _NAP_S * NS:
                self._late.append((now_ns, late_ns))
            before_ns = now_ns
