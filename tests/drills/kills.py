"""Kills of a running recorder at random moments, and the state they leave.

A recorder under load is killed at random moments, in its start, its recovery, its commits, and started again.
Nothing that was sent to it 100 ms before a kill may be missing from that recording's journal; nothing may be in the
tables twice; and the tables are those which replaying the same journals gives where nobody was killed.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

from ingest.journal.format import segments
from ingest.journal.recording import SEALED
from storage.clock import MS_NS, NS
from storage.settings import Settings
from tests.drills.homes import (
    Key,
    assert_bars_hold_trades,
    assert_equal,
    fresh,
    journalled_prints,
    read_tables,
    recordings,
    replay_all,
    stored_prints,
)
from tests.drills.recorder_process import start
from tests.drills.stalls import Stalls
from tests.drills.venue_process import VenueProcess, venue_process
from tests.patience import HANG_S

SETTINGS: Final[dict[str, object]] = {
    "record.coins": "BTC,ETH,SOL,HYPE,DOGE,AVAX",
    "record.channels": "trades,bbo,l2Book,l2BookFast,activeAssetCtx",
    "record.commit_s": 1.0,
    "record.ntp_server": "",
    "record.handshakes_per_minute": 6_000,
    "record.rest_weight_per_minute": 60_000,
    "bars.widths": "1s,10s",
    "bars.grace_ms": 500,
}
# A process that was forked this long ago cannot have connected yet; what is sent meanwhile goes to no one.
_FORK_NS: Final = NS // 5
_LAST_S: Final = 1.5
# From socket to disk a frame waits for the loop, for its next flush, and for the thread that writes.
_WAKES: Final = 3
_LOOK_S: Final = 0.02
# More than what is said of a recording when it begins: frames have come.
_SOME_BYTES: Final = 16_384
# Of so many kills one strikes in the start or the recovery, if it is quick enough; the others a recording.
_STARTS: Final = 4


@dataclass(frozen=True, slots=True)
class Kill:
    """One recorder's life, in ns since 1970, and how long the machine kept others waiting in its last second."""

    name: str
    started_ns: int
    killed_ns: int
    stalled_ns: int


@dataclass(frozen=True, slots=True)
class KillReport:
    """What the kills cost.

    Args:
        kills: how many; `unborn` of them struck before anything was journalled.
        worst_loss_ms: age, at its kill, of the oldest print that its journal lacks.
        worst_excess_ms: the same, less what the machine took on the way from socket to disk.
        worst_stall_ms: the longest that the machine kept a sleeping thread from waking in a kill's last second.
        sent: distinct prints that the venue sent to anyone.
        lost: of these, in no journal: sent within the last instants before a kill and not resent.
        duplicates: rows of `trades` beyond the first of a key.
        rows: rows compared, by table.
    """

    kills: int
    unborn: int
    worst_loss_ms: float
    worst_excess_ms: float
    worst_stall_ms: float
    sent: int
    lost: int
    duplicates: int
    rows: dict[str, int]

    def text(self) -> str:
        """Return the figures in a few lines."""
        rows = ", ".join(f"{name} {count:,}" for name, count in self.rows.items())
        return (
            f"kills {self.kills} (before the first record: {self.unborn}); oldest print missing at its kill: "
            f"{self.worst_loss_ms:.1f} ms ({self.worst_excess_ms:.1f} ms but for the machine, which stalled for up to "
            f"{self.worst_stall_ms:.0f} ms); prints sent {self.sent:,}, lost for good {self.lost}; duplicates "
            f"{self.duplicates}\nrows equal to an undisturbed replay: {rows}"
        )


def drill(folder: Path, *, kills: int, seed: int, longest_s: float, activity: float) -> KillReport:
    """Kill a recorder again and again; check the laws, and return the figures.

    Args:
        folder: an empty one; takes two homes.
        kills: how often.
        seed: draws the moments.
        longest_s: a recorder lives from zero up to this long.
        activity: multiplies the simulated market's rates.
    """
    settings, draw = fresh(folder / "home"), random.Random(seed)
    with venue_process(folder, activity=activity) as venue, Stalls() as stalls:
        lives = [
            _kill_once(settings, venue, stalls, number, draw.uniform(0.0, longest_s))
            for number in range(kills)
        ]
        last = start(settings.home, SETTINGS | venue.addresses, name="last")
        _await_recording(settings, "last", last)
        _await_recovered(settings, last)
        time.sleep(_LAST_S)
        last.terminate()
        last.join(HANG_S)
        assert last.exitcode == 0, f"the last recorder ended with {last.exitcode}"
        sent = venue.sent()
    return _check(settings, folder / "undisturbed", lives, sent)


def _kill_once(settings: Settings, venue: VenueProcess, stalls: Stalls, number: int, after_s: float) -> Kill:
    """Kill a recorder some time after it began to record; every fourth after it began to start."""
    name, started_ns = f"life-{number:04d}", time.time_ns()
    process = start(settings.home, SETTINGS | venue.addresses, name=name)
    if number % _STARTS != 0:
        _await_recording(settings, name, process)
    process.join(after_s)
    assert process.is_alive(), f"{name} ended with {process.exitcode} before it was killed"
    killed_ns = time.time_ns()
    process.kill()
    process.join()
    return Kill(name, started_ns, killed_ns, stalls.longest_ns(killed_ns - NS, killed_ns))


def _await_recording(settings: Settings, name: str, process: ForkServerProcess) -> None:
    """Wait until a recording has its first frames on disk."""
    while sum(path.stat().st_size for path in segments(settings.journal_dir / name)) < _SOME_BYTES:
        process.join(_LOOK_S)
        assert process.is_alive(), f"{name} ended with {process.exitcode} before it began"


def _await_recovered(settings: Settings, process: ForkServerProcess) -> None:
    """Wait until the tables have been given all earlier recordings: who is told to end before leaves that to others."""
    earlier = [folder for folder in recordings(settings) if folder.name != "last" and segments(folder)]
    while not all((folder / SEALED).exists() for folder in earlier):
        process.join(_LOOK_S)
        assert process.is_alive(), f"the last recorder ended with {process.exitcode} before it had recovered"


def _check(settings: Settings, other: Path, lives: list[Kill], sent: list[tuple[int, Key]]) -> KillReport:
    held = {folder.name: journalled_prints(folder) for folder in recordings(settings)}
    worst_ns, excess_ns, at = 0, 0, 0
    for life in lives:
        journal = held.get(life.name, set())
        while at < len(sent) and sent[at][0] < life.started_ns + _FORK_NS:
            at += 1
        while at < len(sent) and sent[at][0] <= life.killed_ns:
            at_ns, key = sent[at]
            if key not in journal:
                age_ns = life.killed_ns - at_ns
                worst_ns = max(worst_ns, age_ns)
                excess_ns = max(excess_ns, age_ns - _WAKES * life.stalled_ns)
            at += 1
    stored = stored_prints(settings)
    everywhere = set().union(*held.values())
    assert set(stored) == everywhere, "the tables hold what the journals hold"
    rows = assert_equal(read_tables(settings), read_tables(replay_all(settings, other)))
    assert_bars_hold_trades(settings)
    distinct = {key for _, key in sent}
    assert everywhere <= distinct, "nothing was made up"
    return KillReport(
        kills=len(lives),
        unborn=sum(life.name not in held for life in lives),
        worst_loss_ms=worst_ns / MS_NS,
        worst_excess_ms=excess_ns / MS_NS,
        worst_stall_ms=max(life.stalled_ns for life in lives) / MS_NS,
        sent=len(distinct),
        lost=len(distinct - everywhere),
        duplicates=len(stored) - len(set(stored)),
        rows=rows,
    )
