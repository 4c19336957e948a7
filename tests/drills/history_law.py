"""Random interleavings of what writes bars, and the law that nothing else changes what was known.

Two coins print steadily in a made market; recordings, captures, candles, archive objects and REST answers are excerpts
of it. A clock moves on from operation to operation. After each operation, what was known at earlier instants may have
changed only through recorded rows, and through history that is stamped with its close plus the lag because no recording
listed its instrument; and no bar that was complete live has another origin.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from ingest.backfill.archive.object_cache import ObjectCache
from ingest.backfill.archive.trades import ArchiveTradeSource
from ingest.backfill.candle_files import import_candles
from ingest.backfill.certify import certify
from ingest.backfill.rest.runner import RestRequest, backfill_over_rest
from ingest.backfill.runner import BackfillResult, run_backfill
from ingest.backfill.source import BackfillRequest, BackfillStep
from ingest.journal.recording import SEALED
from ingest.journal.records import Record, RecordBatch
from ingest.journal.writer import JournalWriter
from ingest.pipeline.processor import Pipeline
from ingest.pipeline.registration import header_instruments
from ingest.pipeline.warm_start import resume, resume_listings
from ingest.replay.recovery import recover
from ingest.replay.replay import replay
from ingest.simulator.server.history_endpoint import RecordedCandle, RecordedHistory
from storage.clock import DAY_NS, MS_NS, NS, ManualTime
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.follower_law import compare_follower
from tests.drills.homes import fresh
from tests.ingest.backfill.archive.archives import both, in_order, packed, pulse
from tests.ingest.backfill.histories import serving, settings_for
from tests.ingest.pipeline.scripts import LAG_S, START_NS, Script
from tests.ingest.recorder.faults.test_archive_fills import a_block

COINS: Final = ("BTC", "ETH")
_EVERY_S: Final = 10
_MINUTE_NS: Final = 60 * NS
_HOUR_NS: Final = 3_600 * NS
# Of a recording; its bars are those of the minutes in between.
_SPAN_S: Final = 200
# The venue serves no older candles.
_REACH_NS: Final = 80 * _HOUR_NS

_BARS: Final = """
    WITH known AS (SELECT * EXCLUDE (revision, ts_ingested_ns, batch, home) FROM bars_latest WHERE width = '1m')
    SELECT instrument, epoch_us(ts_open) AS open_us, hash(known) AS content,
           origin = 'live' AND status IN ('printed', 'quiet', 'halted', 'unlisted') AS is_complete_live
    FROM known
"""
_NEW: Final = """
    SELECT instrument, epoch_us(ts_open) AS open_us, epoch_us(ts_close) * 1000 AS close_ns, ts_knowable_ns, batch
    FROM bars WHERE width = '1m' AND list_contains(?, batch)
"""
_RECORDED: Final = """
    SELECT * EXCLUDE (revision, ts_ingested_ns, batch, home) FROM bars
    WHERE width = '1m' AND origin NOT IN ('candle', 'archive') AND NOT starts_with(batch, 'certify:') ORDER BY ALL
"""
Key = tuple[str, int]
"""(instrument, open in microseconds)"""
Answer = dict[Key, tuple[int, bool]]
"""What was known at an instant: a hash of each bar's values, and whether it was complete live."""


class _Killed(BaseException):
    """The process would end here."""


@dataclass(slots=True)
class Interleaving:
    """One home, in which operations are drawn at random.

    Args:
        settings: of an empty home.
        folder: takes the files to import.
        seed: draws operations and times.
    """

    settings: Settings
    folder: Path
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    """Operations by name."""
    changed: int = 0
    """Answers about the past that changed, all of them as the law allows."""
    arrived: int = 0
    """Rows of history that became known when they arrived."""
    followed: int = 0
    """Bars of which a follower computed what a later build computes."""
    _draw: random.Random = field(init=False)
    _clock: ManualTime = field(init=False)
    _listed: list[tuple[int, int, tuple[str, ...]]] = field(default_factory=list)
    _answers: dict[int, Answer] = field(default_factory=dict)
    _free_ns: int = START_NS
    _lake: Lake = field(init=False)

    def run(self, operations: int, *, replays: bool = True, follows: bool = False) -> None:
        """Draw operations one after another, and check the law after each.

        Args:
            operations: how many; the first ones are one of each kind.
            replays: check that another home makes the same recorded rows of the journal.
            follows: check that a follower of each recording computed the features that a later build computes.
        """
        self._draw, self._clock = random.Random(self.seed), ManualTime(START_NS + 30 * _HOUR_NS)
        self._free_ns = self._clock.now_ns()
        names = list(_OPERATIONS)
        with Lake.open(self.settings, clock=self._clock) as self._lake:
            for number in range(operations):
                # Each operation once, then at random.
                name = names[number] if number < len(names) else self._draw.choice(names)
                self._clock.advance_to(self._clock.now_ns() + self._draw.randint(1, 10 * 3_600) * NS)
                if name in _COMMANDS:
                    self._step("recover")
                self._step(name)
                self.done[name] += 1
            recover(self.settings, self._lake)
            live = self._lake.query(_RECORDED)
            spans = [(start, last) for start, last, _ in self._listed if follows]
            self.followed = compare_follower(self._lake, spans, grace_ns=self.settings.bars.grace_ns)
        if not replays:
            return
        found, expected = ({repr(row) for row in rows} for rows in (self._replayed(), live.to_pylist()))
        assert found == expected, (
            f"replayed: {sorted(found - expected)[:2]}, live: {sorted(expected - found)[:2]}"
        )

    def _step(self, name: str) -> None:
        lake, now_ns = self._lake, self._clock.now_ns()
        # Nothing was written since the operation before, so its answers about its own instant still hold.
        before = self._answers | {now_ns: self._known(now_ns)}
        known = set(lake.query("SELECT batch_id FROM batches")["batch_id"].to_pylist())
        is_history = _OPERATIONS[name](self)
        batches = lake.query("SELECT batch_id FROM batches")["batch_id"].to_pylist()
        new = lake.query(_NEW, [[batch for batch in batches if batch not in known]]).to_pylist()
        self._check_stamps(name, new, now_ns)
        after = {at_ns: self._known(at_ns) for at_ns in before}
        for at_ns, bars in after.items():
            differs = {
                key for key in bars.keys() | before[at_ns].keys() if bars.get(key) != before[at_ns].get(key)
            }
            allowed = {_key(row) for row in new if row["ts_knowable_ns"] <= at_ns}
            assert differs <= allowed, (
                f"{name} changed what was known at {at_ns}: {sorted(differs - allowed)[:3]}"
            )
            self.changed += len(differs)
        if is_history:
            replaced = _complete_live(before[now_ns]) - _complete_live(after[now_ns])
            assert not replaced, f"{name} replaced {sorted(replaced)[:3]}"
        self._answers = {now_ns: after[now_ns]}

    def _check_stamps(self, name: str, new: list[dict[str, Any]], now_ns: int) -> None:
        """History is known a lag after its close where nothing listed its instrument, and else from now on."""
        lag_ns = self.settings.bars.history_lag_ms * MS_NS
        for row in new:
            if row["batch"].startswith(("live:", "replay:")):
                continue
            is_listed = any(
                row["instrument"] in instruments
                and start < row["close_ns"]
                and last >= row["close_ns"] - DAY_NS
                for start, last, instruments in self._listed
            )
            if is_listed:
                assert row["ts_knowable_ns"] >= now_ns, f"{name} wrote {row}"
            else:
                assert row["ts_knowable_ns"] == row["close_ns"] + lag_ns, f"{name} wrote {row}"
            self.arrived += is_listed

    def _known(self, at_ns: int) -> Answer:
        rows = self._lake.query(_BARS, known_at_ns=at_ns).to_pylist()
        return {_key(row): (row["content"], row["is_complete_live"]) for row in rows}

    def _replayed(self) -> list[dict[str, Any]]:
        """Return the recorded rows of another home that replays the journal in the order of its beginnings."""
        other = fresh(self.settings.home.with_name(f"{self.settings.home.name}-replayed"))
        folders = [path for path in self.settings.journal_dir.iterdir() if (path / "order").exists()]
        with Lake.open(other, clock=self._clock) as lake:
            for folder in sorted(folders, key=lambda folder: (folder / "order").read_text()):
                replay(folder, other, lake)
            return lake.query(_RECORDED).to_pylist()

    # Operations; each returns whether it writes history only.

    def record(self) -> bool:
        """Record to the end."""
        return self._record(is_killed=False)

    def killed_recording(self) -> bool:
        """Record, and be killed before everything is committed."""
        return self._record(is_killed=True)

    def _record(self, *, is_killed: bool) -> bool:
        recover(self.settings, self._lake)  # as a recorder does at its start
        name = f"live-{self._clock.now_ns()}"
        records = _records(self._clock.now_ns(), _SPAN_S, is_ended=not is_killed)
        folder = self.settings.journal_dir / name
        self._write(folder, records)
        pipeline = Pipeline(name, self.settings, is_capture=False, home=self._lake.home)
        resume_listings(pipeline, self._lake, records[0].recv_ns)
        about = json.loads(records[0].body)
        resume(pipeline, self._lake, header_instruments(about, pipeline.state.registry), records[0].recv_ns)
        for first in range(0, len(records), len(records) // 3 + 1):
            batch = RecordBatch.of(records[first : first + len(records) // 3 + 1])
            pipeline.process_batch(batch)
            self._clock.advance_to(int(batch.recv_ns[-1]))
            last = first + len(batch) - 1
            if is_killed and last == len(records) - 1:
                break
            inputs = {"recording": name, "frames": [first, last]}
            self._lake.commit(pipeline.drain(), batch_id=f"live:{name}:{first}-{last}", inputs=inputs)
        if not is_killed:
            (folder / SEALED).touch()
        return False

    def _write(self, folder: Path, records: list[Record]) -> None:
        with JournalWriter(folder) as journal:
            for record in records:
                journal.append(record.recv_ns, record.kind, record.connection, record.body)
        self._note(folder, records[0].recv_ns, records[-1].recv_ns)

    def _note(self, folder: Path, start_ns: int, last_ns: int) -> None:
        # A replay takes the recordings as the lake learnt of them.
        (folder / "order").write_text(f"{len(self._listed):04d}")
        self._listed.append((start_ns, last_ns, tuple(f"hyperliquid|perp|{coin}" for coin in COINS)))
        self._free_ns = max(self._free_ns, last_ns)

    def recover(self) -> bool:
        """Recover what was killed."""
        recover(self.settings, self._lake)
        return False

    def replay(self) -> bool:
        """Replay a recording once more."""
        folders = sorted(path for path in self.settings.journal_dir.iterdir() if (path / "order").exists())
        if folders:
            replay(self._draw.choice(folders), self.settings, self._lake)
        return False

    def capture(self) -> bool:
        """Replay a capture of a time that nothing else has recorded."""
        start_ns = self._free_ns + 3_600 * NS
        if start_ns + (_SPAN_S + 60) * NS > self._clock.now_ns():
            return False
        frames = [
            r
            for r in _records(start_ns, _SPAN_S, is_ended=False)
            if r.connection == 0 and b"channel" in r.body
        ]
        file = self.folder / f"{start_ns}.ndjson"
        file.write_text("".join(f"{frame.recv_ns} {frame.body.decode()}\n" for frame in frames))
        done = replay(file, self.settings, self._lake)
        self._note(self.settings.journal_dir / done.recording, frames[0].recv_ns, frames[-1].recv_ns)
        return False

    def imported(self) -> bool:
        """Import candles of some hours of a coin."""
        import_candles(self._candle_file(), self.settings, self._lake, width="1m")
        return True

    def imported_twice(self) -> bool:
        """Import candles again, from a file of another name."""
        file = self._candle_file()
        import_candles(file, self.settings, self._lake, width="1m")
        rows = self._lake.query("SELECT * FROM bars").num_rows
        self._clock.advance_to(self._clock.now_ns() + _HOUR_NS)
        import_candles(
            file.rename(file.with_name(f"again-{file.name}")), self.settings, self._lake, width="1m"
        )
        assert self._lake.query("SELECT * FROM bars").num_rows == rows, (
            "a file that says the same adds no revision"
        )
        return True

    def _candle_file(self) -> Path:
        coin = self._draw.choice(COINS)
        start_ns = self._some_hour()
        opens = range(start_ns, start_ns + 2 * _HOUR_NS, _MINUTE_NS)
        candles = [_candle(coin, at_ns) for at_ns in opens]
        columns: dict[str, Any] = {"coin": [coin] * len(candles), "t": [item.open_ms for item in candles]}
        for name in ("open", "high", "low", "close", "volume", "trades"):
            columns[name] = [getattr(item, name) for item in candles]
        file = self.folder / f"{coin}-{start_ns}-{self._clock.now_ns()}.parquet"
        pq.write_table(pa.table(columns), file)
        return file

    def _some_hour(self) -> int:
        """Return a whole hour such that the next two are over."""
        hours = (self._clock.now_ns() - START_NS) // _HOUR_NS - 3
        newest = self._listed[-1][0] if self._listed else START_NS
        near = max((newest - START_NS) // _HOUR_NS, 0)
        # Half of them near a recording.
        hour = self._draw.choice([min(near, hours), self._draw.randint(0, hours)])
        return START_NS + hour * _HOUR_NS

    def archived(self) -> bool:
        """Backfill an hour from an archive."""
        hour_ns = self._some_hour()
        hour_ms = hour_ns // MS_NS
        fills = [
            a_block(*both(tid, tid * 1_000, coin=coin, price=_price(tid)))
            for tid in range(hour_ms // 1_000 + 5, hour_ms // 1_000 + 3_600, _EVERY_S)
            for coin in COINS
        ]
        body = packed(in_order([*fills, *pulse(hour_ms - 60_000, hour_ms + 3_660_000)]))
        source = ArchiveTradeSource(
            ObjectCache(_Shelf(body), self.folder / "archive"), self.settings, self._clock
        )
        asyncio.run(
            run_backfill(
                [source], BackfillRequest(hour_ns, hour_ns + _HOUR_NS, COINS), self._lake, self.settings
            )
        )
        return True

    def backfilled(self) -> bool:
        """Backfill candles over REST."""
        asyncio.run(self._backfill(is_killed=False))
        return True

    def killed_backfill(self) -> bool:
        """Backfill candles over REST, and be killed after a page."""
        try:
            asyncio.run(self._backfill(is_killed=True))
        except _Killed:
            return True
        return True

    async def _backfill(self, *, is_killed: bool) -> None:
        now_ns = self._clock.now_ns()
        start_ns = max(self._some_hour(), START_NS + (now_ns - START_NS) // _HOUR_NS * _HOUR_NS - _REACH_NS)
        to_ns = start_ns + 2 * _HOUR_NS
        candles = {
            (coin, "1m"): [_candle(coin, at_ns) for at_ns in range(start_ns, to_ns + _MINUTE_NS, _MINUTE_NS)]
            for coin in COINS
        }

        def kill(_: BackfillStep, done: BackfillResult) -> None:
            if is_killed and done.taken == 1:
                raise _Killed

        async with serving(RecordedHistory(now_ns, candles)) as venue:
            settings = settings_for(self.settings, venue)
            wish = BackfillRequest(start_ns, to_ns, COINS)
            wanted = RestRequest("candles")
            await backfill_over_rest(wanted, wish, self._lake, settings, clock=self._clock, on_step=kill)

    def certified(self) -> bool:
        """Certify by command."""
        certify(self._lake, self.settings, clock=self._clock)
        return True


_OPERATIONS: Final = {
    operation.__name__: operation
    for operation in (
        Interleaving.imported,
        Interleaving.record,
        Interleaving.archived,
        Interleaving.killed_recording,
        Interleaving.imported_twice,
        Interleaving.recover,
        Interleaving.certified,
        Interleaving.backfilled,
        Interleaving.capture,
        Interleaving.killed_backfill,
        Interleaving.replay,
    )
}


class _Shelf:
    """An archive whose every object is the same."""

    where = "made://archive"

    def __init__(self, body: bytes) -> None:
        self._body = body

    def sizes(self, prefix: str) -> dict[str, int] | None:
        return None

    def download(self, key: str, path: Path) -> bool:
        if "by_block" in key:
            path.write_bytes(self._body)
        return "by_block" in key


def _price(tid: int) -> str:
    return str(100.0 + tid // _EVERY_S % 7)


def _candle(coin: str, open_ns: int) -> RecordedCandle:
    """Return the candle of the prints that a minute has."""
    del coin  # both print alike
    seconds = range(open_ns // NS + 5, open_ns // NS + 60, _EVERY_S)
    prices = [float(_price(tid)) for tid in seconds]
    return RecordedCandle(
        open_ns // MS_NS, prices[0], max(prices), min(prices), prices[-1], 0.5 * len(prices), len(prices)
    )


def _records(start_ns: int, span_s: int, *, is_ended: bool) -> list[Record]:
    """Return the records of a recording that begins at an instant."""
    first_s = (start_ns - START_NS) / NS
    script = Script(COINS)
    script.records[0] = dataclasses.replace(script.records[0], recv_ns=start_ns)
    script.open(first_s + LAG_S, 0, *COINS)
    start = start_ns // NS
    for second in range(start + 1, start + span_s):
        at_s = (second * NS - START_NS) / NS
        for coin in COINS:
            script.bbo(at_s, coin=coin)
            if second % _EVERY_S == 5:
                script.print(at_s + LAG_S, event_s=at_s, coin=coin, tid=second, px=_price(second), sz="0.5")
    if is_ended:
        script.stop(first_s + span_s)
    return script.sorted()


def _complete_live(bars: Answer) -> set[Key]:
    return {key for key, (_, is_complete_live) in bars.items() if is_complete_live}


def _key(row: dict[str, Any]) -> Key:
    return row["instrument"], row["open_us"]


_COMMANDS: Final = frozenset(
    {"imported", "archived", "imported_twice", "certified", "backfilled", "killed_backfill"}
)
"""Operations whose commands recover unsealed recordings first: their prints would come from an archive otherwise, which
the next recording does not take for its own."""
