"""Effects of receiving every frame three seconds later.

What happened stays as it was: trades, quotes and bars, to the bit. When it was known moves by exactly three seconds,
where the bars' grace moves along (an operator with a slower line gives it more). Where the grace stays, bars are
published at the same instants from what has arrived by then: their first revisions lack what is still under way, and
later revisions mend it, except for the quote, which a bar keeps as it was served.

The position rule (training/evaluation/positions.py) does not read `ts_knowable_ns`. Knowable time enters a profit in
two places: `load_panel` serves the last revision that was knowable at the close plus the grace, and
`labels.delay_bars` counts the grace into the bars between a decision and its fill. A context's age is counted from its
receipt, a quote's from its event.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np
import pytest

from features.panel.panel import Panel, load_panel
from ingest.journal.captures import read_capture
from ingest.journal.records import Record, RecordBatch, RecordKind
from ingest.pipeline.processor import Pipeline
from storage.clock import MS_NS, NS, width_ns
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.conftest import recorded
from tests.ingest.pipeline.scripts import START_NS, Script
from training.data.labels import delay_bars, prices_at_close
from training.evaluation.costs import Costs
from training.evaluation.positions import MarketData, PositionLedger, PositionRule, run_ledger

LATER_NS = 3 * NS
DELAY_MS = 200
FEE_BPS = 4.5
STAMPS = ("ts_recv_ns", "ts_knowable_ns")
# A context counts in the bar in which it was received.
CONTEXT = ("funding_rate", "open_interest", "oracle", "mark", "context_age_ms")
Rows = dict[str, list[dict[str, Any]]]


def settings_of(*, grace_ms: int = 2_000, width: str = "1m") -> Settings:
    return load_settings(overrides={"bars.grace_ms": grace_ms, "bars.widths": width}, environ={})


def market(begin_s: int = 20, seconds: int = 220) -> list[Record]:
    """A price that rises by one a second, its quote four times a second, one print, and a context every ten."""
    script = Script().open(begin_s)
    for n in range(4 * begin_s, 4 * seconds):
        event_s = n / 4
        prices = (f"{1_000 + event_s + side:.2f}" for side in (-0.5, 0.5))
        level = [{"px": price, "sz": "1", "n": 1} for price in prices]
        data = {"coin": "BTC", "time": script.venue_ms(event_s), "bbo": level}
        script.frame(event_s + 0.5, {"channel": "bbo", "data": data})
    for n in range(begin_s, seconds):
        script.print(n + 0.6, event_s=n + 0.1, px=str(1_000 + n))
    context = {
        "funding": "0",
        "openInterest": "1",
        "prevDayPx": "1",
        "dayNtlVlm": "1",
        "oraclePx": "1",
        "markPx": "1",
    }
    for n in range(begin_s + 1, seconds, 10):
        data = {"coin": "BTC", "ctx": context | {"markPx": str(1_000 + n)}}
        script.frame(n, {"channel": "activeAssetCtx", "data": data})
    return script.stop(seconds).sorted()


def capture(name: str, frames: int) -> list[Record]:
    read = itertools.islice(read_capture(recorded(name)), frames)
    return [Record(number, recv_ns, RecordKind.FRAME, 0, body) for number, (recv_ns, body) in enumerate(read)]


SOURCES = ("made", "hyperliquid/ws_20250126_btc_verbatim.txt.gz", "hyperliquid/ws_20250904_4coins.ndjson.gz")


def taken(source: str) -> tuple[list[Record], bool]:
    """Return records, and whether they are a capture's."""
    return (market(), False) if source == "made" else (capture(source, 12_000), True)


def later(records: list[Record], by_ns: int = LATER_NS) -> list[Record]:
    return [dataclasses.replace(record, recv_ns=record.recv_ns + by_ns) for record in records]


def through(records: list[Record], settings: Settings, *, is_capture: bool) -> tuple[Pipeline, Any]:
    pipeline = Pipeline("made", settings, is_capture=is_capture)
    pipeline.process_batch(RecordBatch.of(records))
    if is_capture:
        pipeline.stop(records[-1].recv_ns, "end of capture")
    return pipeline, pipeline.drain()


@functools.cache
def both(source: str, *, grace_ms: int) -> tuple[Rows, Rows]:
    """Return the rows of a source received on time, and received three seconds later with another grace."""
    records, is_capture = taken(source)
    _, one = through(records, settings_of(), is_capture=is_capture)
    _, other = through(later(records), settings_of(grace_ms=grace_ms), is_capture=is_capture)
    lists = [{name: table.to_pylist() for name, table in tables.items()} for tables in (one, other)]
    return lists[0], lists[1]


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


@pytest.mark.parametrize("source", SOURCES)
def test_what_happened_stays_and_when_it_was_known_moves_by_three_seconds(source: str) -> None:
    one, other = both(source, grace_ms=5_000)
    for table in ("trades", "quotes", "books", "contexts"):
        rows, moved = one.get(table, []), other.get(table, [])
        assert len(rows) == len(moved)
        for row, counterpart in zip(rows, moved, strict=True):
            assert {counterpart[name] - row[name] for name in STAMPS} == {LATER_NS}
            # Of a first batch, what is a second old counts as live, and four seconds later no longer.
            origins = (row["origin"], counterpart["origin"])
            assert origins[0] == origins[1] or origins == ("live", "venue_replay")
            assert without(row, *STAMPS, "origin") == without(counterpart, *STAMPS, "origin")
    assert len(one["trades"]) > 10


@pytest.mark.parametrize("source", SOURCES)
def test_bars_stay_and_are_known_three_seconds_later_with_the_grace_moved_along(source: str) -> None:
    one, other = both(source, grace_ms=5_000)
    rows, moved = one.get("bars", []), other.get("bars", [])
    assert len(rows) == len(moved)
    begun: set[str] = set()
    for row, counterpart in zip(rows, moved, strict=True):
        assert counterpart["ts_knowable_ns"] - row["ts_knowable_ns"] == LATER_NS
        # Watching began with a receipt, so of the first bar three seconds less were watched.
        lost_ms = row["observed_ms"] - counterpart["observed_ms"]
        assert lost_ms == (0 if row["instrument"] in begun else LATER_NS // MS_NS)
        if row["revision"] == 0:
            begun.add(row["instrument"])
        # What was repaired was available a lag after its close, whenever we received it.
        later_ns = 0 if row["repaired"] or row["origin"] != "live" else LATER_NS
        assert counterpart["ts_available_ns"] - row["ts_available_ns"] == later_ns
        moving = ("ts_knowable_ns", "ts_available_ns", "observed_ms", *CONTEXT)
        assert without(row, *moving) == without(counterpart, *moving)
    assert rows or "verbatim" in source


@pytest.mark.parametrize("source", SOURCES)
def test_every_lag_grows_by_three_seconds(source: str) -> None:
    one, other = both(source, grace_ms=5_000)
    assert one["lags"]
    for channel in {row["channel"] for row in one["lags"]}:
        rows, moved = ([row for row in rows["lags"] if row["channel"] == channel] for rows in (one, other))
        assert sum(row["frames"] for row in rows) == sum(row["frames"] for row in moved)
        longest = [max(row["max_ms"] for row in part) for part in (rows, moved)]
        assert longest[1] - longest[0] == pytest.approx(3_000, abs=1e-6)
        middle = [
            np.average([r["p50_ms"] for r in part], weights=[r["frames"] for r in part])
            for part in (rows, moved)
        ]
        # A percentile is that of its bucket, up to 4 % off (ingest/pipeline/latency.py).
        assert middle[1] - middle[0] == pytest.approx(3_000, abs=0.04 * (middle[0] + middle[1]))


@pytest.mark.parametrize("source", [source for source in SOURCES if "verbatim" not in source])
def test_with_the_grace_unmoved_bars_come_when_they_did_and_later_revisions_mend_them(source: str) -> None:
    one, other = both(source, grace_ms=2_000)
    first, last = (
        {(row["instrument"], row["ts_open"]): row for row in reversed(rows["bars"])} for rows in (one, other)
    )
    ended, mended = (
        {(row["instrument"], row["ts_open"]): row for row in rows["bars"]} for rows in (one, other)
    )
    assert first.keys() <= last.keys()
    assert all(last[key]["ts_knowable_ns"] == row["ts_knowable_ns"] for key, row in first.items())
    assert sum(last[key]["trades"] for key in first) < sum(row["trades"] for row in first.values())
    # The last bar has no later instant at which it could be mended.
    newest = max(key[1] for key in first)
    names = ("open", "high", "low", "close", "vwap", "volume", "buy_volume", "notional", "trades", "status")
    settled = [key for key in first if key[1] < newest]
    assert settled
    for key in settled:
        assert [mended[key][name] for name in names] == [ended[key][name] for name in names]


def test_a_print_may_be_late_for_it() -> None:
    script = Script().open(0).alive(0.1, 150).print(100, event_s=41.0).clock(150)
    late = [
        through(part, settings_of(), is_capture=False)[0].counts.late
        for part in (script.sorted(), later(script.sorted()))
    ]
    assert late == [0, 1]


# What a model is fed, and what it could have earned.


Panels = dict[tuple[str, str], Panel]


@pytest.fixture(scope="module")
def panels(tmp_path_factory: pytest.TempPathFactory) -> Panels:
    """Panels by receipt and width: on time, later with the same grace, and later with a longer grace."""
    found = {}
    for name, records, grace_ms in (
        ("in time", market(), 2_000),
        ("later", later(market()), 2_000),
        ("moved along", later(market()), 5_000),
    ):
        settings = load_settings(overrides={"home": tmp_path_factory.mktemp("home")}, environ={})
        _, tables = through(records, settings_of(grace_ms=grace_ms, width="1m,1s"), is_capture=False)
        with Lake.open(settings) as lake:
            lake.commit(tables, batch_id="made", inputs={})
            for width in ("1m", "1s"):
                found[name, width] = load_panel(lake, width=width, grace_ns=grace_ms * MS_NS)
    return found


def test_inputs_are_older_by_what_the_grace_does_not_cover(panels: Panels) -> None:
    """A quote half a second on its way is there two seconds after the close; one of three and a half is not."""
    ages = [panels[name, "1m"].column("quote_age_ms")[0].tolist() for name in ("in time", "later")]
    assert ages == [[250.0] * 3, [1_500.0] * 3]


def test_a_context_is_younger_by_three_seconds_at_the_close_and_the_same_one(panels: Panels) -> None:
    """Its age is counted from the receipt, since the venue sends no time."""
    one, other = panels["in time", "1m"], panels["moved along", "1m"]
    assert one.column("mark").tolist() == other.column("mark").tolist()
    ages = [part.column("context_age_ms")[0].tolist() for part in (one, other)]
    assert ages == [[9_000.0] * 3, [6_000.0] * 3]


def earned(bars: Panel, *, grace_ms: int, decided: int) -> PositionLedger:
    """Go long at one step for ten bars, by the position rule."""
    shape = (bars.n_instruments, bars.n_steps)
    prediction = np.full(shape, np.nan)
    prediction[0, decided] = 1.0
    free = MarketData(
        instruments=bars.instruments,
        ts_close_ns=bars.ts_close_ns,
        price=prices_at_close(bars).price.numpy(),
        half_spread=np.zeros(shape),
        notional=np.full(shape, 1e9),
        taker_fee_bps=np.full(shape, FEE_BPS),
        scale=np.ones(shape),
        funding_paid=None,
        delay_bars=delay_bars(width_ns("1s"), grace_ns=grace_ms * MS_NS, delay_ms=DELAY_MS),
    )
    return run_ledger(prediction, free, PositionRule(threshold=0.0, hold_bars=10), Costs(half_spread_bps=0.0))


def test_the_profit_that_could_be_made_is_that_of_three_bars_later(panels: Panels) -> None:
    """Bars of one second: the decision comes three seconds later, the fill three bars later, at that bar's price."""
    ledgers, filled_ns = [], []
    for name, grace_ms in (("in time", 2_000), ("moved along", 5_000)):
        bars = panels[name, "1s"]
        decided = int(np.searchsorted(bars.ts_open_ns, START_NS + 60 * NS))
        ledgers.append(earned(bars, grace_ms=grace_ms, decided=decided))
        filled_ns.append(bars.ts_close_ns[ledgers[-1].fills[0].step])
    entries = [ledger.fills[0] for ledger in ledgers]
    assert filled_ns[1] - filled_ns[0] == LATER_NS
    assert entries[1].price - entries[0].price == pytest.approx(3.0)
    for ledger, entry in zip(ledgers, entries, strict=True):
        exit_price = ledger.fills[-1].price
        assert ledger.gross.sum() == pytest.approx((exit_price - entry.price) / entry.price)
    assert ledgers[0].gross.sum() > ledgers[1].gross.sum() > 0.0
