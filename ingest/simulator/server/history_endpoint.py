"""A recorded history of candles and funding as a source, with the limits of the venue's answers.

A `RecordedHistory` is a source without trades: time stands still at its instant, and the past is requested by
`POST /info`. As the venue does, it serves the newest 5,000 candles of a width, the oldest part of a range first if
it exceeds one answer, and includes the candle that is still open.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from ingest.simulator.market.universe import SimulatedListing
from ingest.simulator.wire.candles import INTERVAL_MINUTES, KEPT, MINUTE_MS
from ingest.simulator.wire.encoder import Block, SimulatedFunding, exact_text
from storage.clock import MS_NS

ANSWERED: Final = 500
"""Candles of one answer: venues of this kind answer 500 or 5,000; the smaller limit is the harder case."""


class RecordedCandle(NamedTuple):
    """One candle of a file."""

    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int


class RecordedHistory:
    """History of a venue, as a source for `SimulatedVenue`.

    Args:
        now_ns: the instant at which its time stands still; later candles and payments are not served.
        candles: by coin and interval, oldest first.
        fundings: paid funding.
        answered: most candles of one answer.
        coins: the universe (default: the coins of candles and fundings).
    """

    makes_books = True
    tail_ns = 0
    seed = 0

    def __init__(
        self,
        now_ns: int,
        candles: Mapping[tuple[str, str], Sequence[RecordedCandle]] | None = None,
        fundings: Iterable[SimulatedFunding] = (),
        *,
        answered: int = ANSWERED,
        coins: Sequence[str] = (),
    ) -> None:
        self.start_ns = now_ns
        self.end_ns: int | None = now_ns
        self._answered = answered
        now_ms = now_ns // MS_NS
        self._candles: dict[tuple[str, str], list[RecordedCandle]] = {}
        for key, rows in (candles or {}).items():
            self._candles[key] = [row for row in rows if row.open_ms <= now_ms]
        self.fundings = tuple(row for row in fundings if row.time_ms <= now_ms)
        names = dict.fromkeys(
            [*coins, *(coin for coin, _ in self._candles), *(row.coin for row in self.fundings)]
        )
        self.listings = tuple(SimulatedListing(name, 5, 1, 40) for name in names)

    def blocks(self) -> Iterator[Block]:
        """Yield nothing, since time stands still."""
        yield from ()

    def candles(self, coin: str, interval: str, start_ms: int, end_ms: int) -> list[str]:
        """Return candles that open in `start_ms .. end_ms`, oldest first, as wire text; no more than one answer's."""
        rows = self._candles.get((coin, interval), [])[-KEPT:]
        opens = [row.open_ms for row in rows]
        low, high = bisect_left(opens, start_ms), bisect_right(opens, end_ms)
        return [_text(coin, interval, row) for row in rows[low:high][: self._answered]]


def _text(coin: str, interval: str, row: RecordedCandle) -> str:
    end_ms = row.open_ms + INTERVAL_MINUTES[interval] * MINUTE_MS - 1
    return (
        f'{{"t":{row.open_ms},"T":{end_ms},"s":"{coin}","i":"{interval}","o":"{exact_text(row.open)}",'
        f'"c":"{exact_text(row.close)}","h":"{exact_text(row.high)}","l":"{exact_text(row.low)}",'
        f'"v":"{exact_text(row.volume)}","n":{row.trades}}}'
    )
