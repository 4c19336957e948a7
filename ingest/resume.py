"""What must a new recording know of the one before: keys seen, bars published, spans watched?

All of it is read from the tables, which are themselves a function of the earlier journals. So a restart goes on
where the last recording ended: prints that the venue resends are told from new ones, the bar that was
cut in two is made of both halves, and the time in between is a gap with the cause "recorder down". Only rows
that were known when the recording began are read, so that a replay of it, years later, resumes from the same.
"""

from __future__ import annotations

from typing import Any, Final

from ingest.bars import REOPEN_NS, SIDE_CODES, BarClock
from ingest.coverage import RECORDER_DOWN, Gap, Span
from ingest.pipeline import Pipeline
from ingest.prints import Row
from storage.clock import MS_NS, US_NS, floor_ns
from storage.lake import Lake

# The venue resends 30 prints a coin; more are remembered, for twin sockets.
_SEEN_PRINTS: Final = 2_000

_BARS: Final = """
    WITH last_revision AS (
        SELECT * FROM bars WHERE instrument = ? AND width = ? AND ts_knowable_ns <= ?
        QUALIFY row_number() OVER (PARTITION BY ts_open ORDER BY revision DESC) = 1
    ),
    recent AS (
        SELECT * FROM last_revision QUALIFY ts_open > max(ts_open) OVER () - to_microseconds(?)
    )
    SELECT * EXCLUDE (batch, ts_ingested_ns) REPLACE (epoch_us(ts_open) AS ts_open, epoch_us(ts_close) AS ts_close)
    FROM recent ORDER BY ts_open
"""

_PRINTS: Final = """
    WITH numbered AS (
        SELECT *, row_number() OVER (ORDER BY rowid DESC) AS age
        FROM trades WHERE instrument = ? AND ts_knowable_ns <= ?
    )
    SELECT epoch_us(ts_event) AS ts_us, tid, price, size, side FROM numbered
    WHERE age <= ? OR epoch_us(ts_event) >= ?
    ORDER BY age DESC
"""

_COVERAGE: Final = """
    WITH last_revision AS (
        SELECT * FROM coverage WHERE instrument = ? AND ts_knowable_ns <= ?
        QUALIFY row_number() OVER (
            PARTITION BY journal, connection, channel, ts_from, kind ORDER BY revision DESC) = 1
    )
    SELECT channel, connection, epoch_us(ts_from) AS from_us, epoch_us(ts_to) AS to_us, kind, cause, bridged
    FROM last_revision
    QUALIFY ts_to > max(ts_to) OVER (PARTITION BY channel) - to_microseconds(?)
    ORDER BY ts_from
"""


def resume(pipeline: Pipeline, lake: Lake, instruments: list[str], started_ns: int) -> None:
    """Give a new pipeline what earlier recordings left in the lake.

    Args:
        pipeline: nothing processed yet.
        lake: with every earlier recording's rows.
        instruments: which to take over.
        started_ns: when the new recording began; rows that were not known by then are left alone.
    """
    for instrument in instruments:
        spans = lake.query(_COVERAGE, [instrument, started_ns, REOPEN_NS // US_NS]).to_pylist()
        for span in spans:
            _restore_span(pipeline, instrument, span)
        if not spans:
            continue  # never recorded before
        watched_us = min(span["from_us"] for span in spans)
        bars: dict[str, list[dict[str, Any]]] = {}
        from_us = started_ns // US_NS
        for clock in pipeline.clocks:
            reach_us = max(REOPEN_NS, 10 * clock.width_ns) // US_NS
            bars[clock.width] = lake.query(_BARS, [instrument, clock.width, started_ns, reach_us]).to_pylist()
            first_us = bars[clock.width][0]["ts_open"] if bars[clock.width] else watched_us
            from_us = min(from_us, floor_ns(first_us * US_NS, clock.width_ns) // US_NS)
        prints = _prints(pipeline, lake, instrument, started_ns, from_us)
        for clock in pipeline.clocks:
            _restore_bars(clock, instrument, bars[clock.width], prints, watched_us * US_NS)


def _restore_bars(
    clock: BarClock, instrument: str, bars: list[dict[str, Any]], prints: list[Row], watched_ns: int
) -> None:
    by_bar: dict[int, list[Row]] = {}
    for row in prints:
        by_bar.setdefault(floor_ns(row[0], clock.width_ns), []).append(row)
    for bar in bars:
        clock.restore(instrument, bar, by_bar.get(bar["ts_open"] * US_NS, []))
    # Printed, but its bar had not closed when the recorder stopped; before the first watched one there is no bar.
    newest_ns = bars[-1]["ts_open"] * US_NS if bars else floor_ns(watched_ns, clock.width_ns) - 1
    for open_ns in sorted(open_ns for open_ns in by_bar if open_ns > newest_ns):
        clock.restore_prints(instrument, open_ns, by_bar[open_ns])


def _prints(pipeline: Pipeline, lake: Lake, instrument: str, started_ns: int, from_us: int) -> list[Row]:
    rows: list[Row] = []
    for order, item in enumerate(
        lake.query(_PRINTS, [instrument, started_ns, _SEEN_PRINTS, from_us]).to_pylist()
    ):
        content = (item["price"], item["size"], SIDE_CODES[item["side"]])
        pipeline.seen.judge(instrument, item["ts_us"] * US_NS // MS_NS, item["tid"], content, started_ns)
        # Rows of the new recording are numbered from zero up; these came before all of them.
        stamp = item["ts_us"] * US_NS
        rows.append((stamp, order - (1 << 40), item["price"], item["size"], SIDE_CODES[item["side"]]))
    return rows


def _restore_span(pipeline: Pipeline, instrument: str, span: dict[str, Any]) -> None:
    key = (span["channel"], instrument)
    from_ns, to_ns = span["from_us"] * US_NS, span["to_us"] * US_NS
    if span["kind"] == "watched":
        pipeline.ledger.restore(key, Span(-1, from_ns, to_ns), None, RECORDER_DOWN)
    else:
        gap = Gap(-1, from_ns, to_ns, span["cause"], span["bridged"])
        pipeline.ledger.restore(key, None, gap, RECORDER_DOWN)
