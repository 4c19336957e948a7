"""Contracts of all tables.

`storage.contracts.contract` defines contracts and the columns that many tables share. The tables that record what was
done to the lake and to models are in `storage.contracts.lake_records`, and the coverage of days is in
`storage.contracts.coverage_days`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from storage.contracts.contract import (
    AVAILABLE,
    BYTES,
    F64,
    F64S,
    FLAG,
    I32,
    I64,
    INSTRUMENT,
    KNOWABLE,
    ORIGIN,
    SOURCE,
    TEXT,
    TS,
    TS_EVENT,
    TS_RECV,
    WIDTH,
    Column,
    Contract,
    amount,
    price,
)
from storage.contracts.coverage_days import COVERAGE_DAYS
from storage.contracts.lake_records import (
    BATCHES,
    GATE_DAYS,
    HOLDOUTS,
    LINEAGES,
    MIGRATIONS,
    PINS,
    RETRIES,
    TRIALS,
    VERSIONS,
)

STATUSES: Final = ("unlisted", "blind", "printed", "halted", "quiet", "unknown")
SESSIONS: Final = ("regular", "extended", "internal", "always")
SIDES: Final = ("buy", "sell", "unknown")
BOOK_MODES: Final = ("slow", "fast", "relay")
EVIDENCE: Final = ("socket", "overlap", "venue_statement", "inferred")

TRADES: Final = Contract(
    "trades",
    "Every print once, by the venue's key. Written by the recorder and by replay.",
    (
        INSTRUMENT,
        TS_EVENT,
        Column("tid", I64, "the venue's trade id; neither ordered nor unique alone", low=0),
        Column("side", TEXT, "the aggressor's side", one_of=SIDES),
        price("price", "quote per base"),
        Column("size", F64, "base units", low=0.0, high=1e15, low_open=True),
        Column("is_twap", FLAG, "the print is a leg of a TWAP order (all-zero transaction hash)"),
        ORIGIN,
        TS_RECV,
        KNOWABLE,
        *SOURCE,
    ),
    key=("instrument", "ts_event", "tid"),
    compared=("side", "price", "size"),  # the same print may arrive again on another socket
)

QUOTES: Final = Contract(
    "quotes",
    "Best bid and ask at each change; an empty side is null. Written by the recorder and by replay.",
    (
        INSTRUMENT,
        TS_EVENT,
        price("bid", "best bid; null: no bid", nullable=True),
        price("ask", "best ask; null: no ask", nullable=True),
        amount("bid_size", "base units at the best bid", nullable=True),
        amount("ask_size", "base units at the best ask", nullable=True),
        ORIGIN,
        TS_RECV,
        KNOWABLE,
        *SOURCE,
    ),
    key=("instrument", "ts_event", "ts_recv_ns", "frame"),
)

BOOKS: Final = Contract(
    "books",
    "Snapshots of the order book, best level first. A GaiaEx book relays a Hyperliquid one (`mode` is `relay`), so "
    "never add the two. Levels are validated by `ingest.pipeline.order_books`. Written by the recorder and by replay.",
    (
        INSTRUMENT,
        TS_EVENT,
        Column("mode", TEXT, "`slow` 20 levels, `fast` 5 levels, or `relay`", one_of=BOOK_MODES),
        Column("bid_px", F64S, "bid prices, strictly descending; empty: no bid"),
        Column("bid_sz", F64S, "base units at each bid"),
        Column("ask_px", F64S, "ask prices, strictly ascending; empty: no ask"),
        Column("ask_sz", F64S, "base units at each ask"),
        Column("is_stale", FLAG, "the venue reports that the book is frozen"),
        ORIGIN,
        TS_RECV,
        KNOWABLE,
        *SOURCE,
    ),
    key=("instrument", "ts_event", "mode", "ts_recv_ns", "frame"),
)

MIDS: Final = Contract(
    "mids",
    "Mid and mark prices of all coins from the venue-wide channels (`allMids`, `fastAssetCtxs`), if those are "
    "recorded. One row per coin whose price changed. Written by the recorder and by replay.",
    (
        INSTRUMENT,
        price("mid", "mid price, or the last trade if a side of the book is empty", nullable=True),
        price("mark", "mark price; null: not in this message", nullable=True),
        ORIGIN,
        TS_RECV,
        KNOWABLE,
        *SOURCE,
    ),
    key=("instrument", "ts_recv_ns", "frame"),
)

CONTEXTS: Final = Contract(
    "contexts",
    "The venue's state of a perp: oracle and mark price, predicted funding, open interest. It has no venue time.",
    (
        INSTRUMENT,
        Column("funding_rate", F64, "predicted rate of the next hour; positive: longs pay", nullable=True),
        amount("open_interest", "base units", nullable=True),
        price("oracle", "oracle price", nullable=True),
        price("mark", "mark price", nullable=True),
        price("mid", "mid price; null: a side of the book is empty", nullable=True),
        Column("premium", F64, "premium of mark over oracle", nullable=True),
        amount("day_notional", "quote units traded in the last 24 h", nullable=True),
        ORIGIN,
        TS_RECV,
        KNOWABLE,
        *SOURCE,
    ),
    key=("instrument", "ts_recv_ns", "frame"),
)

LAGS: Final = Contract(
    "lags",
    "Latency of each channel (receipt time minus venue time), one row per channel and minute of receipt.",
    (
        Column("journal", TEXT, "the recording"),
        Column("channel", TEXT, "the channel, as the venue names it"),
        Column("ts_from", TS, "start of the minute of receipt"),
        Column("frames", I64, "frames with a venue time that were received in that minute", low=1),
        Column(
            "p50_ms", F64, "median of the latencies that are not negative; null: none", nullable=True, low=0.0
        ),
        Column("p90_ms", F64, "their 90th percentile, within 5 %", nullable=True, low=0.0),
        Column("p99_ms", F64, "their 99th percentile, within 5 %", nullable=True, low=0.0),
        Column("max_ms", F64, "the longest latency", nullable=True, low=0.0),
        Column("negative", I64, "frames with a venue time after receipt: a clock is wrong", low=0),
        KNOWABLE,
    ),
    key=("journal", "channel", "ts_from"),
    ordered=(("p50_ms", "p90_ms"), ("p90_ms", "p99_ms"), ("p99_ms", "max_ms"), ("negative", "frames")),
)

CLOCKS: Final = Contract(
    "clocks",
    "Offset of the local clock against the venue, NTP, and the machine's monotonic clock.",
    (
        Column("journal", TEXT, "the recording"),
        Column(
            "source",
            TEXT,
            "`venue`: its exchangeStatus; `ntp`: a time server; `monotonic`: a step of the local clock",
            one_of=("venue", "ntp", "monotonic"),
        ),
        Column("ts", TS, "local time midway between request and response"),
        Column("offset_ms", F64, "local clock minus the other; positive: the local clock is ahead"),
        Column("uncertainty_ms", F64, "maximum error of the offset: half the round trip", low=0.0),
        KNOWABLE,
    ),
    key=("journal", "source", "ts"),
)

COVERAGE: Final = Contract(
    "coverage",
    "Proven coverage: one row per connection, channel and instrument for each watched interval, "
    "and one per gap with its cause. Times are the venue's; receipt columns are ours. An interval grows by revisions. "
    "Written by the recorder and by replay.",
    (
        Column("journal", TEXT, "the recording"),
        Column("connection", I32, "number of the connection in the recording; -1: none was open"),
        Column("channel", TEXT, "the venue's channel"),
        INSTRUMENT,
        Column("ts_from", TS, "start of the interval, inclusive"),
        Column("ts_to", TS, "end of the interval, exclusive"),
        Column("kind", TEXT, "`watched`, or `gap`", one_of=("watched", "gap")),
        Column("cause", TEXT, "why the interval ended, or the cause of the gap"),
        Column("evidence", TEXT, "evidence for it", one_of=EVIDENCE),
        Column("bridged", FLAG, "a gap in which, as resent prints prove, nothing was missed"),
        Column("revision", I32, "revision of the interval; the last one counts", low=0),
        KNOWABLE,
    ),
    key=("journal", "connection", "channel", "instrument", "ts_from", "kind", "revision"),
    ordered=(("ts_from", "ts_to"),),
)

BARS: Final = Contract(
    "bars",
    "One row per instrument and grid step, with or without prints. Revisions are appended; `bars_latest` "
    "shows the last one. Prices are null without prints. Quote and context columns are those received before the "
    "close. Written by the recorder, by replay and by the candle import.",
    (
        INSTRUMENT,
        WIDTH,
        Column("ts_open", TS, "start of the bar, inclusive"),
        Column("ts_close", TS, "end of the bar, exclusive"),
        Column("revision", I32, "0 when published at its close, then incremented for each change", low=0),
        Column("status", TEXT, "status of the bar: see docs/tables.md", one_of=STATUSES),
        Column("cause", TEXT, "cause of a blind bar; otherwise empty"),
        Column("session", TEXT, "trading session", one_of=SESSIONS),
        ORIGIN,
        Column("observed_ms", I64, "watched time within the bar", low=0),
        Column("repaired", FLAG, "missed prints were restored from resent ones, as proven"),
        Column("certified", FLAG, "the venue's own candle agrees"),
        price("open", "first print; null also where its source does not have it", nullable=True),
        price("high", "highest print", nullable=True),
        price("low", "lowest print", nullable=True),
        price("close", "last print; if several have the last time, the last received", nullable=True),
        amount("volume", "base units", nullable=True),
        amount("buy_volume", "base units bought by aggressors; null: side unknown", nullable=True),
        amount("notional", "quote units", nullable=True),
        price("vwap", "notional divided by volume", nullable=True),
        Column("trades", I64, "number of prints; null: not in the source", nullable=True, low=0),
        Column("trades_applicable", FLAG, "false where the venue has no trade feed"),
        price("bid", "best bid at the close", nullable=True),
        price("ask", "best ask at the close", nullable=True),
        amount("bid_size", "base units", nullable=True),
        amount("ask_size", "base units", nullable=True),
        Column("quote_age_ms", I64, "age of the quote at the close", nullable=True),
        Column("funding_rate", F64, "predicted funding at the close", nullable=True),
        amount("open_interest", "base units at the close", nullable=True),
        price("oracle", "oracle price at the close", nullable=True),
        price("mark", "mark price at the close", nullable=True),
        Column("context_age_ms", I64, "age of the context at the close", nullable=True),
        KNOWABLE,
        AVAILABLE,
    ),
    key=("instrument", "width", "ts_open", "revision"),
    revises=True,
    ordered=(("ts_open", "ts_close"), ("low", "high"), ("buy_volume", "volume")),
    has_home=True,
)

CANDLES: Final = Contract(
    "candles",
    "The venue's candles, from files or REST; bars are derived from them with origin `candle`. Written by "
    "`tickwalk import candles` and `tickwalk backfill candles`.",
    (
        INSTRUMENT,
        WIDTH,
        Column("ts_open", TS, "start of the candle, inclusive"),
        replace(
            price("open", "first trade; null: the source gives the previous close instead", nullable=True),
            nan=False,
        ),
        price("high", "highest trade"),
        price("low", "lowest trade"),
        price("close", "last trade"),
        amount("volume", "base units"),
        Column("trades", I64, "number of trades; null: not in the source", nullable=True, low=0),
        Column("source", TEXT, "source file or request"),
        KNOWABLE,
    ),
    key=("instrument", "width", "ts_open", "source"),
    ordered=(("low", "high"), ("low", "open"), ("low", "close"), ("open", "high"), ("close", "high")),
    both_or_none=(("volume", "trades"),),
)

FUNDING: Final = Contract(
    "funding",
    "Paid funding (not the predicted rate of `contexts`); positive: longs pay shorts. Written by "
    "`tickwalk backfill funding` and `tickwalk import funding`.",
    (
        INSTRUMENT,
        Column("ts_event", TS, "time of payment by the venue, including its jitter"),
        Column("funding_rate", F64, "share of notional", low=-1.0, high=1.0),
        Column("premium", F64, "premium from which it was computed", nullable=True),
        Column("interval_h", I32, "hours that it covers: 8 until 2023-06-08, then 1", low=1, high=24),
        Column("source", TEXT, "source file or request"),
        KNOWABLE,
    ),
    key=("instrument", "ts_event"),
)

RECORDINGS: Final = Contract(
    "recordings",
    "Which instruments a recording lists, and when: from its start to its last frame, connected or not. A new row "
    "replaces the earlier ones of its recording. Written by the recorder at its start, at each rotation, when its list "
    "changes and at its end, and by replay.",
    (
        Column("recording", TEXT, "the recording's name"),
        Column("home", TEXT, "id of the home that has it"),
        Column("venue", TEXT, "the venue"),
        Column("instruments", TEXT, "JSON: list of the instruments' ids"),
        Column("ts_started_ns", I64, "its start", low=0),
        Column("ts_last_ns", I64, "receipt of its last frame; null: it runs", nullable=True, low=0),
        KNOWABLE,
    ),
    key=("recording", "home", "ts_knowable_ns"),
)

INSTRUMENTS: Final = Contract(
    "instruments",
    "Instruments listed by a venue at `ts_knowable_ns`. A row is valid until the next row of the same instrument, "
    "as the view `instruments_valid` shows. A recycled name is a new instrument, with the suffix `~2`. "
    "Written by the recorder and by replay, one row per change.",
    (
        INSTRUMENT,
        Column("venue", TEXT, "the venue"),
        Column("kind", TEXT, "perp, spot, ..."),
        Column("symbol", TEXT, "the venue's name"),
        Column("dex", TEXT, "the perp dex that lists it; empty: the first dex, or not a perp"),
        Column(
            "asset_index",
            I64,
            "its index in that dex's universe, or the index of the spot pair; null: none",
            nullable=True,
            low=0,
        ),
        Column("size_decimals", I32, "decimals of a size", nullable=True, low=0, high=18),
        Column("quote", TEXT, "token of payment or margin; null: unknown", nullable=True),
        amount("max_leverage", "maximum leverage; null: unknown, or spot", nullable=True),
        Column(
            "state",
            TEXT,
            "state; `absent`: no longer in the venue's response",
            one_of=("listed", "delisted", "absent"),
        ),
        Column("is_delisted", FLAG, "no longer trades"),
        Column("generation", I32, "1, incremented each time the name is recycled", low=1),
        Column("session", TEXT, "trading calendar: `always`, or `us_equities`"),
        KNOWABLE,
    ),
    key=("instrument", "ts_knowable_ns"),
)

REPAIRS: Final = Contract(
    "repairs",
    "Repair of bars that were not fully watched, by comparison with the venue's candle two minutes and an hour "
    "after their close. `confirmed`: equal numbers of trades; `short`: unequal, or no candle yet; "
    "`queued`: needs the archive, also for a watched bar that differs from its candle (`discrepancies`). "
    "Written by the recorder, by replay and by `tickwalk certify`.",
    (
        INSTRUMENT,
        WIDTH,
        Column("ts_open", TS, "start of the bar, inclusive"),
        Column("outcome", TEXT, "result", one_of=("confirmed", "short", "queued")),
        Column("trades", I64, "prints recorded; null: the bar was no longer in memory", nullable=True, low=0),
        Column("venue_trades", I64, "trades in the venue's candle; null: no candle", nullable=True, low=0),
        KNOWABLE,
    ),
    key=("instrument", "width", "ts_open", "ts_knowable_ns"),
)

QUARANTINE: Final = Contract(
    "quarantine",
    "Rejected data: frames that could not be decoded and rows that broke their contract, with the reason.",
    (
        Column("table_name", TEXT, "target table; `frames` for a frame that could not be decoded"),
        Column("reason", TEXT, "the broken rule, with the value"),
        Column("raw", BYTES, "the frame's bytes, or the row as JSON"),
        Column("source", TEXT, "journal and frame, or file"),
        KNOWABLE,
    ),
    key=("table_name", "source", "reason"),
)

DISCREPANCIES: Final = Contract(
    "discrepancies",
    "Differences between a fully watched bar and the venue's candle, one row per figure. Such a bar is not "
    "certified, and its prints are requested from the archive (`repairs`, `queued`). Written by the recorder, by "
    "replay and by `tickwalk certify`.",
    (
        INSTRUMENT,
        WIDTH,
        Column("ts_open", TS, "start of the bar, inclusive"),
        Column("revision", I32, "revision of the compared bar", low=0),
        Column(
            "differs",
            TEXT,
            "the figure; `candle`: the venue has no candle although we have prints",
            one_of=("open", "high", "low", "close", "volume", "trades", "candle"),
        ),
        Column("ours", F64, "value of the bar; null: none", nullable=True),
        Column("theirs", F64, "value of the candle; null: no candle", nullable=True),
        Column(
            "checked",
            TEXT,
            "the check that found it: `T+2m` within an hour after the close (the candle may still change), `T+1h` "
            "later, `import` against the table `candles`",
            one_of=("T+2m", "T+1h", "import"),
        ),
        KNOWABLE,
    ),
    key=("instrument", "width", "ts_open", "differs", "checked", "ts_knowable_ns"),
)

FEES: Final = Contract(
    "fees",
    "Trading fees of a venue by dex or market, tier and role, with the period in force and the source. "
    "A correction is a row with a later `ts_knowable_ns`. Written by `tickwalk reference seed`, and by a "
    "night whose lake lacks them.",
    (
        Column("venue", TEXT, "the venue"),
        Column("kind", TEXT, "perp or spot"),
        Column("dex", TEXT, "the perp dex; empty: the first; `*`: any dex of a deployer (HIP-3)"),
        Column("tier", TEXT, "the volume tier; `base`: no volume or stake"),
        Column("role", TEXT, "who pays", one_of=("maker", "taker")),
        Column("bps", F64, "basis points of the notional; negative: a rebate", low=-100.0, high=1000.0),
        Column("ts_from", TS, "start of the period, inclusive"),
        Column("ts_to", TS, "end of the period, exclusive; null: until a later row", nullable=True),
        Column("source", TEXT, "reference, and when it was read"),
        KNOWABLE,
    ),
    key=("venue", "kind", "dex", "tier", "role", "ts_from", "ts_knowable_ns"),
)

CONTRACTS: Final[dict[str, Contract]] = {
    contract.name: contract
    for contract in (
        TRADES,
        QUOTES,
        BOOKS,
        MIDS,
        CONTEXTS,
        LAGS,
        CLOCKS,
        COVERAGE,
        COVERAGE_DAYS,
        BARS,
        CANDLES,
        FUNDING,
        RECORDINGS,
        INSTRUMENTS,
        REPAIRS,
        QUARANTINE,
        RETRIES,
        VERSIONS,
        LINEAGES,
        GATE_DAYS,
        TRIALS,
        HOLDOUTS,
        PINS,
        BATCHES,
        DISCREPANCIES,
        FEES,
        MIGRATIONS,
    )
}
