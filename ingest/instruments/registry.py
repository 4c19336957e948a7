"""Registry of instruments: ids, generations and states, from the venues' answers.

The registry is given the venues' answers, as they stand in the journal, and returns a row of `instruments` for what
is new or changed. It is pure: the same answers give the same rows and ids, live and in replay.

When is a name a new instrument? An id must never span two contracts, or a return would. A name gets the next
generation (`~2` behind its id) when it trades again

- with other size decimals or at another position than the instrument that had the name, whether or not a delisting
  was seen in between: a venue keeps a row's position and lot size for as long as it is the same contract;
- after it was absent from the answers for longer than a day.

It stays the same instrument when it comes back unchanged: after `isDelisted` (a halted market of a deployer shows
so), or within a day of absence (one answer that lacked it is no delisting). Rejected: a new generation at every
relisting, which would cut the series of a market that was only halted; and none at all, since a recycled name has
other lots and another oracle (the venue's HIP-3 pages). The venue's answers do not distinguish a recycled contract
of the same name, position and lots from a halted one.
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
    convert_answer,
    dex_names,
    gaiaex_listings,
    parse_dexs,
    perp_listings,
    spot_listings,
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
class _KnownName:
    """Newest row of a name, and the generation of its id."""

    scope: ListingScope
    listed: ListedName
    state: str
    generation: int
    since_ns: int
    row_ns: int
    begins_ns: int = 0
    """Before this the name belonged to another contract."""


class InstrumentRegistry:
    """Instruments of Hyperliquid and GaiaEx, by their answers."""

    def __init__(self, venue: str = VENUE) -> None:
        """Start empty.

        Args:
            venue: name of Hyperliquid in instrument ids.
        """
        self._venue = venue
        self._known: dict[str, _KnownName] = {}
        self._metas: dict[str, Meta] = {}
        self._tokens: dict[int, str] = {}
        self._dexs: tuple[str, ...] = ()
        self._covered_scopes: set[ListingScope] = set()
        self._pending_requests: dict[str, dict[str, Any]] = {}

    # Answers of the venues.

    def apply_answer(self, request: Mapping[str, Any], response: object, now_ns: int) -> list[dict[str, Any]]:
        """Apply an answer; return rows of `instruments` for what is new or changed.

        Args:
            request: the body of `POST /info`, or `gaiaex.question(...)`; other requests have no effect.
            response: the answer's JSON.
            now_ns: receipt of the answer.

        Raises:
            VenueError: the answer does not fit, or lists nothing where something was listed; it is not applied.
        """
        match request.get("type"):
            case "meta":
                return self._apply_metas({_dex(request): convert_answer(response, Meta, "meta")}, now_ns)
            case "metaAndAssetCtxs":
                meta, _ = convert_answer(response, tuple[Meta, Any], "metaAndAssetCtxs")
                return self._apply_metas({_dex(request): meta}, now_ns)
            case "allPerpMetas":
                metas = convert_answer(response, list[Meta], "allPerpMetas")
                named = zip(dex_names(metas, self._dexs), metas, strict=True)
                return self._apply_metas({dex: meta for dex, meta in named if dex is not None}, now_ns)
            case "perpDexs":
                return self._apply_dexs(parse_dexs(response), now_ns)
            case "spotMeta":
                return self._apply_spot(convert_answer(response, SpotMeta, "spotMeta"), now_ns)
            case "spotMetaAndAssetCtxs":
                spot, _ = convert_answer(response, tuple[SpotMeta, Any], "spotMetaAndAssetCtxs")
                return self._apply_spot(spot, now_ns)
            case gaiaex.VENUE:
                found = gaiaex_listings(str(request.get("path")), response)
                return self._refresh(*found, now_ns) if found else []
        return []

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Restore rows of `instruments` from earlier recordings; the newest row of a name is in force.

        The row before a recycled name's tells when the name became free.
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
            previous = self._known.get(base)
            begins_ns = 0
            if previous is not None:
                begins_ns = previous.since_ns if previous.generation < generation else previous.begins_ns
            self._known[base] = _KnownName(scope, listed, state, generation, at_ns, at_ns, begins_ns)

    # Queries.

    def instrument_id(self, coin: str, venue: str | None = None) -> str:
        """Return the id of the instrument that has a name now (default venue: Hyperliquid)."""
        base = instrument_id(coin, venue or self._venue)
        known = self._known.get(base)
        return base if known is None else _with_generation(base, known.generation)

    def begins_ns(self, instrument: str) -> int:
        """Return the instant before which an instrument's name belonged to another contract; 0 if it never did.

        The venue resends trades by name, including those of the previous contract.
        """
        base, generation = _without_generation(instrument)
        known = self._known.get(base)
        return known.begins_ns if known is not None and known.generation == generation else 0

    def is_listed(self, instrument: str) -> bool:
        """Return whether an instrument trades; one that no answer covers yet counts as trading."""
        base, generation = _without_generation(instrument)
        known = self._known.get(base)
        if known is not None:
            return known.state == "listed" and known.generation == generation
        venue, kind, symbol = base.split("|", 2)
        dex = _scope_dex(venue, symbol)
        # Once the dexes are known, a name on another dex is misspelt (dex names are byte-exact too).
        is_known_dex = not (dex and self._dexs) or dex in self._dexs
        return is_known_dex and ListingScope(venue, kind, dex) not in self._covered_scopes

    def listed(self, venue: str | None = None) -> tuple[str, ...]:
        """Return the names that trade on a venue (default: Hyperliquid), by dex and first listing."""
        chosen = venue or self._venue
        return tuple(
            known.listed.symbol
            for known in self._known.values()
            if known.state == "listed" and known.scope.venue == chosen
        )

    def universe(self, dex: str = "") -> tuple[str, ...]:
        """Return a dex's names by position, including delisted ones; empty before its `meta` was answered."""
        meta = self._metas.get(dex)
        return tuple(item.name for item in meta.universe) if meta else ()

    def pair_up(self, dex: str, contexts: Sequence[T]) -> list[tuple[str, T]]:
        """Return the names of contexts that a message lists by position only.

        Raises:
            VenueError: the universe of the dex is unknown or has another length, so that names would be wrong;
                `pending_requests` then holds the request for it.
        """
        names = self.universe(dex)
        if len(names) != len(contexts):
            self._pending_requests[dex] = {"type": "meta", "dex": dex} if dex else {"type": "meta"}
            raise VenueError(
                f"{len(contexts)} contexts of dex {dex!r} cannot be named: its universe has {len(names)} names"
            )
        return list(zip(names, contexts, strict=True))

    @property
    def pending_requests(self) -> list[dict[str, Any]]:
        """Requests for universes that were missing or outdated; each stays until it is answered."""
        return list(self._pending_requests.values())

    def expand(
        self, patterns: Iterable[str], venue: str | None = None, *, leaves_out_gone: bool = False
    ) -> tuple[str, ...]:
        """Return the names that match patterns, each once, in the order of the patterns.

        A name matches itself, byte-exact; `*`, `xyz:*` and `@*` match what trades now. Outcomes (`#`) match only by
        name.

        Args:
            patterns: names and patterns.
            venue: where the names trade (default: Hyperliquid).
            leaves_out_gone: leave out delisted names and patterns that match nothing, instead of an error: a
                recorder must outlive its instruments, and go on when they return.

        Raises:
            InstrumentError: a name does not trade, or a pattern matches nothing; the hint names the nearest.
        """
        chosen = venue or self._venue

        def is_gone(name: str) -> bool:
            is_known = instrument_id(name, chosen) in self._known or bool(_GLOB & set(name))
            return leaves_out_gone and is_known

        return expand(
            patterns, self.listed(chosen), chosen, lambda name: self._refusal(name, chosen), is_gone=is_gone
        )

    def _apply_metas(self, metas: Mapping[str, Meta], now_ns: int) -> list[dict[str, Any]]:
        listed = {dex: perp_listings(meta, self._tokens) for dex, meta in metas.items()}
        for dex, names in listed.items():
            self._refuse_empty(ListingScope(self._venue, "perp", dex), names)
        rows = []
        for dex, names in listed.items():
            self._metas[dex] = metas[dex]
            self._pending_requests.pop(dex, None)
            rows += self._refresh(ListingScope(self._venue, "perp", dex), names, now_ns)
        return rows

    def _apply_spot(self, spot: SpotMeta, now_ns: int) -> list[dict[str, Any]]:
        rows = self._refresh(ListingScope(self._venue, "spot", ""), spot_listings(spot), now_ns)
        self._tokens = {token.index: token.name for token in spot.tokens}
        # The margin tokens have names now.
        for dex, meta in self._metas.items():
            rows += self._refresh(
                ListingScope(self._venue, "perp", dex), perp_listings(meta, self._tokens), now_ns
            )
        return rows

    def _apply_dexs(self, dexs: tuple[str, ...], now_ns: int) -> list[dict[str, Any]]:
        if not dexs:
            raise VenueError("the venue's perpDexs is empty")
        self._dexs = dexs
        scopes = {known.scope for known in self._known.values()}
        gone = sorted(s for s in scopes if s.venue == self._venue and s.kind == "perp" and s.dex not in dexs)
        rows = []
        for scope in gone:
            self._metas.pop(scope.dex, None)
            rows += self._mark_absent(scope, set(), now_ns)
        return rows

    def _refresh(self, scope: ListingScope, names: Sequence[ListedName], now_ns: int) -> list[dict[str, Any]]:
        """Compare an answer with the known names of its scope."""
        self._refuse_empty(scope, names)
        self._covered_scopes.add(scope)
        # A recycled name may occur twice, once delisted: it belongs to the row that trades.
        found: dict[str, ListedName] = {}
        for item in sorted(names, key=lambda item: not item.is_delisted):
            found[f"{scope.venue}|{kind_of(item.symbol)}|{item.symbol}"] = item
        rows = []
        for item in names:
            base = f"{scope.venue}|{kind_of(item.symbol)}|{item.symbol}"
            if found.get(base) is item:
                rows += self._update_name(base, scope, item, now_ns)
        return rows + self._mark_absent(scope, set(found), now_ns)

    def _refuse_empty(self, scope: ListingScope, names: Sequence[ListedName]) -> None:
        if not names and any(h.scope == scope and h.state == "listed" for h in self._known.values()):
            what = f"{scope.venue} {scope.kind} {scope.dex}".rstrip()
            raise VenueError(f"the answer lists nothing for {what}, where something traded before")

    def _update_name(
        self, base: str, scope: ListingScope, item: ListedName, now_ns: int
    ) -> list[dict[str, Any]]:
        state = "delisted" if item.is_delisted else "listed"
        known = self._known.get(base)
        if known is not None and item.quote is None:
            # This answer does not state the quote token; an earlier one did.
            item = dataclasses.replace(item, quote=known.listed.quote)
        if known is None:
            self._known[base] = _KnownName(scope, item, state, 1, now_ns, 0)
        elif _is_recycled(known, item, now_ns):
            begins_ns = now_ns if known.state == "listed" else known.since_ns
            rows = self._end(base, known, now_ns)
            self._known[base] = _KnownName(scope, item, state, known.generation + 1, now_ns, 0, begins_ns)
            return [*rows, self._row(base, now_ns)]
        elif (known.listed, known.state) == (item, state):
            return []
        else:
            known.listed, known.state, known.since_ns = item, state, now_ns
        return [self._row(base, now_ns)]

    def _end(self, base: str, known: _KnownName, now_ns: int) -> list[dict[str, Any]]:
        """End an instrument whose name another one has taken, unless it had ended before."""
        if known.state != "listed":
            return []
        known.state = "delisted"
        return [self._row(base, now_ns)]

    def _mark_absent(self, scope: ListingScope, present: set[str], now_ns: int) -> list[dict[str, Any]]:
        rows = []
        for base, known in self._known.items():
            if known.scope == scope and base not in present and known.state != "absent":
                known.state, known.since_ns = "absent", now_ns
                rows.append(self._row(base, now_ns))
        return rows

    def _row(self, base: str, now_ns: int) -> dict[str, Any]:
        known = self._known[base]
        # Two answers may arrive at one instant, and the key of a row is its instrument and time.
        known.row_ns = max(now_ns, known.row_ns + 1)
        return {
            "instrument": _with_generation(base, known.generation),
            "venue": known.scope.venue,
            "kind": kind_of(known.listed.symbol),
            "symbol": known.listed.symbol,
            "dex": _dex_of(known.listed.symbol),
            "asset_index": known.listed.asset_index,
            "size_decimals": known.listed.size_decimals,
            "quote": known.listed.quote,
            "max_leverage": known.listed.max_leverage,
            "state": known.state,
            "is_delisted": known.state != "listed",
            "generation": known.generation,
            "session": calendar_of(base),
            "ts_knowable_ns": known.row_ns,
        }

    def _refusal(self, coin: str, venue: str) -> str:
        """Return why a name cannot be recorded, or an empty string; a name that no answer covers is accepted."""
        if self.is_listed(self.instrument_id(coin, venue)):
            return ""
        return "is delisted" if instrument_id(coin, venue) in self._known else "is not listed"


def _is_recycled(known: _KnownName, item: ListedName, now_ns: int) -> bool:
    """Return whether a name that trades is another contract than before; the module states the rule."""
    if item.is_delisted:
        return False
    was = known.listed
    pairs = ((was.size_decimals, item.size_decimals), (was.asset_index, item.asset_index))
    if any(a is not None and b is not None and a != b for a, b in pairs):
        return True
    return known.state == "absent" and now_ns - known.since_ns > DAY_NS


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
