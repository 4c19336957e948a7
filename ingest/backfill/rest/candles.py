"""Candles over REST, page by page, and the bars made of them.

`candleSnapshot` has traps that the paging handles:
- only the newest 5,000 candles of a width are served, so a minute is gone after 3.5 days: the oldest pages go first;
- an answer for too long a range holds its oldest part: if the end of a page is missing, the rest is requested again,
  until the answer is empty or complete;
- a minute without a trade may be left out, or be flat with volume 0 and no trade: neither is corrected here;
- the newest candle may still be open: candles that have not ended by the venue's clock are not requested.

Pages lie on a fixed grid, so that a backfill that was interrupted finds its steps by name. When all pages are in the
lake, steps without a request make bars of them, for all instruments of the venue together, since only together do
they show a halt (`ingest.bars.from_candles`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ingest.backfill.refused_candles import refused_candles
from ingest.backfill.rest.journaled_client import JournaledAnswer, JournaledClient
from ingest.backfill.rest.markets import BackfillMarket, resolve_markets
from ingest.backfill.runner import committed_keys
from ingest.backfill.source import BackfillRequest, BackfillStep, StepResult
from ingest.bars.from_candles import Absent, bars_of
from ingest.bars.print_shares import WIDE_REACH
from ingest.bars.reconciliation import INTERVALS
from ingest.venues.hyperliquid import messages as wire
from ingest.venues.hyperliquid.rate_limits import weight_of
from storage.clock import MS_NS, floor_ns, iso, width_ns
from storage.contracts.tables import CANDLES
from storage.errors import RangeError, SettingsError, VenueError
from storage.lake.lake import Lake
from storage.settings import Settings

SERVED: Final = 5_000
"""Candles of a width that the venue serves (venue docs, candle snapshot, read 2026-08-22)."""

_PAGE: Final = 1_000
_CHUNK: Final = 1_440
# Bars of so many steps before a chunk are made again with it: the first candles of a halt are too few to show it.
_REMADE_STEPS: Final = 240
# A silence of a reach is judged as it would be with all candles, however the range is cut into chunks.
_MARGIN_STEPS: Final = 2 * WIDE_REACH
_CANDLE_BYTES: Final = 140

_STORED_CANDLES: Final = """
    SELECT * FROM candles
    WHERE width = ? AND split_part(instrument, '|', 1) = ?
      AND ts_open >= make_timestamptz(? // 1000) AND ts_open < make_timestamptz(? // 1000)
    QUALIFY row_number() OVER (PARTITION BY instrument, ts_open ORDER BY ts_ingested_ns DESC, source DESC) = 1
"""
# From the first stored candle of an instrument to its last, within the range of the bars.
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
    """Candles of one width over REST, and the bars made of them."""

    def __init__(
        self,
        client: JournaledClient,
        lake: Lake,
        settings: Settings,
        *,
        width: str,
        absent: Absent = "unknown",
    ) -> None:
        """Prepare a source.

        Args:
            client: the venue, or a recording of its answers.
            lake: holds the candles for the bars.
            settings: name of the venue, and lag until a candle is knowable.
            width: of the candles.
            absent: meaning of a missing candle.

        Raises:
            SettingsError: the venue has no candles of that width.
        """
        if width not in INTERVALS:
            raise SettingsError(
                f"the venue has no candles of {width!r}",
                hint=f"--width is one of {', '.join(sorted(INTERVALS, key=width_ns))}",
            )
        self._client, self._lake, self._settings = client, lake, settings
        self._width, self._step_ns, self._absent = width, width_ns(width), absent
        self._lag_ns = settings.bars.history_lag_ms * MS_NS
        self._pages: dict[str, _Page] = {}
        self._chunks: dict[str, _Chunk] = {}
        self._from_ns = 0
        self._instruments: list[str] = []

    @property
    def from_ns(self) -> int:
        """Start of the pages: that of the request, or of the oldest served candle."""
        return self._from_ns

    async def steps(self, request: BackfillRequest) -> Sequence[BackfillStep]:
        """Return pages of candles, oldest first, and then the bars to make.

        Raises:
            VenueError: the venue cannot be reached.
            InstrumentError: it does not trade a coin.
            RangeError: it no longer has candles so old, or none has ended.
        """
        context = await resolve_markets(self._client, self._lake, self._settings, request.coins)
        step_ns = self._step_ns
        # The one that is still open counts among the newest.
        reach_ns = floor_ns(context.now_ns, step_ns) - (SERVED - 1) * step_ns
        from_ns = max(floor_ns(request.from_ns + step_ns - 1, step_ns), reach_ns)
        to_ns = min(floor_ns(request.to_ns, step_ns), floor_ns(context.now_ns, step_ns))
        if request.to_ns <= reach_ns:
            raise RangeError(
                f"the venue has no {self._width} candle before {iso(reach_ns)}: it serves the newest {SERVED:,}",
                hint="ask for a greater --width, or take an archive's",
            )
        if from_ns >= to_ns:
            raise RangeError(
                f"no {self._width} candle begins and ends between {iso(request.from_ns)} and {iso(request.to_ns)}, "
                f"by the venue's clock ({iso(context.now_ns)})",
                hint="wait until one has, or ask for an earlier time",
            )
        self._from_ns = from_ns
        self._instruments = [market.instrument for market in context.markets]
        venue, width = self._settings.record.venue, self._width
        steps = []
        for low_ns, high_ns in split_on_grid(from_ns, to_ns, _PAGE * step_ns):
            for market in context.markets:
                key = f"candles:{venue}:{market.instrument}:{width}:{low_ns // MS_NS}-{high_ns // MS_NS}"
                self._pages[key] = _Page(market, low_ns, high_ns)
                rows = (high_ns - low_ns) // step_ns
                about = f"{width} candles of {market.coin}, {iso(low_ns)} to {iso(high_ns)}"
                weight = weight_of({"type": "candleSnapshot"}, rows)
                steps.append(BackfillStep(key, about, weight, rows * _CANDLE_BYTES))
        names = hashlib.sha256("\n".join(sorted(self._instruments)).encode()).hexdigest()[:12]
        for low_ns, high_ns in split_on_grid(from_ns, to_ns, _CHUNK * step_ns):
            key = (
                f"candle bars:{venue}:{names}:{width}:{low_ns // MS_NS}-{high_ns // MS_NS}:"
                f"{self._absent}:{self._lag_ns}"
            )
            self._chunks[key] = _Chunk(low_ns, high_ns)
            steps.append(BackfillStep(key, f"{width} bars, {iso(low_ns)} to {iso(high_ns)}", size_bytes=0))
        return steps

    async def fetch(self, step: BackfillStep) -> StepResult:
        """Fetch a page of candles, or make the bars of a chunk.

        Raises:
            VenueError: the venue refuses, or its answer does not fit the request.
        """
        chunk = self._chunks.get(step.key)
        return self._make_bars(chunk) if chunk else await self._fetch_page(self._pages[step.key])

    async def _fetch_page(self, page: _Page) -> StepResult:
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
            answer = await self._client.ask({"type": "candleSnapshot", "req": req})
            recording = answer.recording
            frames.append(answer.frame)
            candles = self._parse_candles(answer, page, next_ns)
            if not candles:
                break
            rows += [self._row(candle, page.market, answer) for candle in candles]
            next_ns = candles[-1].t * MS_NS + self._step_ns
        since_us = page.market.begins_ns // 1_000
        table = CANDLES.rows([row for row in rows if row["ts_open"] >= since_us])
        return StepResult({"candles": table}, {"recording": recording, "frames": [frames[0], frames[-1]]})

    def _parse_candles(self, answer: JournaledAnswer, page: _Page, next_ns: int) -> list[wire.CandleData]:
        """Return the candles of an answer within a page, oldest first.

        Raises:
            VenueError: they have another coin or width, are off the grid, or out of order.
        """
        coin = page.market.coin
        try:
            # The venue answers `null` if it has no data of a coin.
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
        """Make bars of the stored candles; those around them and of other instruments measure the rhythm."""
        step_ns, lake = self._step_ns, self._lake
        low_ns = max(chunk.from_ns - _REMADE_STEPS * step_ns, self._from_ns)
        needed = [
            key for key, page in self._pages.items() if page.from_ns < chunk.to_ns and page.to_ns > low_ns
        ]
        if missing := len(needed) - len(committed_keys(lake, needed)):
            return StepResult(
                {}, absent=f"{missing} of its {len(needed)} pages of candles are not in the lake"
            )
        margin_ns = _MARGIN_STEPS * step_ns
        venue, first_ns, end_ns = self._settings.record.venue, low_ns - margin_ns, chunk.to_ns + margin_ns
        spans = lake.query(_SPANS, (low_ns, chunk.to_ns - step_ns, self._width, self._instruments))
        bars = bars_of(
            lake.query(_STORED_CANDLES, (self._width, venue, first_ns, end_ns)).select(CANDLES.schema.names),
            spans,
            width=self._width,
            step_ns=step_ns,
            lag_ns=self._lag_ns,
            absent=self._absent,
            refused=refused_candles(lake, venue, self._width, first_ns, end_ns),
        )
        return StepResult(
            {"bars": bars},
            {"candles": self._width, "pages": len(needed)},
            arrived_ns=self._client.received_ns,
        )


def split_on_grid(from_ns: int, to_ns: int, size_ns: int) -> list[tuple[int, int]]:
    """Return the parts of a span between grid lines.

    >>> split_on_grid(3, 12, 5)
    [(3, 5), (5, 10), (10, 12)]
    """
    lows = [from_ns, *range(floor_ns(from_ns, size_ns) + size_ns, to_ns, size_ns)]
    return list(zip(lows, [*lows[1:], to_ns], strict=True))
