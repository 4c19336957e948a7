"""Guard of the supervisor, which starts it again when it was killed: `python -m serving.airflow.guard PROGRAM ...`.

The supervisor, for its part, starts a new guard when this one was killed, so both must be killed at once to stop them.
Under systemd there is no guard, since systemd is one. Only the standard library is imported: it takes 10 MB.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

REFUSED: Final = 2
"""Exit code of a program that a person must help first, such as by a setting: it is not started again."""
_FIRST_S: Final = 1.0
_MOST_S: Final = 60.0
_RESET_S: Final = 300.0


def guard(
    command: Sequence[str],
    *,
    run: Callable[[Sequence[str]], int],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run a program until it ends by itself, and return its exit code.

    Args:
        command: command line.
        run: runs it to its end and returns the exit code.
        clock: returns monotonic seconds.
        sleep: called with the seconds to wait before the next run.
    """
    delay_s = _FIRST_S
    while True:
        began_s = clock()
        code = run(command)
        if code in (0, REFUSED):
            return code
        if clock() - began_s >= _RESET_S:
            delay_s = _FIRST_S
        sleep(delay_s)
        delay_s = min(_MOST_S, 2 * delay_s)


def _run(command: Sequence[str]) -> int:
    # A session of its own, so that stopping the guard does not stop the supervisor.
    return subprocess.Popen(command, start_new_session=True).wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.exit(guard(sys.argv[1:], run=_run))
