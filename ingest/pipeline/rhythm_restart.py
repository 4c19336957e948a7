"""Rhythms of streams of prints from the tables, for a recording that continues earlier ones.

The last day of each stream is read in steps of ten seconds: shorter gaps do not matter to a rhythm. A stream with fewer
than 21 prints in that day is read further back. A gap that spans time which was not watched is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from ingest.coverage.intervals import Part
from ingest.coverage.rhythm import HOUR_NS, LEAST_GAPS, LONG_NS
from ingest.coverage.silence import REVOCABLE
from ingest.pipeline.state import RecordingState
from storage.clock import DAY_NS, US_NS
from storage.lake.lake import Lake
from storage.lake.point_in_time import IS_RECORDED

# As in a warm start, rows of history are left out: they are no state of a recorder.
_HOURS: Final = f"""
    WITH steps AS (
        SELECT instrument, epoch_us(ts_event) // ? AS step, count(*) AS prints,
               min(epoch_us(ts_event)) AS first_us, max(epoch_us(ts_event)) AS last_us
        FROM trades
        WHERE list_contains(?, instrument) AND ts_knowable_ns <= ? AND ts_event >= make_timestamptz(?)
          AND {IS_RECORDED}
        GROUP BY ALL
    ),
    gaps AS (
        SELECT *, lag(last_us) OVER (PARTITION BY instrument ORDER BY step) AS before_us FROM steps
    )
    SELECT instrument, first_us // ? AS hour, CAST(sum(prints) - count(*) + count(before_us) AS BIGINT) AS gaps,
           CAST(sum(last_us - coalesce(before_us, first_us)) AS BIGINT) AS total_us,
           list(struct_pack(from_us := before_us, to_us := first_us) ORDER BY first_us)
               FILTER (first_us - before_us > ?) AS long_gaps
    FROM gaps GROUP BY ALL ORDER BY ALL
"""

_NEWEST: Final = f"""
    SELECT instrument, max(epoch_us(ts_event), ?) AS newest_us FROM trades
    WHERE list_contains(?, instrument) AND ts_knowable_ns <= ? AND ts_event >= make_timestamptz(?)
      AND {IS_RECORDED}
    GROUP BY instrument ORDER BY instrument
"""

_HOLES: Final = """
    WITH newest AS (
        SELECT * FROM coverage
        WHERE list_contains(?, instrument) AND ts_knowable_ns <= ? AND ts_to > make_timestamptz(?)
          AND channel = 'trades' AND NOT contains(journal, '/')
        QUALIFY row_number() OVER (
            PARTITION BY journal, connection, channel, instrument, ts_from, kind ORDER BY revision DESC) = 1
    )
    SELECT instrument, epoch_us(ts_from) AS from_us, epoch_us(ts_to) AS to_us FROM newest
    WHERE kind = 'gap' AND NOT bridged ORDER BY ALL
"""

# Most streams have enough prints in a day.
_REACH_NS: Final = (DAY_NS, 10 * DAY_NS, 100 * DAY_NS)

Holes = dict[str, list[Part]]


def restore_rhythms(state: RecordingState, lake: Lake, instruments: Sequence[str], started_ns: int) -> None:
    """Restore the rhythms of instruments from rows that were known when a recording began."""
    missing = sorted(instruments)
    for reach_ns in _REACH_NS:
        if not missing:
            return
        rows_of = [missing, started_ns, (started_ns - reach_ns) // US_NS]
        holes: Holes = defaultdict(list)
        for row in lake.query(_HOLES, rows_of).to_pylist():
            holes[row["instrument"]].append((row["from_us"], row["to_us"]))
        newest = lake.query(_NEWEST, [LEAST_GAPS + 1, *rows_of]).to_pylist()
        is_last = reach_ns == _REACH_NS[-1]
        found = [row for row in newest if is_last or len(row["newest_us"]) > LEAST_GAPS]
        for row in found:
            _restore_newest(state, row["instrument"], sorted(row["newest_us"]), holes, started_ns)
        if reach_ns == DAY_NS:
            step_us, hour_us = LONG_NS // US_NS, HOUR_NS // US_NS
            for row in lake.query(_HOURS, [step_us, *rows_of, hour_us, step_us]).to_pylist():
                _restore_hour(state, row, holes)
        missing = sorted(set(missing) - {row["instrument"] for row in found})


def resume_doubts(state: RecordingState, spans: dict[str, list[dict[str, Any]]], started_ns: int) -> None:
    """Continue doubts about silences that lasted when the last recording ended.

    Args:
        state: of the new recording.
        spans: by instrument, the restored spans and gaps.
        started_ns: when the new recording began.
    """
    for instrument, rows in spans.items():
        trades = [row for row in rows if row["channel"] == "trades"]
        watched_us = max((row["to_us"] for row in trades if row["kind"] == "watched"), default=0)
        printed_ns = state.newest_print_ns.get(instrument, 0)
        for row in trades:
            lasts = row["kind"] == "gap" and row["cause"] in REVOCABLE and not row["bridged"]
            if lasts and row["to_us"] >= watched_us and printed_ns <= row["from_us"] * US_NS:
                state.silence.resume_alarm(instrument, row["cause"], row["to_us"] * US_NS, started_ns)
                break


def _restore_newest(
    state: RecordingState, instrument: str, times_us: list[int], holes: Holes, started_ns: int
) -> None:
    """Restore the last gaps and the newest print; hours that are known are set later."""
    rhythm = state.silence.rhythm
    code = rhythm.code(instrument)
    for from_us, to_us in pairwise(times_us):
        if not _is_in_hole(holes[instrument], from_us, to_us):
            rhythm.add_gap(code, from_us * US_NS, to_us * US_NS)
    rhythm.restore(code, newest_ns=times_us[-1] * US_NS, recv_ns=started_ns)


def _restore_hour(state: RecordingState, row: dict[str, Any], holes: Holes) -> None:
    gaps, total_us, longest_us = row["gaps"], row["total_us"], 0
    for gap in row["long_gaps"] or ():
        length_us = gap["to_us"] - gap["from_us"]
        if _is_in_hole(holes[row["instrument"]], gap["from_us"], gap["to_us"]):
            gaps, total_us = gaps - 1, total_us - length_us
        else:
            longest_us = max(longest_us, length_us)
    rhythm = state.silence.rhythm
    code = rhythm.code(row["instrument"])
    rhythm.restore_hour(code, row["hour"], gaps, total_us * US_NS, longest_us * US_NS)


def _is_in_hole(holes: list[Part], from_us: int, to_us: int) -> bool:
    return any(start < to_us and from_us < to for start, to in holes)
