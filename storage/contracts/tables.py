"""What stands in each table: the contracts of all of them, in one place.

What a contract is, and the columns that many tables share: `storage.contracts.contract`.
"""

from __future__ import annotations

from typing import Final

from storage.contracts.contract import (
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

STATUSES: Final = ("unlisted", "blind", "printed", "halted", "quiet", "unknown")
SESSIONS: Final = ("regular", "extended", "internal", "always")
SIDES: Final = ("buy", "sell", "unknown")
BOOK_MODES: Final = ("slow", "fast", "relay")
EVIDENCE: Final = ("socket", "overlap", "venue_statement", "inferred")

TRADES: Final = Contract(
    "trades",
    "Every print once, by the venue's key; written by the recorder and by replay.",
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
    said=("side", "price", "size"),  # the same print may come by another socket, at another time
)

QUOTES: Final = Contract(
    "quotes",
    "Best bid and ask at each change; a side that is empty is null. Written by the recorder and by replay.",
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
    "Whole snapshots of the order book, best level first. A GaiaEx book relays a Hyperliquid one (`mode` is `relay`): "
    "never add the two. Levels are checked by `ingest.pipeline.order_books`. Written by the recorder and by replay.",
    (
        INSTRUMENT,
        TS_EVENT,
        Column("mode", TEXT, "`slow` 20 levels, `fast` 5 levels, or `relay`", one_of=BOOK_MODES),
        Column("bid_px", F64S, "bid prices, strictly falling; empty: no bid"),
        Column("bid_sz", F64S, "base units at each bid"),
        Column("ask_px", F64S, "ask prices, strictly rising; empty: no ask"),
        Column("ask_sz", F64S, "base units at each ask"),
        Column("is_stale", FLAG, "the venue itself says that the book is frozen"),
        ORIGIN,
        TS_RECV,
        KNOWABLE,
        *SOURCE,
    ),
    key=("instrument", "ts_event", "mode", "ts_recv_ns", "frame"),
)

MIDS: Final = Contract(
    "mids",
    "Mid and mark prices of all coins from the venue-wide channels (`allMids`, `fastAssetCtxs`), where those are "
    "recorded; one row per coin whose price changed. Written by the recorder and by replay.",
    (
        INSTRUMENT,
        price("mid", "mid price; the last trade where a side of the book is empty", nullable=True),
        price("mark", "mark price; null: this message did not carry it", nullable=True),
        ORIGIN,
        TS_RECV,
        KNOWABLE,
        *SOURCE,
    ),
    key=("instrument", "ts_recv_ns", "frame"),
)

CONTEXTS: Final = Contract(
    "contexts",
    "The venue's own view of a perp: oracle, mark, predicted funding, open interest. It carries no venue time.",
    (
        INSTRUMENT,
        Column("funding_rate", F64, "predicted rate of the coming hour, positive: longs pay", nullable=True),
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
    "How late a channel's frames reached us: receipt less venue time, one row a channel and minute of receipt.",
    (
        Column("journal", TEXT, "the recording"),
        Column("channel", TEXT, "the channel, as the venue names it"),
        Column("ts_from", TS, "open of the minute of receipt"),
        Column("frames", I64, "frames with a venue time that came in that minute", low=1),
        Column(
            "p50_ms",
            F64,
            "median of the lags that are not negative; null where all are",
            nullable=True,
            low=0.0,
        ),
        Column("p90_ms", F64, "their 90th percentile, to 5 %", nullable=True, low=0.0),
        Column("p99_ms", F64, "their 99th percentile, to 5 %", nullable=True, low=0.0),
        Column("max_ms", F64, "the longest", nullable=True, low=0.0),
        Column(
            "negative", I64, "frames that seem to come from the future: one of the two clocks is off", low=0
        ),
        KNOWABLE,
    ),
    key=("journal", "channel", "ts_from"),
    ordered=(("p50_ms", "p90_ms"), ("p90_ms", "p99_ms"), ("p99_ms", "max_ms"), ("negative", "frames")),
)

CLOCKS: Final = Contract(
    "clocks",
    "How far our clock was off: against the venue, against NTP, and against the machine's own monotonic clock.",
    (
        Column("journal", TEXT, "the recording"),
        Column(
            "source",
            TEXT,
            "`venue`: its exchangeStatus; `ntp`: a time server; `monotonic`: our wall clock was set, by so much",
            one_of=("venue", "ntp", "monotonic"),
        ),
        Column("ts", TS, "our time in the middle between question and answer"),
        Column("offset_ms", F64, "our clock less the other; above zero, ours is ahead"),
        Column(
            "uncertainty_ms", F64, "the truth lies within this of the offset: half the round trip", low=0.0
        ),
        KNOWABLE,
    ),
    key=("journal", "source", "ts"),
)

COVERAGE: Final = Contract(
    "coverage",
    "The ledger of what was watched: one row per connection, channel and instrument for each span that is proven, "
    "and one per hole with its cause. Times are the venue's; receipt columns are ours. Written by the recorder and "
    "by replay; spans of one key only grow, as later revisions.",
    (
        Column("journal", TEXT, "the recording"),
        Column("connection", I32, "number of the connection within the recording; -1: none was open"),
        Column("channel", TEXT, "the venue's channel"),
        INSTRUMENT,
        Column("ts_from", TS, "watched from here, inclusive"),
        Column("ts_to", TS, "watched to here, exclusive"),
        Column("kind", TEXT, "`watched`, or `gap`", one_of=("watched", "gap")),
        Column("cause", TEXT, "why the span ended, or why nothing was watched"),
        Column("evidence", TEXT, "what proves it", one_of=EVIDENCE),
        Column("bridged", FLAG, "a gap that the venue's resent prints proved to hold nothing more"),
        Column("revision", I32, "a span grows by revision; the last one holds", low=0),
        KNOWABLE,
    ),
    key=("journal", "connection", "channel", "instrument", "ts_from", "kind", "revision"),
    ordered=(("ts_from", "ts_to"),),
)

BARS: Final = Contract(
    "bars",
    "One row per instrument and grid step, whether or not anything printed. Revisions are appended; `bars_latest` "
    "shows the last. Prices are null where nothing printed. Quote and context columns are as of the close, by "
    "receipt. Written by the recorder, by replay and by the candle import.",
    (
        INSTRUMENT,
        WIDTH,
        Column("ts_open", TS, "first instant of the bar, inclusive"),
        Column("ts_close", TS, "last instant of the bar, exclusive"),
        Column("revision", I32, "0 when published at its close, then one more for each change", low=0),
        Column("status", TEXT, "what the bar is: see docs/tables.md", one_of=STATUSES),
        Column("cause", TEXT, "why it is blind; empty otherwise"),
        Column("session", TEXT, "trading session", one_of=SESSIONS),
        ORIGIN,
        Column("observed_ms", I64, "share of the bar that was watched, in milliseconds", low=0),
        Column("repaired", FLAG, "what was missed is proven to be here by resent prints"),
        Column("certified", FLAG, "the venue's own candle agrees"),
        price("open", "first print", nullable=True),
        price("high", "highest print", nullable=True),
        price("low", "lowest print", nullable=True),
        price("close", "last print; of one instant, the last received", nullable=True),
        amount("volume", "base units", nullable=True),
        amount("buy_volume", "base units bought by the aggressor; null: side unknown", nullable=True),
        amount("notional", "quote units", nullable=True),
        price("vwap", "notional by volume", nullable=True),
        Column("trades", I64, "prints; null: the source does not count them", nullable=True, low=0),
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
    ),
    key=("instrument", "width", "ts_open", "revision"),
    revises=True,
    ordered=(("ts_open", "ts_close"), ("low", "high"), ("buy_volume", "volume")),
)

CANDLES: Final = Contract(
    "candles",
    "The venue's own candles, from files or over REST; bars are derived from them with origin `candle`. Written by "
    "`tickwalk import candles` and `tickwalk backfill candles`.",
    (
        INSTRUMENT,
        WIDTH,
        Column("ts_open", TS, "first instant, inclusive"),
        price("open", "first trade"),
        price("high", "highest trade"),
        price("low", "lowest trade"),
        price("close", "last trade"),
        amount("volume", "base units"),
        Column("trades", I64, "trades; null: the file does not say", nullable=True, low=0),
        Column("source", TEXT, "the file or request it came from"),
        KNOWABLE,
    ),
    key=("instrument", "width", "ts_open", "source"),
    ordered=(("low", "high"), ("low", "open"), ("low", "close"), ("open", "high"), ("close", "high")),
)

FUNDING: Final = Contract(
    "funding",
    "Funding as paid (not the predicted rate of `contexts`); positive means that longs pay shorts. Written by "
    "`tickwalk backfill funding`.",
    (
        INSTRUMENT,
        Column("ts_event", TS, "when it was paid, as the venue says, jitter kept"),
        Column("funding_rate", F64, "share of notional", low=-1.0, high=1.0),
        Column("premium", F64, "premium it was computed from", nullable=True),
        Column("interval_h", I32, "hours it pays for: 8 until 2023-06-08, 1 since", low=1, high=24),
        Column("source", TEXT, "the file or request it came from"),
        KNOWABLE,
    ),
    key=("instrument", "ts_event"),
)

INSTRUMENTS: Final = Contract(
    "instruments",
    "What a venue lists, as it said at `ts_knowable_ns`: a row holds from then until the next of the same instrument, "
    "as the view `instruments_valid` shows. A name that was recycled is a new instrument, with `~2` behind it. "
    "Written by the recorder and by replay, one row for each change.",
    (
        INSTRUMENT,
        Column("venue", TEXT, "the venue"),
        Column("kind", TEXT, "perp, spot, ..."),
        Column("symbol", TEXT, "the venue's own name"),
        Column("dex", TEXT, "the perp dex that lists it; empty: the first, or no perp"),
        Column(
            "asset_index",
            I64,
            "its place in that dex's universe, or the spot pair's index; null: none",
            nullable=True,
            low=0,
        ),
        Column("size_decimals", I32, "decimals of a size", nullable=True, low=0, high=18),
        Column("quote", TEXT, "the token it is paid or margined in; null: not said", nullable=True),
        amount("max_leverage", "the most leverage; null: not said, or spot", nullable=True),
        Column(
            "state", TEXT, "`absent`: no longer in the answer at all", one_of=("listed", "delisted", "absent")
        ),
        Column("is_delisted", FLAG, "no longer trades"),
        Column("generation", I32, "1, and one more each time the name was recycled", low=1),
        Column("session", TEXT, "the calendar of its sessions: `always`, or `us_equities`"),
        KNOWABLE,
    ),
    key=("instrument", "ts_knowable_ns"),
)

REPAIRS: Final = Contract(
    "repairs",
    "What became of bars that were not fully watched: compared with the venue's own candle two minutes and an hour "
    "after their close. `confirmed`: both count the same trades; `short`: they do not, or there was no candle yet; "
    "`queued`: only the archive can tell, also of a watched bar that its candle contradicts (`discrepancies`). "
    "Written by the recorder, by replay and by `tickwalk certify`.",
    (
        INSTRUMENT,
        WIDTH,
        Column("ts_open", TS, "first instant of the bar, inclusive"),
        Column("outcome", TEXT, "what was found", one_of=("confirmed", "short", "queued")),
        Column("trades", I64, "prints that we hold; null: the bar was no longer held", nullable=True, low=0),
        Column(
            "venue_trades", I64, "trades in the venue's candle; null: there was none", nullable=True, low=0
        ),
        KNOWABLE,
    ),
    key=("instrument", "width", "ts_open", "ts_knowable_ns"),
)

QUARANTINE: Final = Contract(
    "quarantine",
    "What was refused: a frame that could not be decoded, or a row that broke its contract, whole and with the reason.",
    (
        Column("table_name", TEXT, "where it was going; `frames` for a frame that could not be decoded"),
        Column("reason", TEXT, "the rule it broke, with the value"),
        Column("raw", BYTES, "the frame's bytes, or the row as JSON"),
        Column("source", TEXT, "journal and frame, or file"),
        KNOWABLE,
    ),
    key=("table_name", "source", "reason"),
)

VERSIONS: Final = Contract(
    "versions",
    "The ledger of model versions; append-only: a row is an event, and the last `champion` event says what serves.",
    (
        Column("version", TEXT, "the model version's id"),
        Column("event", TEXT, "what happened", one_of=("registered", "champion", "rejected", "retired")),
        Column("recipe", TEXT, "the recipe it was trained by"),
        Column("model", TEXT, "the model's name"),
        Column("night", TEXT, "the night that made it"),
        Column("reason", TEXT, "why, for people"),
        Column("metrics", TEXT, "JSON of the figures the gate read"),
        Column("inputs", TEXT, "JSON: snapshot, content hash, feature fingerprint, code version"),
        Column("artefact", TEXT, "folder of its checkpoint, below the models folder"),
        KNOWABLE,
    ),
    key=("version", "event", "ts_knowable_ns"),
)

PINS: Final = Contract(
    "pins",
    "Snapshots that must never expire, with a hash of the rows they cover. Append-only: a row is an event, and what "
    "holds now is in the view `pins_held`. Written by each night, and by hand.",
    (
        Column("pin", TEXT, "name of the pin, such as the night's id"),
        Column("snapshot", I64, "the snapshot", low=0),
        Column(
            "content",
            TEXT,
            "hash of the rows it covers: `rows:` and that of all tables, or a night's own of its panel",
        ),
        Column("event", TEXT, "what happened", one_of=("pinned", "unpinned")),
        KNOWABLE,
    ),
    key=("pin", "snapshot", "ts_knowable_ns"),
)

MIGRATIONS: Final = Contract(
    "migrations",
    "The numbered steps that this lake's layout has been through, one row each; written when a lake is opened by a "
    "newer release. A release refuses a lake that has been through more than it knows.",
    (
        Column("number", I32, "the step's number, taken in this order", low=1),
        Column("name", TEXT, "what it did"),
        Column("code", TEXT, "version and commit of the code that took it"),
        KNOWABLE,
    ),
    key=("number",),
)

RETRIES: Final = Contract(
    "retries",
    "Rows of `quarantine` that were given to the contract again, by `tickwalk quarantine retry`, and fitted: they are "
    "in their table now. The row in `quarantine` stays.",
    (
        Column("table_name", TEXT, "as in `quarantine`"),
        Column("source", TEXT, "as in `quarantine`"),
        Column("reason", TEXT, "as in `quarantine`: why it was refused then"),
        KNOWABLE,
    ),
    key=("table_name", "source", "reason"),
)

BATCHES: Final = Contract(
    "batches",
    "One row a commit: what was written, from which journal segments or snapshots, by which code.",
    (
        Column("batch_id", TEXT, "a batch committed twice is one"),
        Column("rows", TEXT, "JSON: rows by table"),
        Column("inputs", TEXT, "JSON: journal segments, files or snapshots it was made from"),
        Column("code", TEXT, "version and commit of the code"),
        KNOWABLE,
    ),
    key=("batch_id",),
)

DISCREPANCIES: Final = Contract(
    "discrepancies",
    "Where a whole bar says something else than the venue's own candle: one row a figure. Such a bar is not certified, "
    "and its prints are asked of the archive (`repairs`, `queued`). Written by the recorder, by replay and by "
    "`tickwalk certify`.",
    (
        INSTRUMENT,
        WIDTH,
        Column("ts_open", TS, "first instant of the bar, inclusive"),
        Column("revision", I32, "the revision of the bar that was compared", low=0),
        Column(
            "differs",
            TEXT,
            "the figure; `candle`: the venue has none where we hold prints",
            one_of=("open", "high", "low", "close", "volume", "trades", "candle"),
        ),
        Column("ours", F64, "what the bar says; null: nothing", nullable=True),
        Column("theirs", F64, "what the candle says; null: there was none", nullable=True),
        Column(
            "checked",
            TEXT,
            "which look found it: `T+2m` in the first hour after the close (the candle may still change), `T+1h` after "
            "that, `import` against the table `candles`",
            one_of=("T+2m", "T+1h", "import"),
        ),
        KNOWABLE,
    ),
    key=("instrument", "width", "ts_open", "differs", "checked", "ts_knowable_ns"),
)

FEES: Final = Contract(
    "fees",
    "What a trade costs at a venue, from when to when, with where that is written; a row holds for its dex or market "
    "and tier. A correction is a row with a later `ts_knowable_ns`. Written by `tickwalk reference seed`, and by a "
    "night whose lake lacks them.",
    (
        Column("venue", TEXT, "the venue"),
        Column("kind", TEXT, "perp or spot"),
        Column("dex", TEXT, "the perp dex; empty: the first; `*`: any that a deployer runs (HIP-3)"),
        Column("tier", TEXT, "the volume tier; `base`: without any volume or stake"),
        Column("role", TEXT, "who pays", one_of=("maker", "taker")),
        Column("bps", F64, "basis points of the notional; below zero: a rebate", low=-100.0, high=1000.0),
        Column("ts_from", TS, "in force from here, inclusive"),
        Column("ts_to", TS, "to here, exclusive; null: until a later row says otherwise", nullable=True),
        Column("source", TEXT, "where it is written, and when that was read"),
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
        BARS,
        CANDLES,
        FUNDING,
        INSTRUMENTS,
        REPAIRS,
        QUARANTINE,
        RETRIES,
        VERSIONS,
        PINS,
        BATCHES,
        DISCREPANCIES,
        FEES,
        MIGRATIONS,
    )
}
