"""Lineage of a bar: its revisions, and the prints, frames and bytes behind each number."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from ingest.coverage.ledger import BOOK, TRADES
from ingest.journal.format import segments
from ingest.journal.reader import find_records
from ingest.journal.records import Record
from ingest.journal.retention import REMOVED
from storage.clock import MS_NS, NS, US_NS, floor_ns, iso, width_ns
from storage.errors import RangeError
from storage.lake.instrument_names import resolve_instrument
from storage.lake.lake import Lake
from storage.settings import Settings

_WIDE: Final = 110
_MOST_SPANS: Final = 8

_REVISIONS: Final = """
    WITH shots AS (
        SELECT commit_message AS batch, max(snapshot_id) AS snapshot FROM lake.snapshots()
        WHERE commit_message IS NOT NULL GROUP BY ALL
    )
    SELECT bars.*, epoch_us(ts_close) * 1000 AS close_ns, snapshot FROM bars LEFT JOIN shots USING (batch)
    WHERE instrument = ? AND width = ? AND ts_open = make_timestamptz(?) ORDER BY revision
"""

_COUNTS: Final = """
    SELECT *, epoch_us(ts_close) * 1000 AS close_ns FROM bars_latest
    WHERE instrument = ? AND width = ? AND ts_open = make_timestamptz(?)
"""

# Prints with equal times are in the order of receipt, which only `rowid` holds.
_PRINTS: Final = """
    SELECT tid, price, size, side, origin, epoch_us(ts_event) * 1000 AS event_ns, ts_recv_ns, journal, frame FROM trades
    WHERE instrument = ? AND ts_event >= make_timestamptz(?) AND ts_event < make_timestamptz(?)
    ORDER BY ts_event, trades.rowid
"""

_COVERAGE: Final = """
    SELECT journal, connection, kind, cause, evidence, bridged, epoch_us(ts_from) * 1000 AS from_ns,
           epoch_us(ts_to) * 1000 AS to_ns
    FROM coverage
    WHERE (instrument = ? AND channel = ? OR channel = '*' AND starts_with(?, instrument))
      AND ts_to > make_timestamptz(?) AND ts_from < make_timestamptz(?)
    QUALIFY row_number() OVER (
        PARTITION BY journal, connection, channel, instrument, ts_from, kind ORDER BY revision DESC) = 1
    ORDER BY kind DESC, ts_from, connection
"""

_OF_BAR: Final = (
    "WHERE instrument = ? AND width = ? AND ts_open = make_timestamptz(?) ORDER BY ts_knowable_ns"
)


def explain(lake: Lake, settings: Settings, *, name: str, at_ns: int, width: str) -> list[str]:
    """Return lines of text about the bar that contains a time.

    Args:
        lake: holds the bar.
        settings: home whose journal holds the frames.
        name: an instrument id, or the venue's name if only one instrument has it.
        at_ns: a time inside the bar.
        width: width of the bar.

    Raises:
        InstrumentError: no instrument, or several, have bars under that name.
        RangeError: it has no bar at that time.
    """
    open_ns = floor_ns(at_ns, width_ns(width))
    instrument = find_instrument(lake, name, width, open_ns)
    bar_of = [instrument, width, open_ns // US_NS]
    revisions = lake.query(_REVISIONS, bar_of).to_pylist()
    [bar] = lake.query(_COUNTS, bar_of).to_pylist()
    bounds = [open_ns // US_NS, bar["close_ns"] // US_NS]
    prints = lake.query(_PRINTS, [instrument, *bounds]).to_pylist()
    channel = TRADES if bar["trades_applicable"] else BOOK
    spans = lake.query(_COVERAGE, [instrument, channel, instrument, *bounds]).to_pylist()
    rows = {
        table: lake.query(f"SELECT * FROM {table} {_OF_BAR}", bar_of).to_pylist()
        for table in ("repairs", "discrepancies", "candles")
    }
    return [
        f"{instrument}, {width} bar {iso(open_ns)} to {iso(bar['close_ns'])}",
        *_section("revisions", (_revision(row, bar["revision"]) for row in revisions)),
        *_section("numbers", _numbers(bar, prints)),
        *_section("prints and frames", _trace_prints(settings, bar, prints)),
        *_section("coverage", _coverage(spans, bar)),
        *_section("repairs", map(_repair, rows["repairs"])),
        *_section("the venue's candles", map(_candle, rows["candles"])),
        *_section("discrepancies", map(_discrepancy, rows["discrepancies"])),
    ]


def find_instrument(lake: Lake, name: str, width: str, open_ns: int) -> str:
    """Return the id of the instrument that has the bar."""
    instrument = resolve_instrument(lake, name, width=width)
    found = lake.query(
        """SELECT epoch_us(min(ts_open)) * 1000 AS from_ns, epoch_us(max(ts_close)) * 1000 AS to_ns,
                  bool_or(ts_open = make_timestamptz(?)) AS is_there FROM bars
           WHERE width = ? AND instrument = ?""",
        [open_ns // US_NS, width, instrument],
    ).to_pylist()[0]
    if not found["is_there"]:
        raise RangeError(
            f"{instrument} has no {width} bar at {iso(open_ns)}; its bars range from "
            f"{iso(found['from_ns'])} to {iso(found['to_ns'])}",
            hint="a bar exists from the first subscription on; times are UTC",
        )
    return instrument


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    """Yield a titled section, or nothing if it is empty."""
    for number, line in enumerate(lines):
        if number == 0:
            yield f"{title}:"
        yield f"  {line}"


def _revision(row: dict[str, Any], counts: int) -> str:
    """Return the text of a revision; `counts` is the number of the one that counts."""
    cause = f" ({row['cause']})" if row["cause"] else ""
    marks = "".join(f", {name}" for name in ("repaired", "certified") if row[name])
    snapshot = "snapshot expired" if row["snapshot"] is None else f"snapshot {row['snapshot']}"
    return (
        f"{row['revision']}: {row['status']}{cause}{marks}, {row['origin']}, watched {row['observed_ms']:,} ms, "
        f"{_count(row['trades'])}; knowable {iso(row['ts_knowable_ns'])} "
        f"(close {_after(row['ts_knowable_ns'] - row['close_ns'])}); {row['batch']}, {snapshot}"
        f"{'; counts' if row['revision'] == counts else ''}"
    )


def _numbers(bar: dict[str, Any], prints: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the bar's numbers, and whether the prints in the lake give the same ones."""
    names = ("open", "high", "low", "close", "vwap", "volume", "buy_volume", "notional", "trades")
    yield ", ".join(f"{name} {_number(bar[name])}" for name in names)
    yield f"bid {_number(bar['bid'])}, ask {_number(bar['ask'])}, quote age {_number(bar['quote_age_ms'])} ms"
    if bar["origin"] == "candle":
        yield "derived from the venue's candle below, not from prints"
        return
    if not bar["trades_applicable"]:
        yield "derived from quotes only: the venue publishes no trades"
        return
    if bar["trades"] is None:
        return
    wrong = [name for name, value in _aggregate(prints).items() if not _same(value, bar[name])]
    if wrong:
        yield f"the {len(prints):,} prints in the lake give different values for: {', '.join(wrong)}"
    else:
        yield f"the {len(prints):,} prints in the lake give the same numbers"


def _aggregate(prints: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Recompute a bar's numbers with plain sums."""
    prices = [item["price"] for item in prints]
    return {
        "open": prices[0] if prices else None,
        "high": max(prices, default=None),
        "low": min(prices, default=None),
        "close": prices[-1] if prices else None,
        "volume": math.fsum(item["size"] for item in prints),
        "notional": math.fsum(item["size"] * item["price"] for item in prints),
        "trades": len(prints),
    }


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def _trace_prints(settings: Settings, bar: dict[str, Any], prints: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the prints that set open, high, low and close, and the frames that carried them."""
    if not prints or bar["origin"] == "candle":
        return
    by_price = [item["price"] for item in prints]
    picked = {
        "open": 0,
        "high": by_price.index(max(by_price)),
        "low": by_price.index(min(by_price)),
        "close": len(prints) - 1,
    }
    frames: dict[str, set[int]] = {}
    for at in picked.values():
        frames.setdefault(prints[at]["journal"], set()).add(prints[at]["frame"])
    found: dict[tuple[str, int], tuple[Path, int, Record]] = {}
    for recording, numbers in frames.items():
        records = find_records(settings.journal_dir / recording, numbers)
        found |= {(recording, number): record for number, record in records.items()}
    for at in sorted(set(picked.values())):
        item = prints[at]
        what = " = ".join(name for name, place in picked.items() if place == at)
        yield (
            f"{what}: {_number(item['price'])} x {_number(item['size'])} {item['side']}, tid {item['tid']}, "
            f"{iso(item['event_ns'])}, received {_after(item['ts_recv_ns'] - item['event_ns'])} ({item['origin']})"
        )
        place = found.get((item["journal"], item["frame"]))
        if place is None:
            yield f"  frame {item['frame']} of {item['journal']}: {_missing_reason(settings, item['journal'])}"
            continue
        path, offset, record = place
        yield (
            f"  frame {item['frame']} of {item['journal']}, connection {record.connection}, "
            f"{path.name} block at {offset:,}"
        )
        yield f"  {_shortened(record.body, item['tid'])}"


def _missing_reason(settings: Settings, recording: str) -> str:
    """Return why a frame cannot be shown."""
    if segments(settings.journal_dir / recording):
        return "it is not in the journal: its block is damaged or not yet written"
    notes = settings.journal_dir / REMOVED
    for line in notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []:
        note = json.loads(line)
        if note["recording"] == recording:
            where = f"; a copy is in {note['copy']}" if note["copy"] else ""
            return f"its journal was deleted on {note['removed']} (keep.journal_days){where}"
    return "its journal is not on this disk, so its bytes cannot be shown"


def _shortened(body: bytes, tid: int) -> str:
    """Return the part of a frame's text around a trade's id."""
    text = body.decode("utf-8", "backslashreplace")
    at = max(text.find(str(tid)), 0)
    start = max(0, min(at - _WIDE // 2, len(text) - _WIDE))
    part = text[start : start + _WIDE]
    return f"{'...' if start else ''}{part}{'...' if start + _WIDE < len(text) else ''}"


def _coverage(spans: Sequence[dict[str, Any]], bar: dict[str, Any]) -> Iterator[str]:
    if not spans and bar["origin"] != "candle":
        yield "no finished coverage span overlaps it: the connection is still open, or nothing was watching"
    for span in spans[:_MOST_SPANS]:
        what = "watched" if span["kind"] == "watched" else "gap, bridged" if span["bridged"] else "gap"
        yield (
            f"{what} {iso(span['from_ns'])} to {iso(span['to_ns'])} ({span['cause']}; {span['evidence']}), "
            f"connection {span['connection']} of {span['journal']}"
        )
    if len(spans) > _MOST_SPANS:
        yield f"and {len(spans) - _MOST_SPANS} more; see: tickwalk gaps"


def _repair(row: dict[str, Any]) -> str:
    return (
        f"{row['outcome']}: ours {_count(row['trades'])}, the venue's {_count(row['venue_trades'])}; "
        f"{iso(row['ts_knowable_ns'])}"
    )


def _candle(row: dict[str, Any]) -> str:
    names = ("open", "high", "low", "close", "volume", "trades")
    return f"{', '.join(f'{name} {_number(row[name])}' for name in names)}; {row['source']}"


def _discrepancy(row: dict[str, Any]) -> str:
    return (
        f"{row['differs']}: ours {_number(row['ours'])}, theirs {_number(row['theirs'])} (revision {row['revision']}, "
        f"{row['checked']}, {iso(row['ts_knowable_ns'])})"
    )


def _count(trades: int | None) -> str:
    return "trades not counted" if trades is None else f"{trades:,} trade{'' if trades == 1 else 's'}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.12g}"


def _after(lag_ns: int) -> str:
    return (
        f"{lag_ns / NS:+,.3f} s" if abs(lag_ns) < 86_400 * NS else f"{lag_ns // MS_NS // 86_400_000:+,} days"
    )
