"""Accounting of frames: each is stored, known already, a control message, or quarantined."""

from __future__ import annotations

import calendar
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from ingest.journal.records import Record
from ingest.pipeline import rows
from ingest.pipeline.processor import Pipeline
from ingest.venues.gaiaex import messages as gaiaex_messages
from ingest.venues.hyperliquid import messages as wire
from storage.clock import MS_NS
from storage.errors import VenueError

STORED: Final = "stored"
KNOWN: Final = "known already"
TOLD: Final = "told something"
REFUSED: Final = "in quarantine"

Table = dict[str, pa.Table]
# Of these a part may be refused, and the rest not.
_MANY: Final = (wire.Mids, wire.FastAssetCtxs, wire.AllDexsAssetCtxs, wire.AssetCtxs)


class Account:
    """Follows one pipeline drain by drain, and decodes every frame independently."""

    def __init__(self, pipeline: Pipeline, venues: dict[int, str]) -> None:
        """Start with nothing seen.

        Args:
            pipeline: whose rows are accounted for.
            venues: of each connection, `hyperliquid`, `gaiaex` or `chain`.
        """
        self.outcomes: Counter[str] = Counter()
        self.undecodable = self.prints = self.refused_prints = self.quarantined = 0
        self._pipeline = pipeline
        self._venues = venues
        self._refused: defaultdict[int, set[str]] = defaultdict(set)
        self._frames: dict[str, set[int]] = {}
        self._prints: dict[tuple[str, int, int], tuple[float, float, str]] = {}
        self._books: set[tuple[str, str, int]] = set()
        self._quotes: dict[str, tuple[Any, ...]] = {}
        self._quote_rows: dict[int, tuple[str, tuple[Any, ...]]] = {}
        self._contexts: dict[str, wire.AssetContext] = {}
        self._mids: dict[str, tuple[Any, Any]] = {}
        self._mid_rows: dict[tuple[int, str], tuple[Any, Any]] = {}

    def take(self, records: Sequence[Record], tables: Table) -> None:
        """Account for frames and the rows that they made; the first frame that is nowhere fails."""
        self._learn(tables)
        for record in records:
            outcome = self._outcome(record)
            assert outcome, f"frame {record.frame} is nowhere: {record.body!r}"
            self.outcomes[REFUSED if record.frame in self._refused else outcome] += 1

    def close(self) -> None:
        """Check the totals."""
        counts, channels = self._pipeline.counts, self._pipeline.state.channels
        assert self.outcomes.total() == counts.frames == channels.total()
        assert self.undecodable == channels["undecodable"]
        assert self.quarantined == counts.quarantined
        assert self.prints == counts.prints
        assert counts.prints == counts.trades + counts.seen + self.refused_prints

    def _learn(self, tables: Table) -> None:
        self._refused = defaultdict(set)
        for row in _rows(tables, "quarantine", "table_name", "source", "reason"):
            self.quarantined += 1
            self.refused_prints += row["table_name"] == "trades"
            _, number, *detail = row["source"].split(":", 2)
            self._refused[int(number)].add(detail[0] if detail else row["reason"])
        self._frames = {
            name: {row["frame"] for row in _rows(tables, name, "frame")}
            for name in ("trades", "quotes", "books", "contexts", "mids")
        }
        for row in _rows(tables, "trades", "instrument", "ts_event", "tid", "price", "size", "side"):
            key = (row["instrument"], _ms(row["ts_event"]), row["tid"])
            self._prints.setdefault(key, (row["price"], row["size"], row["side"]))
        for row in _rows(tables, "books", "instrument", "mode", "ts_event"):
            self._books.add((row["instrument"], row["mode"], _ms(row["ts_event"])))
        names = ("ts_event", "bid", "ask", "bid_size", "ask_size")
        self._quote_rows = {
            row["frame"]: (row["instrument"], (_ms(row["ts_event"]), *(row[name] for name in names[1:])))
            for row in _rows(tables, "quotes", "frame", "instrument", *names)
        }
        self._mid_rows = {
            (row["frame"], row["instrument"]): (row["mid"], row["mark"])
            for row in _rows(tables, "mids", "frame", "instrument", "mid", "mark")
        }

    def _outcome(self, record: Record) -> str:
        """Return where a frame went; nothing where it is nowhere."""
        refused = self._refused.get(record.frame, set())
        venue = self._venues[record.connection]
        try:
            message = gaiaex_messages.decode(record.body) if venue == "gaiaex" else wire.decode(record.body)
        except VenueError:
            self.undecodable += 1
            return REFUSED if refused else ""
        if venue == "chain":
            return TOLD  # blocks and pongs; anything else there is counted and says nothing of the chain
        if isinstance(message, wire.Trades):
            return self._trades(record, message.data, refused)
        return self._of_others(record, message, refused)

    def _of_others(self, record: Record, message: Any, refused: set[str]) -> str:
        if refused and not isinstance(message, _MANY):
            return REFUSED
        match message:
            case wire.Bbo():
                return self._quote(record, message.data)
            case wire.L2Book() if message.data is not None:
                mode = "fast" if message.data.fast else "slow"
                key = (self._id(message.data.coin), mode, message.data.time)
                return self._row(record, "books") or (KNOWN if key in self._books else "")
            case wire.ActiveAssetCtx() | wire.ActiveSpotAssetCtx():
                return self._row(record, "contexts")
            case wire.Mids():
                return self._all_mids(
                    record, [(coin, (mid, None)) for coin, mid in message.data.mids.items()], refused
                )
            case wire.FastAssetCtxs():
                changes = message.data.by_coin.items()
                mids = [(coin, (_float(item.mid_px), _float(item.mark_px))) for coin, item in changes]
                return self._all_mids(record, mids, refused)
            case wire.AllDexsAssetCtxs():
                return self._dexs(record, message.data.ctxs, refused)
            case wire.AssetCtxs():
                return self._dexs(record, [(message.data.dex or "", message.data.ctxs)], refused)
            case wire.ErrorMessage():
                return TOLD if wire.already_subscribed(message.data) is not None else ""
            case gaiaex_messages.GaiaBook():
                return self._row(record, "books")
            case gaiaex_messages.Rejection():
                return ""
        return TOLD

    def _trades(self, record: Record, prints: list[wire.WirePrint], refused: set[str]) -> str:
        """Every print is stored, was stored before with the same values, or is in quarantine by its id."""
        self.prints += len(prints)
        for item in prints:
            instrument = self._id(item.coin)
            values = (item.px, item.sz, rows.SIDES.get(item.side, "unknown"))
            if f"{instrument} was not asked for" in refused:
                self.refused_prints += 1
            elif (
                str(item.tid) not in refused and self._prints.get((instrument, item.time, item.tid)) != values
            ):
                return ""
        return self._row(record, "trades") or KNOWN

    def _quote(self, record: Record, data: wire.BboData) -> str:
        quote = rows.quote_of(data)
        values = (quote.ts_ns // MS_NS, quote.bid, quote.ask, quote.bid_size, quote.ask_size)
        instrument = self._id(data.coin)
        if self._quotes.get(instrument) == values:
            return KNOWN
        self._quotes[instrument] = values
        return STORED if self._quote_rows.get(record.frame) == (instrument, values) else ""

    def _all_mids(self, record: Record, mids: list[tuple[str, Any]], refused: set[str]) -> str:
        is_stored = False
        for coin, values in mids:
            instrument = self._id(coin)
            if coin.startswith("#") or coin in refused or self._mids.get(instrument) == values:
                continue
            if self._mid_rows.get((record.frame, instrument)) != values:
                return ""
            self._mids[instrument] = values
            is_stored = True
        return STORED if is_stored else KNOWN

    def _dexs(
        self, record: Record, pairs: list[tuple[str, list[wire.AssetContext]]], refused: set[str]
    ) -> str:
        """A dex that does not fit its universe is refused whole; else each context is new, known or refused."""
        for dex, contexts in pairs:
            if dex in refused:
                continue
            for coin, context in self._pipeline.state.registry.pair_up(dex, contexts):
                instrument = self._id(coin)
                is_new = self._contexts.get(instrument) != context and instrument not in refused
                if is_new and record.frame not in self._frames["contexts"]:
                    return ""
                self._contexts[instrument] = context
        return self._row(record, "contexts") or KNOWN

    def _row(self, record: Record, table: str) -> str:
        return STORED if record.frame in self._frames[table] else ""

    def _id(self, coin: str) -> str:
        return self._pipeline.state.instrument(coin)


def _rows(tables: Table, name: str, *columns: str) -> list[dict[str, Any]]:
    return tables[name].select(columns).to_pylist() if name in tables else []


def _ms(when: Any) -> int:
    """Return a time of whole milliseconds as milliseconds since 1970."""
    whole_s: int = calendar.timegm(when.utctimetuple())
    return whole_s * 1_000 + int(when.microsecond) // 1_000


def _float(value: Any) -> float | None:
    return value if isinstance(value, float) else None
