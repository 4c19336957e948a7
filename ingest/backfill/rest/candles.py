"""How are the venue's own candles asked for, as far as it still has them?

`candleSnapshot` has traps, all of which a page here is made for:
- only the newest 5,000 candles of a width are served, so a minute is gone after 3.5 days: the oldest pages first;
- an answer to a span that is too long holds its oldest part: where a page's end is missing, it is asked for again
  from there, until the answer is empty or whole;
- a minute without a trade may be left out, or be there flat with volume 0 and no trade: neither is mended here;
- the newest candle may still be open: what has not ended by the venue's own clock is not asked for.

Pages lie on a grid of their own, so that a backfill which is cut off and started again finds its steps by name.
When all pages are in the lake, steps without a question make bars of them, all instruments of the venue together,
since only together do they show a halt (`ingest.bars.from_candles`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ingest.backfill.rest.journaled_client import JournaledAnswer, JournaledClient
from ingest.backfill.rest.markets import BackfillMarket, resolve_markets
from ingest.backfill.runner import committed
from ingest.backfill.source import BackfillRequest, BackfillStep, StepResult
from ingest.bars.from_candles import Absent, bars_of
from ingest.bars.reconciliation import INTERVALS
from ingest.venues.hyperliquid import messages as wire
from ingest.venues.hyperliquid.rate_limits import weight_of
from storage.clock import MS_NS, floor_ns, iso, width_ns
from storage.contracts.tables import CANDLES
from storage.errors import RangeError, SettingsError, VenueError
from storage.lake.lake import Lake
from storage.settings import Settings

REACH: Final = 5_000
"""Candles of a width that the venue serves (venue docs, candle snapshot, read 2026-08-22)."""

_PAGE: Final = 1_000
_CHUNK: Final = 1_440
# Bars of so many steps before a chunk are made again with it: only what came after them shows whether they were a halt.
_AGAIN: Final = 60
_CANDLE_BYTES: Final = 140

_HELD: Final = """
    SELECT * FROM candles
    WHERE width = ? AND split_part(instrument, '|', 1) = ?
      AND ts_open >= make_timestamptz(? // 1000) AND ts_open < make_timestamptz(? // 1000)
    QUALIFY row_number() OVER (PARTITION BY instrument, ts_open ORDER BY ts_ingested_ns DESC, source DESC) = 1
"""
# From the first candle that is held of an instrument to its last, as far as they lie within the bars to make.
_SPANS: Final = """
    SELECT instrument, greatest(min(epoch_us(ts_open)) * 1000, ?) AS first_ns,
           least(max(epoch_us(ts_open)) * 1000, ?) AS last_ns
    FROM candles WHERE width = ? AND list_contains(?, instrument)
    GROUP BY instrument HAVING first_ns <= last_ns ORDER BY instrument
"""


@dataclass(frozen=True, slots=True)
class _Page:
    market: BackfillMarket
    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    from_ns: int
    to_ns: int


class RestCandleSource:
    """Candles of one width, over REST, and the bars that they make."""

    def __init__(
        self, asks: JournaledClient, lake: Lake, settings: Settings, *, width: str, absent: Absent = "unknown"
    ) -> None:
        """Prepare.

        Args:
            asks: the venue, or a recording of its answers.
            lake: holds the candles of which bars are made.
            settings: the venue's name, and the lag after which a candle is knowable.
            width: of the candles.
            absent: what a candle means that the venue left out.

        Raises:
            SettingsError: the venue has no candles of that width.
        """
        if width not in INTERVALS:
            raise SettingsError(
                f"the venue has no candles of {width!r}",
                hint=f"--width is one of {', '.join(sorted(INTERVALS, key=width_ns))}",
            )
        self._asks, self._lake, self._settings = asks, lake, settings
        self._width, self._step_ns, self._absent = width, width_ns(width), absent
        self._lag_ns = settings.bars.history_lag_ms * MS_NS
        self._pages: dict[str, _Page] = {}
        self._chunks: dict[str, _Chunk] = {}
        self._from_ns = 0
        self._instruments: list[str] = []

    @property
    def from_ns(self) -> int:
        """Where the pages begin, once there are some: the wish's begin, or the oldest candle that is served."""
        return self._from_ns

    async def steps(self, wish: BackfillRequest) -> Sequence[BackfillStep]:
        """Return pages of candles, oldest first, and then the bars to make.

        Raises:
            VenueError: the venue cannot be reached.
            InstrumentError: it does not trade a coin.
            RangeError: it no longer has candles so old, or none has ended.
        """
        around = await resolve_markets(self._asks, self._lake, self._settings, wish.coins)
        step_ns = self._step_ns
        # The one that is still open counts among the newest.
        reach_ns = floor_ns(around.now_ns, step_ns) - (REACH - 1) * step_ns
        from_ns = max(floor_ns(wish.from_ns + step_ns - 1, step_ns), reach_ns)
        to_ns = min(floor_ns(wish.to_ns, step_ns), floor_ns(around.now_ns, step_ns))
        if wish.to_ns <= reach_ns:
            raise RangeError(
                f"the venue has no {self._width} candle before {iso(reach_ns)}: it serves the newest {REACH:,}",
                hint="ask for a greater --width, or take an archive's",
            )
        if from_ns >= to_ns:
            raise RangeError(
                f"no {self._width} candle begins and ends between {iso(wish.from_ns)} and {iso(wish.to_ns)}, "
                f"by the venue's clock ({iso(around.now_ns)})",
                hint="wait until one has, or ask for an earlier time",
            )
        self._from_ns = from_ns
        self._instruments = [market.instrument for market in around.markets]
        venue, width = self._settings.record.venue, self._width
        steps = []
        for low_ns, high_ns in cut(from_ns, to_ns, _PAGE * step_ns):
            for market in around.markets:
                key = f"candles:{venue}:{market.instrument}:{width}:{low_ns // MS_NS}-{high_ns // MS_NS}"
                self._pages[key] = _Page(market, low_ns, high_ns)
                rows = (high_ns - low_ns) // step_ns
                about = f"{width} candles of {market.coin}, {iso(low_ns)} to {iso(high_ns)}"
                weight = weight_of({"type": "candleSnapshot"}, rows)
                steps.append(BackfillStep(key, about, weight, rows * _CANDLE_BYTES))
        names = hashlib.sha256("\n".join(sorted(self._instruments)).encode()).hexdigest()[:12]
        for low_ns, high_ns in cut(from_ns, to_ns, _CHUNK * step_ns):
            key = (
                f"candle bars:{venue}:{names}:{width}:{low_ns // MS_NS}-{high_ns // MS_NS}:"
                f"{self._absent}:{self._lag_ns}"
            )
            self._chunks[key] = _Chunk(low_ns, high_ns)
            steps.append(BackfillStep(key, f"{width} bars, {iso(low_ns)} to {iso(high_ns)}", size_bytes=0))
        return steps

    async def take(self, step: BackfillStep) -> StepResult:
        """Ask for a page of candles, or make the bars of a chunk.

        Raises:
            VenueError: the venue refuses, or answers something else than was asked.
        """
        chunk = self._chunks.get(step.key)
        return self._make_bars(chunk) if chunk else await self._take_page(self._pages[step.key])

    async def _take_page(self, page: _Page) -> StepResult:
        rows: list[dict[str, Any]] = []
        frames: list[int] = []
        recording, next_ns = "", page.from_ns
        while next_ns < page.to_ns:
            req = {
                "coin": page.market.coin,
                "interval": self._width,
                "startTime": next_ns // MS_NS,
                "endTime": page.to_ns // MS_NS - 1,
            }
            answer = await self._asks.ask({"type": "candleSnapshot", "req": req})
            recording = answer.recording
            frames.append(answer.frame)
            candles = self._read(answer, page, next_ns)
            if not candles:
                break
            rows += [self._row(candle, page.market, answer) for candle in candles]
            next_ns = candles[-1].t * MS_NS + self._step_ns
        since_us = page.market.begins_ns // 1_000
        table = CANDLES.rows([row for row in rows if row["ts_open"] >= since_us])
        return StepResult({"candles": table}, {"recording": recording, "frames": [frames[0], frames[-1]]})

    def _read(self, answer: JournaledAnswer, page: _Page, next_ns: int) -> list[wire.CandleData]:
        """Return the candles of an answer within a page, oldest first.

        Raises:
            VenueError: they are of another coin or width, off the grid, or in another order.
        """
        coin = page.market.coin
        try:
            # The venue answers `null` about a coin of which it has nothing.
            candles = msgspec.json.decode(answer.body, type=list[wire.CandleData] | None, strict=False) or []
        except msgspec.MsgspecError as error:
            raise VenueError(f"the venue's candles of {coin} do not fit: {error}") from error
        last_ns = -1
        for candle in candles:
            open_ns = candle.t * MS_NS
            if (candle.s, candle.i) != (coin, self._width):
                raise VenueError(
                    f"a {candle.i} candle of {candle.s!r} came in an answer about {self._width} of {coin!r}"
                )
            if open_ns % self._step_ns or open_ns <= last_ns:
                raise VenueError(
                    f"the venue's {self._width} candles of {coin} are out of step at {iso(open_ns)}"
                )
            last_ns = open_ns
        return [candle for candle in candles if next_ns <= candle.t * MS_NS < page.to_ns]

    def _row(
        self, candle: wire.CandleData, market: BackfillMarket, answer: JournaledAnswer
    ) -> dict[str, Any]:
        return {
            "instrument": market.instrument,
            "width": self._width,
            "ts_open": candle.t * 1_000,
            "open": candle.o,
            "high": candle.h,
            "low": candle.l,
            "close": candle.c,
            "volume": candle.v,
            "trades": candle.n,
            "source": answer.source,
            "ts_knowable_ns": candle.t * MS_NS + self._step_ns + self._lag_ns,
        }

    def _make_bars(self, chunk: _Chunk) -> StepResult:
        """Make bars of what the lake holds; of instruments that were not wished for, only to tell halts."""
        step_ns, lake = self._step_ns, self._lake
        low_ns = max(chunk.from_ns - _AGAIN * step_ns, self._from_ns)
        needed = [
            key for key, page in self._pages.items() if page.from_ns < chunk.to_ns and page.to_ns > low_ns
        ]
        if lacking := len(needed) - len(committed(lake, needed)):
            return StepResult(
                {}, absent=f"{lacking} of its {len(needed)} pages of candles are not in the lake"
            )
        margin_ns = _CHUNK * step_ns
        held = (self._width, self._settings.record.venue, low_ns - margin_ns, chunk.to_ns + margin_ns)
        spans = lake.query(_SPANS, (low_ns, chunk.to_ns - step_ns, self._width, self._instruments))
        bars = bars_of(
            lake.query(_HELD, held).select(CANDLES.schema.names),
            spans,
            width=self._width,
            step_ns=step_ns,
            lag_ns=self._lag_ns,
            absent=self._absent,
        )
        return StepResult({"bars": bars}, {"candles": self._width, "pages": len(needed)})


def cut(from_ns: int, to_ns: int, size_ns: int) -> list[tuple[int, int]]:
    """Return the parts of a span between the lines of a grid.

    >>> cut(3, 12, 5)
    [(3, 5), (5, 10), (10, 12)]
    """
    lows = [from_ns, *range(floor_ns(from_ns, size_ns) + size_ns, to_ns, size_ns)]
    return list(zip(lows, [*lows[1:], to_ns], strict=True))
