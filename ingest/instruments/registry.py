"""Which instruments exist, since when, under which id?

The registry is fed with the venues' own answers, as they stand in the journal, and gives a row of `instruments` for
what is new or changed. It is pure: the same answers give the same rows and ids, live and in replay.

When is a name a new instrument? An id must never span two contracts, or a return would. A name gets the next
generation (`~2` behind its id) when it trades again

- with other size decimals or at another position than the instrument that had the name, whether that was seen to be
  delisted in between or not: a venue keeps a row's position and lot size for as long as it is the same contract;
- after it was absent from the answers for longer than a day.

It stays the same instrument when it comes back unchanged: after `isDelisted` (a halted market of a deployer shows
so), or within a day of absence (one answer that lacked it is no delisting). Rejected: a new generation at every
relisting, which would cut the series of a market that was only halted; and none at all, since a recycled name has
other lots and another oracle (the venue's HIP-3 pages). A recycled contract of the same name, position and lots
cannot be told from a halted one by the venue's answers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ingest.instruments.listings import (
    ListedName,
    ListingScope,
    SpotMeta,
    dex_names,
    fit,
    gaia_listed,
    parse_dexs,
    perps,
    spots,
)
from ingest.instruments.patterns import expand
from ingest.instruments.trading_calendar import calendar_of
from ingest.venues.gaiaex import protocol as gaiaex
from ingest.venues.hyperliquid.protocol import VENUE, Meta, instrument_id, kind_of
from storage.clock import DAY_NS
from storage.errors import VenueError

T = TypeVar("T")

_GLOB: Final = frozenset("*?[")
_GENERATION: Final = re.compile(r"^(.*)~([2-9]|[1-9][0-9]+)$")


@dataclass(slots=True)
class _Held:
    """What is known of a name: its newest row, and its id's generation."""

    scope: ListingScope
    listed: ListedName
    state: str
    generation: int
    since_ns: int
    row_ns: int
    begins_ns: int = 0
    """Before this the name was another contract's."""


class InstrumentRegistry:
    """Knows the instruments of Hyperliquid and GaiaEx by what they answered."""

    def __init__(self, venue: str = VENUE) -> None:
        """Start knowing nothing.

        Args:
            venue: what Hyperliquid is called in instrument ids.
        """
        self._venue = venue
        self._held: dict[str, _Held] = {}
        self._metas: dict[str, Meta] = {}
        self._tokens: dict[int, str] = {}
        self._dexs: tuple[str, ...] = ()
        self._spoken: set[ListingScope] = set()
        self._wishes: dict[str, dict[str, Any]] = {}

    # What the venues answered.

    def take(self, request: Mapping[str, Any], response: object, now_ns: int) -> list[dict[str, Any]]:
        """Learn from an answer; return rows of `instruments` for what is new or changed.

        Args:
            request: the body of `POST /info`, or `gaiaex.question(...)`; other questions teach nothing.
            response: the answer's JSON.
            now_ns: when it arrived.

        Raises:
            VenueError: the answer does not fit, or lists nothing where something was listed. Nothing is learnt then.
        """
        match request.get("type"):
            case "meta":
                return self._take_metas({_dex(request): fit(response, Meta, "meta")}, now_ns)
            case "metaAndAssetCtxs":
                meta, _ = fit(response, tuple[Meta, Any], "metaAndAssetCtxs")
                return self._take_metas({_dex(request): meta}, now_ns)
            case "allPerpMetas":
                metas = fit(response, list[Meta], "allPerpMetas")
                named = zip(dex_names(metas, self._dexs), metas, strict=True)
                return self._take_metas({dex: meta for dex, meta in named if dex is not None}, now_ns)
            case "perpDexs":
                return self._take_dexs(parse_dexs(response), now_ns)
            case "spotMeta":
                return self._take_spot(fit(response, SpotMeta, "spotMeta"), now_ns)
            case "spotMetaAndAssetCtxs":
                spot, _ = fit(response, tuple[SpotMeta, Any], "spotMetaAndAssetCtxs")
                return self._take_spot(spot, now_ns)
            case gaiaex.VENUE:
                found = gaia_listed(str(request.get("path")), response)
                return self._refresh(*found, now_ns) if found else []
        return []

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take over what earlier recordings wrote: rows of `instruments`, of which the newest of a name holds.

        The one before a recycled name's tells when the name became free.
        """
        for row in sorted(rows, key=lambda row: (row["generation"] or 1, row["ts_knowable_ns"])):
            base = f"{row['venue']}|{row['kind']}|{row['symbol']}"
            # Rows of the first release have neither state nor generation.
            state = row["state"] or ("delisted" if row["is_delisted"] else "listed")
            listed = ListedName(
                row["symbol"],
                row["asset_index"],
                row["size_decimals"],
                row["quote"],
                row["max_leverage"],
                state == "delisted",
            )
            at_ns = row["ts_knowable_ns"]
            scope = ListingScope(row["venue"], row["kind"], _scope_dex(row["venue"], row["symbol"]))
            generation = row["generation"] or 1
            before = self._held.get(base)
            begins_ns = 0
            if before is not None:
                begins_ns = before.since_ns if before.generation < generation else before.begins_ns
            self._held[base] = _Held(scope, listed, state, generation, at_ns, at_ns, begins_ns)

    # What is known.

    def instrument_id(self, coin: str, venue: str | None = None) -> str:
        """Return the id of the instrument that has a name now; `venue` is Hyperliquid unless given."""
        base = instrument_id(coin, venue or self._venue)
        held = self._held.get(base)
        return base if held is None else _with_generation(base, held.generation)

    def begins_ns(self, instrument: str) -> int:
        """Return the instant before which an instrument's name was another contract's; 0 where it never was.

        The venue resends prints by name, those of the contract before among them.
        """
        base, generation = _without_generation(instrument)
        held = self._held.get(base)
        return held.begins_ns if held is not None and held.generation == generation else 0

    def is_listed(self, instrument: str) -> bool:
        """Say whether an instrument trades; what no answer has spoken of yet counts as trading."""
        base, generation = _without_generation(instrument)
        held = self._held.get(base)
        if held is not None:
            return held.state == "listed" and held.generation == generation
        venue, kind, symbol = base.split("|", 2)
        dex = _scope_dex(venue, symbol)
        # Where the dexes are known, a name on another one is a name misspelt (they are byte-exact too).
        is_known_dex = not (dex and self._dexs) or dex in self._dexs
        return is_known_dex and ListingScope(venue, kind, dex) not in self._spoken

    def listed(self, venue: str | None = None) -> tuple[str, ...]:
        """Return the names that trade on a venue (Hyperliquid unless given), dex by dex as they were first listed."""
        chosen = venue or self._venue
        return tuple(
            held.listed.symbol
            for held in self._held.values()
            if held.state == "listed" and held.scope.venue == chosen
        )

    def universe(self, dex: str = "") -> tuple[str, ...]:
        """Return a dex's names by position, delisted ones among them; empty before its `meta` was answered."""
        meta = self._metas.get(dex)
        return tuple(item.name for item in meta.universe) if meta else ()

    def pair_up(self, dex: str, contexts: Sequence[T]) -> list[tuple[str, T]]:
        """Name contexts that a message gives by position only.

        Raises:
            VenueError: the dex's universe is not known or has another length, so that every name behind a new one
                would be wrong; `wishes` then asks for it anew.
        """
        names = self.universe(dex)
        if len(names) != len(contexts):
            self._wishes[dex] = {"type": "meta", "dex": dex} if dex else {"type": "meta"}
            raise VenueError(
                f"{len(contexts)} contexts of dex {dex!r} cannot be named: its universe has {len(names)} names"
            )
        return list(zip(names, contexts, strict=True))

    @property
    def wishes(self) -> list[dict[str, Any]]:
        """Questions whose answer would mend what could not be named; each stands until it is answered."""
        return list(self._wishes.values())

    def expand(
        self, patterns: Iterable[str], venue: str | None = None, *, leaves_out_gone: bool = False
    ) -> tuple[str, ...]:
        """Return the names that patterns stand for, each once, in the order asked.

        A name stands for itself, byte-exact; `*`, `xyz:*` and `@*` stand for what trades now and fits. Outcomes (`#`)
        come only by name.

        Args:
            patterns: names and patterns.
            venue: Hyperliquid unless given.
            leaves_out_gone: a name that was listed once, and a pattern, may stand for nothing: a recorder must
                outlive what it records, and go on with it when it is back.

        Raises:
            InstrumentError: a name does not trade, or a pattern fits nothing; the hint names the nearest.
        """
        chosen = venue or self._venue

        def is_gone(name: str) -> bool:
            is_known = instrument_id(name, chosen) in self._held or bool(_GLOB & set(name))
            return leaves_out_gone and is_known

        return expand(
            patterns, self.listed(chosen), chosen, lambda name: self._fate(name, chosen), is_gone=is_gone
        )

    # How.

    def _take_metas(self, metas: Mapping[str, Meta], now_ns: int) -> list[dict[str, Any]]:
        listed = {dex: perps(meta, self._tokens) for dex, meta in metas.items()}
        for dex, names in listed.items():
            self._refuse_empty(ListingScope(self._venue, "perp", dex), names)
        rows = []
        for dex, names in listed.items():
            self._metas[dex] = metas[dex]
            self._wishes.pop(dex, None)
            rows += self._refresh(ListingScope(self._venue, "perp", dex), names, now_ns)
        return rows

    def _take_spot(self, spot: SpotMeta, now_ns: int) -> list[dict[str, Any]]:
        rows = self._refresh(ListingScope(self._venue, "spot", ""), spots(spot), now_ns)
        self._tokens = {token.index: token.name for token in spot.tokens}
        # Now the margin tokens have names.
        for dex, meta in self._metas.items():
            rows += self._refresh(ListingScope(self._venue, "perp", dex), perps(meta, self._tokens), now_ns)
        return rows

    def _take_dexs(self, dexs: tuple[str, ...], now_ns: int) -> list[dict[str, Any]]:
        if not dexs:
            raise VenueError("the venue's perpDexs is empty")
        self._dexs = dexs
        scopes = {held.scope for held in self._held.values()}
        gone = sorted(s for s in scopes if s.venue == self._venue and s.kind == "perp" and s.dex not in dexs)
        rows = []
        for scope in gone:
            self._metas.pop(scope.dex, None)
            rows += self._drop(scope, set(), now_ns)
        return rows

    def _refresh(self, scope: ListingScope, names: Sequence[ListedName], now_ns: int) -> list[dict[str, Any]]:
        """Compare a scope with what is held of it."""
        self._refuse_empty(scope, names)
        self._spoken.add(scope)
        # A recycled name may stand twice, once delisted: the row that trades has the name.
        found: dict[str, ListedName] = {}
        for item in sorted(names, key=lambda item: not item.is_delisted):
            found[f"{scope.venue}|{kind_of(item.symbol)}|{item.symbol}"] = item
        rows = []
        for item in names:
            base = f"{scope.venue}|{kind_of(item.symbol)}|{item.symbol}"
            if found.get(base) is item:
                rows += self._see(base, scope, item, now_ns)
        return rows + self._drop(scope, set(found), now_ns)

    def _refuse_empty(self, scope: ListingScope, names: Sequence[ListedName]) -> None:
        if not names and any(h.scope == scope and h.state == "listed" for h in self._held.values()):
            what = f"{scope.venue} {scope.kind} {scope.dex}".rstrip()
            raise VenueError(f"the answer lists nothing for {what}, where something traded before")

    def _see(self, base: str, scope: ListingScope, item: ListedName, now_ns: int) -> list[dict[str, Any]]:
        state = "delisted" if item.is_delisted else "listed"
        held = self._held.get(base)
        if held is not None and item.quote is None:
            item = dataclasses.replace(item, quote=held.listed.quote)  # not said here is not unsaid
        if held is None:
            self._held[base] = _Held(scope, item, state, 1, now_ns, 0)
        elif _is_recycled(held, item, now_ns):
            begins_ns = now_ns if held.state == "listed" else held.since_ns
            rows = self._end(base, held, now_ns)
            self._held[base] = _Held(scope, item, state, held.generation + 1, now_ns, 0, begins_ns)
            return [*rows, self._row(base, now_ns)]
        elif (held.listed, held.state) == (item, state):
            return []
        else:
            held.listed, held.state, held.since_ns = item, state, now_ns
        return [self._row(base, now_ns)]

    def _end(self, base: str, held: _Held, now_ns: int) -> list[dict[str, Any]]:
        """Close an instrument whose name another one has taken, unless it had ended before."""
        if held.state != "listed":
            return []
        held.state = "delisted"
        return [self._row(base, now_ns)]

    def _drop(self, scope: ListingScope, present: set[str], now_ns: int) -> list[dict[str, Any]]:
        rows = []
        for base, held in self._held.items():
            if held.scope == scope and base not in present and held.state != "absent":
                held.state, held.since_ns = "absent", now_ns
                rows.append(self._row(base, now_ns))
        return rows

    def _row(self, base: str, now_ns: int) -> dict[str, Any]:
        held = self._held[base]
        # Answers may arrive at one instant, and a row's key is its instrument and time.
        held.row_ns = max(now_ns, held.row_ns + 1)
        return {
            "instrument": _with_generation(base, held.generation),
            "venue": held.scope.venue,
            "kind": kind_of(held.listed.symbol),
            "symbol": held.listed.symbol,
            "dex": _dex_of(held.listed.symbol),
            "asset_index": held.listed.asset_index,
            "size_decimals": held.listed.size_decimals,
            "quote": held.listed.quote,
            "max_leverage": held.listed.max_leverage,
            "state": held.state,
            "is_delisted": held.state != "listed",
            "generation": held.generation,
            "session": calendar_of(base),
            "ts_knowable_ns": held.row_ns,
        }

    def _fate(self, coin: str, venue: str) -> str:
        """Return why a name cannot be recorded, or nothing; one that no answer spoke of is taken as written."""
        if self.is_listed(self.instrument_id(coin, venue)):
            return ""
        return "is delisted" if instrument_id(coin, venue) in self._held else "is not listed"


def _is_recycled(held: _Held, item: ListedName, now_ns: int) -> bool:
    """Say whether a name that trades is another contract than the one that had it; see the module for the rule."""
    if item.is_delisted:
        return False
    was = held.listed
    pairs = ((was.size_decimals, item.size_decimals), (was.asset_index, item.asset_index))
    if any(a is not None and b is not None and a != b for a, b in pairs):
        return True
    return held.state == "absent" and now_ns - held.since_ns > DAY_NS


def _dex(request: Mapping[str, Any]) -> str:
    return str(request.get("dex") or "")


def _dex_of(symbol: str) -> str:
    return symbol.partition(":")[0] if ":" in symbol else ""


def _scope_dex(venue: str, symbol: str) -> str:
    return "" if venue == gaiaex.VENUE else _dex_of(symbol)  # GaiaEx lists all dexes in one answer


def _with_generation(base: str, generation: int) -> str:
    return base if generation == 1 else f"{base}~{generation}"


def _without_generation(instrument: str) -> tuple[str, int]:
    match = _GENERATION.match(instrument)
    return (match[1], int(match[2])) if match else (instrument, 1)
