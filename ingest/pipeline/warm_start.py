"""Warm start of a recording from the tables: prints seen, bars published, spans watched.

The tables are themselves a function of the earlier journals. So a restart continues where the last recording ended:
prints that the venue resends are distinguished from new ones, a bar that was cut in two is made of both halves, and the
time in between is a gap with the cause "recorder down". Only rows that were known when the recording began are read,
so that a replay of it, years later, starts from the same rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from ingest.bars.bar_columns import ContextNote, Quote
from ingest.bars.bar_status import is_certifiable
from ingest.bars.builder import BLIND_NS, SIDE_CODES, SILENT_NS, BarClock
from ingest.bars.trade_buffer import Row
from ingest.coverage.causes import RECORDER_DOWN, SILENT_STREAM
from ingest.coverage.intervals import Gap, WatchedSpan
from ingest.coverage.refusals import PRINTS_REFUSED
from ingest.coverage.silence import REVOCABLE
from ingest.instruments.stored_listings import newest_listings
from ingest.pipeline.dedupe import KEPT
from ingest.pipeline.processor import Pipeline
from ingest.pipeline.rhythm_restart import restore_rhythms, resume_doubts
from ingest.pipeline.state import RecordingState
from storage.clock import DAY_NS, MS_NS, NS, US_NS, floor_ns
from storage.lake.lake import Lake
from storage.lake.point_in_time import IS_RECORDED

# Rows of history are left out: they are no state of a recorder, and a replay elsewhere may lack them.
# An archive's coverage has the address of an object in place of a recording's name.
_BY_RECORDING: Final = "NOT contains(journal, '/')"

# The tables hold a year and more: each query first finds, by streaming aggregates, the rows that matter.
_BARS: Final = f"""
    WITH newest AS (
        SELECT instrument, max(ts_open) AS ts_newest FROM bars
        WHERE list_contains(?, instrument) AND width = ? AND ts_knowable_ns <= ? AND {IS_RECORDED} GROUP BY instrument
    ),
    near AS (
        SELECT bars.*, ts_newest FROM bars JOIN newest USING (instrument)
        WHERE width = ? AND ts_knowable_ns <= ? AND ts_open > ts_newest - to_microseconds(?) AND {IS_RECORDED}
        QUALIFY row_number() OVER (PARTITION BY instrument, ts_open ORDER BY revision DESC) = 1
    ),
    judged AS (
        SELECT *, coalesce(max(ts_open) FILTER (trades > 0) OVER (PARTITION BY instrument), '-infinity') AS ts_printed,
               ts_open > ts_newest - to_microseconds(?) AS is_recent,
               status IN ('blind', 'unknown') AND ts_open > ts_newest - to_microseconds(?) AS is_incomplete
        FROM near
    )
    SELECT * EXCLUDE (batch, ts_ingested_ns, home, ts_newest, ts_printed, is_recent, is_incomplete)
           REPLACE (epoch_us(ts_open) AS ts_open, epoch_us(ts_close) AS ts_close)
    FROM judged
"""

_RECENT: Final = (
    _BARS + "WHERE is_recent OR is_incomplete OR ts_open = ts_printed ORDER BY instrument, ts_open"
)

# The silence since the newest print may yet be doubted.
_SILENT: Final = (
    _BARS
    + "WHERE ts_open > ts_printed AND trades = 0 AND NOT is_recent AND NOT is_incomplete ORDER BY instrument, ts_open"
)

_SETTLED: Final = f"""
    SELECT * EXCLUDE (batch, ts_ingested_ns, home)
           REPLACE (epoch_us(ts_open) AS ts_open, epoch_us(ts_close) AS ts_close)
    FROM bars
    WHERE list_contains(?, instrument) AND width = ? AND ts_knowable_ns <= ? AND ts_open > make_timestamptz(?)
      AND {IS_RECORDED}
    QUALIFY row_number() OVER (PARTITION BY instrument, ts_open ORDER BY revision DESC) = 1
    ORDER BY instrument, ts_open
"""

_PRINTS: Final = f"""
    WITH wanted AS (
        SELECT unnest(?::VARCHAR[]) AS instrument, make_timestamptz(unnest(?::BIGINT[])) AS ts_since,
               make_timestamptz(unnest(?::BIGINT[])) AS ts_from
    ),
    youngest AS (
        SELECT instrument, unnest(max(trades.rowid, ?)) AS id FROM trades JOIN wanted USING (instrument)
        WHERE ts_knowable_ns <= ? AND ts_event >= make_timestamptz(?) AND ts_event >= ts_since AND {IS_RECORDED}
        GROUP BY instrument
    ),
    kept AS (SELECT instrument, min(id) AS first_id FROM youngest GROUP BY instrument)
    SELECT instrument, epoch_us(ts_event) AS ts_us, tid, price, size, side
    FROM trades JOIN wanted USING (instrument) LEFT JOIN kept USING (instrument)
    WHERE ts_knowable_ns <= ? AND ts_event >= make_timestamptz(?) AND {IS_RECORDED}
      AND (ts_event >= ts_from OR (ts_event >= ts_since AND trades.rowid >= first_id))
    ORDER BY instrument, trades.rowid
"""

_COVERAGE: Final = f"""
    WITH newest AS (
        SELECT instrument, channel, max(ts_to) AS ts_newest FROM coverage
        WHERE list_contains(?, instrument) AND ts_knowable_ns <= ? AND {_BY_RECORDING} GROUP BY ALL
    )
    SELECT instrument, channel, epoch_us(ts_from) AS from_us, epoch_us(ts_to) AS to_us, kind, cause, bridged,
           evidence, ts_knowable_ns,
           connection < 0 AND evidence <> 'venue_statement' AND kind = 'gap' AS overrides
    FROM coverage JOIN newest USING (instrument, channel)
    WHERE ts_knowable_ns <= ? AND ts_to > ts_newest - to_microseconds(?) AND {_BY_RECORDING}
    QUALIFY row_number() OVER (
        PARTITION BY journal, connection, channel, instrument, ts_from, kind ORDER BY revision DESC) = 1
    ORDER BY instrument, ts_from
"""

_HALTS: Final = """
    SELECT instrument AS scope, epoch_us(ts_from) AS from_us, epoch_us(ts_to) AS to_us, cause FROM coverage
    WHERE channel = '*' AND kind = 'gap' AND ts_knowable_ns <= ? AND ts_to > make_timestamptz(?)
    ORDER BY ts_from
"""

_QUOTES: Final = """
    SELECT instrument, epoch_us(ts_event) AS ts_us, bid, ask, bid_size, ask_size FROM quotes
    WHERE list_contains(?, instrument) AND ts_knowable_ns <= ? AND ts_knowable_ns > ?
    QUALIFY row_number() OVER (PARTITION BY instrument ORDER BY ts_event DESC, ts_recv_ns DESC, frame DESC) = 1
"""

_CONTEXTS: Final = f"""
    SELECT instrument, ts_recv_ns, funding_rate, open_interest, oracle, mark FROM contexts
    WHERE list_contains(?, instrument) AND ts_knowable_ns <= ? AND ts_knowable_ns > ? AND {IS_RECORDED}
    QUALIFY row_number() OVER (PARTITION BY instrument ORDER BY ts_recv_ns DESC, frame DESC) = 1
"""

# A day of bars of many silent coins is turned into rows piece by piece.
_SILENT_ROWS: Final = 4_096

# A day has many quotes: look back a minute first, and further only for instruments without a quote in it.
_MARKET_NS: Final = (60 * NS, 3_600 * NS, DAY_NS)


def resume_listings(pipeline: Pipeline, lake: Lake, started_ns: int) -> None:
    """Restore what the venues listed by then, so that a new pipeline knows the ids of recycled names."""
    pipeline.state.ids.clear()
    pipeline.state.registry.restore(newest_listings(lake, started_ns))


def resume(pipeline: Pipeline, lake: Lake, instruments: Sequence[str], started_ns: int) -> None:
    """Restore in a new pipeline what earlier recordings left in the lake.

    Args:
        pipeline: has processed nothing yet.
        lake: contains every earlier recording's rows.
        instruments: to restore.
        started_ns: when the new recording began; rows that were not known by then are ignored.
    """
    state, wanted = pipeline.state, list(instruments)
    spans = _by_instrument(lake, _COVERAGE, [wanted, started_ns, started_ns, BLIND_NS // US_NS])
    for instrument, rows in spans.items():
        for row in rows:
            _restore_span(state, instrument, row)
    for halt in lake.query(_HALTS, [started_ns, (started_ns - BLIND_NS) // US_NS]).to_pylist():
        _restore_halt(state, halt, spans)
    recorded = [instrument for instrument in wanted if instrument in spans]
    if not recorded:
        return
    bars: dict[str, dict[str, list[dict[str, Any]]]] = {}
    # Bars are made again from `from_us` on; prints that may be resent into watched spans are restored from `since_us`.
    since_us = {instrument: min(row["from_us"] for row in spans[instrument]) for instrument in recorded}
    from_us = dict.fromkeys(recorded, started_ns // US_NS)
    for clock in state.clocks:
        reach_us, blind_us = clock.reopen_ns // US_NS, BLIND_NS // US_NS
        params = [clock.width, started_ns]
        reach = [max(reach_us, blind_us, SILENT_NS // US_NS), reach_us, blind_us]
        query_params = [recorded, *params, *params, *reach]
        bars[clock.width] = _by_instrument(lake, _RECENT, query_params)
        silent = lake.query(_SILENT, query_params)
        for batch in silent.to_batches(max_chunksize=_SILENT_ROWS):
            for row in batch.to_pylist():
                clock.restore_silent(row["instrument"], row)
        for instrument in recorded:
            restored = bars[clock.width].get(instrument)
            first_us = restored[0]["ts_open"] if restored else since_us[instrument]
            first_us = floor_ns(first_us * US_NS, clock.width_ns) // US_NS
            from_us[instrument] = min(from_us[instrument], first_us)
    found = _by_instrument(lake, _PRINTS, _of_prints(since_us, from_us, started_ns))
    for instrument in recorded:
        prints = _restore_prints(state, instrument, found.get(instrument, []), started_ns)
        for clock in state.clocks:
            restored = bars[clock.width].get(instrument, [])
            _restore_bars(clock, instrument, restored, prints, since_us[instrument] * US_NS)
    pipeline.repairs.note_bars(
        bar for by in bars.values() for rows in by.values() for bar in rows
        if started_ns - bar["ts_close"] * US_NS < BLIND_NS
    )  # fmt: skip
    restore_rhythms(state, lake, recorded, started_ns)
    resume_doubts(state, spans, started_ns)
    _restore_settled(pipeline, lake, recorded, started_ns)
    _restore_market(state, lake, recorded, started_ns)


def _restore_settled(pipeline: Pipeline, lake: Lake, instruments: list[str], started_ns: int) -> None:
    """Restore the bars that only wait for the venue's candle."""
    for clock in pipeline.state.clocks:
        if not clock.keeps_settled:
            continue
        since_us = (started_ns - BLIND_NS - clock.width_ns) // US_NS
        rows = lake.query(_SETTLED, [instruments, clock.width, started_ns, since_us]).to_pylist()
        waiting = [row for row in rows if is_certifiable(row)]
        for row in waiting:
            if clock.row_of(row["instrument"], row["ts_open"] * US_NS) is None:
                clock.restore_settled(row["instrument"], row)
        pipeline.repairs.note_bars(waiting)


def _of_prints(since_us: dict[str, int], from_us: dict[str, int], started_ns: int) -> list[object]:
    """Return the parameters of `_PRINTS`."""
    first_us = min(*since_us.values(), *from_us.values())
    wanted = [list(since_us), list(since_us.values()), list(from_us.values())]
    return [*wanted, KEPT, started_ns, first_us, started_ns, first_us]


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
    # Prints whose bar had not closed when the recorder stopped; before the first watched bar there is none.
    newest_ns = bars[-1]["ts_open"] * US_NS if bars else floor_ns(watched_ns, clock.width_ns) - 1
    for open_ns in sorted(open_ns for open_ns in by_bar if open_ns > newest_ns):
        clock.restore_prints(instrument, open_ns, by_bar[open_ns])


def _restore_prints(
    state: RecordingState, instrument: str, found: list[dict[str, Any]], started_ns: int
) -> list[Row]:
    rows: list[Row] = []
    for order, item in enumerate(found):
        content = (item["price"], item["size"], SIDE_CODES[item["side"]])
        stamp = item["ts_us"] * US_NS
        state.seen.judge(instrument, stamp // MS_NS, item["tid"], content, started_ns)
        state.newest_print_ns[instrument] = max(stamp, state.newest_print_ns.get(instrument, 0))
        # Rows of the new recording are numbered from zero; these came before all of them.
        rows.append((stamp, order - (1 << 40), item["price"], item["size"], SIDE_CODES[item["side"]]))
    return rows


def _restore_span(state: RecordingState, instrument: str, span: dict[str, Any]) -> None:
    key = (span["channel"], instrument)
    from_ns, to_ns = span["from_us"] * US_NS, span["to_us"] * US_NS
    if span["kind"] == "watched":
        state.ledger.restore(key, WatchedSpan(-1, from_ns, to_ns), None, RECORDER_DOWN)
    else:
        # A gap that no connection ended was a stall, which nothing bridges, a dead stream, a doubt or a refused print.
        is_revocable = span["cause"] in (SILENT_STREAM, PRINTS_REFUSED, *REVOCABLE)
        is_final = span["overrides"] and not is_revocable
        gap = Gap(-1, from_ns, to_ns, span["cause"], span["bridged"], span["overrides"], is_final)
        gap.evidence, gap.known_ns = span["evidence"], span["ts_knowable_ns"]
        state.ledger.restore(key, None, gap, RECORDER_DOWN)


def _restore_halt(
    state: RecordingState, halt: dict[str, Any], spans: dict[str, list[dict[str, Any]]]
) -> None:
    """Restore a halt of a whole venue."""
    for instrument in [instrument for instrument in spans if instrument.startswith(halt["scope"])]:
        for channel in sorted({row["channel"] for row in spans[instrument]}):
            gap = Gap(-1, halt["from_us"] * US_NS, halt["to_us"] * US_NS, halt["cause"], False, True, True)
            state.ledger.restore((channel, instrument), None, gap, RECORDER_DOWN)


def _restore_market(state: RecordingState, lake: Lake, instruments: list[str], started_ns: int) -> None:
    """Restore the last quote and context of the last day, which are still valid with their age."""
    for row in _newest(lake, _QUOTES, instruments, started_ns):
        quote = Quote(row["ts_us"] * US_NS, row["bid"], row["ask"], row["bid_size"], row["ask_size"])
        state.restore_quote(row["instrument"], quote)
    for row in _newest(lake, _CONTEXTS, instruments, started_ns):
        note = ContextNote(
            row["ts_recv_ns"], row["funding_rate"], row["open_interest"], row["oracle"], row["mark"]
        )
        for clock in state.clocks:
            if clock.has(row["instrument"]):
                clock.add_context(row["instrument"], note)


def _newest(lake: Lake, query: str, instruments: list[str], started_ns: int) -> list[dict[str, Any]]:
    """Return the newest row of each instrument, looking further back only for those without a recent one."""
    found: dict[str, dict[str, Any]] = {}
    for reach_ns in _MARKET_NS:
        missing = [instrument for instrument in instruments if instrument not in found]
        for row in (
            lake.query(query, [missing, started_ns, started_ns - reach_ns]).to_pylist() if missing else []
        ):
            found[row["instrument"]] = row
    return list(found.values())
