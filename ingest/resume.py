"""What must a new recording know of the one before: keys seen, bars published, spans watched?

All of it is read from the tables, which are themselves a function of the earlier journals. So a restart goes on
where the last recording ended: prints that the venue resends are told from new ones, the bar that was
cut in two is made of both halves, and the time in between is a gap with the cause "recorder down". Only rows
that were known when the recording began are read, so that a replay of it, years later, resumes from the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from ingest.bars import BLIND_NS, REOPEN_NS, SIDE_CODES, BarClock, ContextNote, Quote
from ingest.coverage import RECORDER_DOWN
from ingest.dedupe import KEPT
from ingest.pipeline import Pipeline
from ingest.prints import Row
from ingest.spans import Gap, Span
from ingest.state import State
from storage.clock import DAY_NS, MS_NS, US_NS, floor_ns
from storage.lake import Lake

_BARS: Final = """
    WITH last_revision AS (
        SELECT * FROM bars WHERE list_contains(?, instrument) AND width = ? AND ts_knowable_ns <= ?
        QUALIFY row_number() OVER (PARTITION BY instrument, ts_open ORDER BY revision DESC) = 1
    ),
    newest AS (SELECT instrument, max(ts_open) AS ts_newest FROM last_revision GROUP BY instrument)
    SELECT bars.* EXCLUDE (batch, ts_ingested_ns) REPLACE (epoch_us(ts_open) AS ts_open, epoch_us(ts_close) AS ts_close)
    FROM last_revision AS bars JOIN newest USING (instrument)
    WHERE ts_open > ts_newest - to_microseconds(?)
       OR (status = 'blind' AND ts_open > ts_newest - to_microseconds(?))
    ORDER BY instrument, ts_open
"""

_PRINTS: Final = """
    WITH numbered AS (
        SELECT *, row_number() OVER (PARTITION BY instrument ORDER BY rowid DESC) AS age
        FROM trades WHERE list_contains(?, instrument) AND ts_knowable_ns <= ?
    )
    SELECT instrument, epoch_us(ts_event) AS ts_us, tid, price, size, side FROM numbered
    WHERE age <= ? OR epoch_us(ts_event) >= ?
    ORDER BY instrument, age DESC
"""

_COVERAGE: Final = """
    WITH last_revision AS (
        SELECT * FROM coverage WHERE list_contains(?, instrument) AND ts_knowable_ns <= ?
        QUALIFY row_number() OVER (
            PARTITION BY journal, connection, channel, instrument, ts_from, kind ORDER BY revision DESC) = 1
    ),
    newest AS (SELECT instrument, channel, max(ts_to) AS ts_newest FROM last_revision GROUP BY ALL)
    SELECT instrument, channel, epoch_us(ts_from) AS from_us, epoch_us(ts_to) AS to_us, kind, cause, bridged
    FROM last_revision JOIN newest USING (instrument, channel)
    WHERE ts_to > ts_newest - to_microseconds(?)
    ORDER BY instrument, ts_from
"""

_QUOTES: Final = """
    SELECT instrument, epoch_us(ts_event) AS ts_us, bid, ask, bid_size, ask_size FROM quotes
    WHERE list_contains(?, instrument) AND ts_knowable_ns <= ? AND ts_knowable_ns > ?
    QUALIFY row_number() OVER (PARTITION BY instrument ORDER BY ts_event DESC, ts_recv_ns DESC, frame DESC) = 1
"""

_CONTEXTS: Final = """
    SELECT instrument, ts_recv_ns, funding_rate, open_interest, oracle, mark FROM contexts
    WHERE list_contains(?, instrument) AND ts_knowable_ns <= ? AND ts_knowable_ns > ?
    QUALIFY row_number() OVER (PARTITION BY instrument ORDER BY ts_recv_ns DESC, frame DESC) = 1
"""

_LISTINGS: Final = """
    SELECT * EXCLUDE (batch, ts_ingested_ns) FROM instruments WHERE ts_knowable_ns < ?
    QUALIFY row_number() OVER (PARTITION BY venue, kind, symbol ORDER BY generation DESC, ts_knowable_ns DESC) = 1
    ORDER BY ts_knowable_ns, instrument
"""


def listings_rows(lake: Lake, before_ns: int) -> list[dict[str, Any]]:
    """Return the newest row of `instruments` of each name that was known before an instant."""
    return lake.query(_LISTINGS, [before_ns]).to_pylist()


def resume_listings(pipeline: Pipeline, lake: Lake, started_ns: int) -> None:
    """Give a new pipeline what the venues listed by then, so that it knows the ids of recycled names."""
    pipeline.state.ids.clear()
    pipeline.state.registry.restore(listings_rows(lake, started_ns))


def resume(pipeline: Pipeline, lake: Lake, instruments: Sequence[str], started_ns: int) -> None:
    """Give a new pipeline what earlier recordings left in the lake.

    Args:
        pipeline: nothing processed yet.
        lake: with every earlier recording's rows.
        instruments: which to take over.
        started_ns: when the new recording began; rows that were not known by then are left alone.
    """
    state, wanted = pipeline.state, list(instruments)
    spans = _by_instrument(lake, _COVERAGE, [wanted, started_ns, BLIND_NS // US_NS])
    for instrument, rows in spans.items():
        for row in rows:
            _restore_span(state, instrument, row)
    recorded = [instrument for instrument in wanted if instrument in spans]
    if not recorded:
        return
    bars: dict[str, dict[str, list[dict[str, Any]]]] = {}
    from_us = started_ns // US_NS
    for clock in state.clocks:
        reach = [max(REOPEN_NS, 10 * clock.width_ns) // US_NS, BLIND_NS // US_NS]
        bars[clock.width] = _by_instrument(lake, _BARS, [recorded, clock.width, started_ns, *reach])
        for instrument in recorded:
            held = bars[clock.width].get(instrument)
            first_us = held[0]["ts_open"] if held else min(row["from_us"] for row in spans[instrument])
            from_us = min(from_us, floor_ns(first_us * US_NS, clock.width_ns) // US_NS)
    found = _by_instrument(lake, _PRINTS, [recorded, started_ns, KEPT, from_us])
    for instrument in recorded:
        prints = _restore_prints(state, instrument, found.get(instrument, []), started_ns)
        watched_ns = min(row["from_us"] for row in spans[instrument]) * US_NS
        for clock in state.clocks:
            _restore_bars(clock, instrument, bars[clock.width].get(instrument, []), prints, watched_ns)
    pipeline.repairs.note_bars(
        bar for by in bars.values() for rows in by.values() for bar in rows
        if started_ns - bar["ts_close"] * US_NS < BLIND_NS
    )  # fmt: skip
    _restore_market(state, lake, recorded, started_ns)


def _by_instrument(lake: Lake, query: str, params: list[object]) -> dict[str, list[dict[str, Any]]]:
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in lake.query(query, params).to_pylist():
        rows[row["instrument"]].append(row)
    return dict(rows)


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


def _restore_prints(state: State, instrument: str, found: list[dict[str, Any]], started_ns: int) -> list[Row]:
    rows: list[Row] = []
    for order, item in enumerate(found):
        content = (item["price"], item["size"], SIDE_CODES[item["side"]])
        stamp = item["ts_us"] * US_NS
        state.seen.judge(instrument, stamp // MS_NS, item["tid"], content, started_ns)
        state.newest_print_ns[instrument] = max(stamp, state.newest_print_ns.get(instrument, 0))
        # Rows of the new recording are numbered from zero up; these came before all of them.
        rows.append((stamp, order - (1 << 40), item["price"], item["size"], SIDE_CODES[item["side"]]))
    return rows


def _restore_span(state: State, instrument: str, span: dict[str, Any]) -> None:
    key = (span["channel"], instrument)
    from_ns, to_ns = span["from_us"] * US_NS, span["to_us"] * US_NS
    if span["kind"] == "watched":
        state.ledger.restore(key, Span(-1, from_ns, to_ns), None, RECORDER_DOWN)
    else:
        gap = Gap(-1, from_ns, to_ns, span["cause"], span["bridged"])
        state.ledger.restore(key, None, gap, RECORDER_DOWN)


def _restore_market(state: State, lake: Lake, instruments: list[str], started_ns: int) -> None:
    """Take over the last quote and context of the last day, which still hold with their age beside them."""
    params: list[object] = [instruments, started_ns, started_ns - DAY_NS]
    for row in lake.query(_QUOTES, params).to_pylist():
        quote = Quote(row["ts_us"] * US_NS, row["bid"], row["ask"], row["bid_size"], row["ask_size"])
        state.restore_quote(row["instrument"], quote)
    for row in lake.query(_CONTEXTS, params).to_pylist():
        note = ContextNote(
            row["ts_recv_ns"], row["funding_rate"], row["open_interest"], row["oracle"], row["mark"]
        )
        for clock in state.clocks:
            if clock.has(row["instrument"]):
                clock.add_context(row["instrument"], note)
