"""Funding payments over REST, with the interval that each payment was for.

`fundingHistory` returns 500 rows a page, oldest first; `time` lies up to some minutes behind the full hour, and is
kept. The interval of a payment is not stated: the venue paid every 8 hours until 2023-06-08 and every hour since (read
from recorded rows). It is derived from the spacing, such that a missing payment (all coins lack some at once) does not
lengthen an interval: a payment is for 8 hours where two consecutive spacings, at least one of them before it, are 8
hours; else for one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ingest.backfill.rest.candles import split_on_grid
from ingest.backfill.rest.journaled_client import JournaledAnswer, JournaledClient
from ingest.backfill.rest.markets import BackfillMarket, resolve_markets
from ingest.backfill.source import BackfillRequest, BackfillStep, StepResult
from ingest.venues.hyperliquid.protocol import kind_of
from ingest.venues.hyperliquid.rate_limits import weight_of
from storage.clock import DAY_NS, MS_NS, NS, iso, parse_time_ns
from storage.contracts.tables import FUNDING
from storage.errors import InstrumentError, RangeError, VenueError
from storage.lake.lake import Lake
from storage.settings import Settings

FIRST_NS: Final = parse_time_ns("2023-05-12")
"""First payment that the venue still serves."""

_HOUR_MS: Final = 3_600_000
_LONG_H: Final = 8
# Two intervals of 8 h and the longest observed delay: the context that a page needs on both sides.
_CONTEXT_NS: Final = 17 * 3_600 * NS
_PAGE_ROWS: Final = 500
# With its context a page of hourly payments fits into one answer of the venue.
_PAGE_NS: Final = 19 * DAY_NS
_ROW_BYTES: Final = 95


class FundingPayment(msgspec.Struct):
    """One payment: decimal strings, and ms since 1970."""

    coin: str
    fundingRate: float  # noqa: N815 - the venue's name
    time: int
    premium: float | None = None


@dataclass(frozen=True, slots=True)
class _Page:
    market: BackfillMarket
    from_ns: int
    to_ns: int


class RestFundingSource:
    """Paid funding over REST."""

    def __init__(self, client: JournaledClient, lake: Lake, settings: Settings) -> None:
        """Prepare a source.

        Args:
            client: the venue, or a recording of its answers.
            lake: for recycled names.
            settings: name of the venue, and lag until history is knowable.
        """
        self._client, self._lake, self._settings = client, lake, settings
        self._pages: dict[str, _Page] = {}
        self._now_ns = 0

    async def steps(self, request: BackfillRequest) -> Sequence[BackfillStep]:
        """Return pages of payments, oldest first.

        Raises:
            VenueError: the venue cannot be reached.
            InstrumentError: the venue does not trade a coin.
            RangeError: there was no funding in the range.
        """
        context = await resolve_markets(self._client, self._lake, self._settings, request.coins)
        self._now_ns = context.now_ns
        markets = [market for market in context.markets if kind_of(market.coin) == "perp"]
        if not markets:
            raise InstrumentError("only perpetuals pay funding", hint="name one with --coin")
        from_ns, to_ns = max(request.from_ns, FIRST_NS), min(request.to_ns, context.now_ns)
        if from_ns >= to_ns:
            raise RangeError(
                f"there is no funding between {iso(request.from_ns)} and {iso(request.to_ns)}: "
                f"the first payment is at {iso(FIRST_NS)}, and the venue's clock says {iso(context.now_ns)}",
                hint="ask for a later --to",
            )
        steps = []
        for low_ns, high_ns in split_on_grid(from_ns, to_ns, _PAGE_NS):
            for market in markets:
                key = f"funding:{self._settings.record.venue}:{market.instrument}:{low_ns // MS_NS}-{high_ns // MS_NS}"
                self._pages[key] = _Page(market, low_ns, high_ns)
                rows = (high_ns - low_ns + 2 * _CONTEXT_NS) // (3_600 * NS)
                about = f"funding of {market.coin}, {iso(low_ns)} to {iso(high_ns)}"
                weight = weight_of({"type": "fundingHistory"}, rows)
                steps.append(BackfillStep(key, about, weight, rows * _ROW_BYTES))
        return steps

    async def fetch(self, step: BackfillStep) -> StepResult:
        """Fetch a page of payments with its context.

        Raises:
            VenueError: the venue refuses, or its answer does not fit the request.
        """
        page = self._pages[step.key]
        start_ms = (page.from_ns - _CONTEXT_NS) // MS_NS
        end_ms = min(page.to_ns + _CONTEXT_NS, self._now_ns) // MS_NS
        found: list[tuple[FundingPayment, JournaledAnswer]] = []
        frames: list[int] = []
        recording = ""
        while start_ms < end_ms:
            answer = await self._client.ask(
                {
                    "type": "fundingHistory",
                    "coin": page.market.coin,
                    "startTime": start_ms,
                    "endTime": end_ms,
                }
            )
            recording = answer.recording
            frames.append(answer.frame)
            payments = _parse_payments(answer, page.market.coin, start_ms)
            found += [(payment, answer) for payment in payments]
            if len(payments) < _PAGE_ROWS:
                break
            start_ms = payments[-1].time + 1  # both ends are inclusive, so the last one would come again
        hours = interval_hours([payment.time for payment, _ in found])
        since_ns = max(page.from_ns, page.market.begins_ns)
        rows = [
            self._row(payment, answer, interval_h, page.market)
            for (payment, answer), interval_h in zip(found, hours, strict=True)
            if since_ns <= payment.time * MS_NS < page.to_ns
        ]
        return StepResult(
            {"funding": FUNDING.rows(rows)}, {"recording": recording, "frames": [frames[0], frames[-1]]}
        )

    def _row(
        self, payment: FundingPayment, answer: JournaledAnswer, interval_h: int, market: BackfillMarket
    ) -> dict[str, Any]:
        lag_ns = self._settings.bars.history_lag_ms * MS_NS
        return {
            "instrument": market.instrument,
            "ts_event": payment.time * 1_000,
            "funding_rate": payment.fundingRate,
            "premium": payment.premium,
            "interval_h": interval_h,
            "source": answer.source,
            "ts_knowable_ns": payment.time * MS_NS + lag_ns,
        }


def interval_hours(times_ms: Sequence[int]) -> list[int]:
    """Return the interval of each payment of one coin in hours, by the spacing around it.

    >>> day, hour = 24 * _HOUR_MS, _HOUR_MS
    >>> interval_hours([0, 8 * hour, 16 * hour, day, day + hour, day + 3 * hour])
    [8, 8, 8, 8, 1, 1]
    """
    gaps = [round((b - a) / _HOUR_MS) for a, b in itertools.pairwise(times_ms)]
    found = []
    for at in range(len(times_ms)):
        before, earlier = gaps[at - 1 : at] if at else [], gaps[at - 2 : at - 1] if at > 1 else []
        after, later = gaps[at : at + 1], gaps[at + 1 : at + 2]
        pairs = (earlier + before, before + after) if before else (after + later,)
        found.append(_LONG_H if any(pair == [_LONG_H, _LONG_H] for pair in pairs) else 1)
    return found


def _parse_payments(answer: JournaledAnswer, coin: str, start_ms: int) -> list[FundingPayment]:
    """Return the payments of an answer.

    Raises:
        VenueError: they have another coin, or are out of order.
    """
    try:
        payments = msgspec.json.decode(answer.body, type=list[FundingPayment] | None, strict=False) or []
    except msgspec.MsgspecError as error:
        raise VenueError(f"the venue's funding of {coin} does not fit: {error}") from error
    last_ms = start_ms - 1
    for payment in payments:
        if payment.coin != coin:
            raise VenueError(f"a payment of {payment.coin!r} came in an answer about {coin!r}")
        if payment.time <= last_ms:
            raise VenueError(f"the venue's funding of {coin} is out of order at {iso(payment.time * MS_NS)}")
        last_ms = payment.time
    return payments
