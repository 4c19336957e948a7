"""Point-in-time reference data: fees, listings and the universe by volume.

Every query uses only rows that were knowable at its date, so that a row written later changes no earlier answer: a
correction of an old fee counts from the day on which it became known. A caller that wants today's knowledge of an old
date passes `known_ns`. A fee has no end unless one was announced with it: the next row ends it. An instrument that
was delisted later is in the universe of the days on which it was listed.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final, Literal

import pyarrow as pa

from storage.clock import DAY_NS, US_NS, iso, parse_time_ns
from storage.contracts.tables import FEES
from storage.errors import RangeError, SettingsError
from storage.lake.lake import CommitResult, Lake

Role = Literal["maker", "taker"]
BASE: Final = "base"

_DOCS: Final = "the page on fees of the documents at hyperliquid.gitbook.io"
_FLAT: Final = "from June 2023 a flat 2.5, whose day is not said; by volume since March 11 (2024), base 3.5"
_MAY_2025: Final = "announced 2025-04-29 for 2025-05-05 03:00 UTC"
_SEEN: Final = "an answer to userFees of 2026-09-26 (docs.rs/crate/df-hyperliquid-core) has it"
_GAIAEX: Final = (
    "fee_rate in GaiaEx's documentation of /health, read 2026-08-22; for which role it does not say"
)

# (venue, kind, role, bps, in force from, source). The taker fees of perps have one base fee of 3.5 until May 2025, so
# that no early year looks cheaper than it may have been. Fees that no source states have no row: the maker fee and
# spot before May 2025, and markets of deployers (HIP-3), who set their own scale.
_KNOWN: Final = (
    ("hyperliquid", "perp", "taker", 3.5, "2023-02-26", f"{_DOCS}: {_FLAT}; the higher holds throughout"),
    ("hyperliquid", "perp", "taker", 4.5, "2025-05-05T03:00:00", f"{_MAY_2025}; {_SEEN}"),
    ("hyperliquid", "perp", "maker", 1.5, "2025-05-05T03:00:00", f"{_MAY_2025}; {_SEEN}"),
    ("hyperliquid", "spot", "taker", 7.0, "2025-05-05T03:00:00", f"{_MAY_2025}; {_SEEN}"),
    ("hyperliquid", "spot", "maker", 4.0, "2025-05-05T03:00:00", f"{_MAY_2025}; {_SEEN}"),
    ("gaiaex", "perp", "taker", 3.5, "2026-08-22", _GAIAEX),
)

_FEES_AT: Final = """
    SELECT venue, kind, dex, tier, role, bps, ts_from AS since, source FROM fees
    WHERE epoch_us(ts_from) <= ? AND ts_knowable_ns <= ? AND (ts_to IS NULL OR epoch_us(ts_to) > ?)
    QUALIFY row_number() OVER (
        PARTITION BY venue, kind, dex, tier, role ORDER BY ts_from DESC, ts_knowable_ns DESC) = 1
    ORDER BY venue, kind, dex, tier, role
"""

_INSTRUMENTS_AT: Final = """
    SELECT instrument, coalesce(state, if(is_delisted, 'delisted', 'listed')) AS state, venue, kind, symbol, dex,
           size_decimals, quote, max_leverage, session, make_timestamptz(valid_from_ns // 1000) AS since
    FROM instruments_valid
    WHERE valid_from_ns <= ? AND (valid_to_ns IS NULL OR valid_to_ns > ?)
    ORDER BY instrument
"""

# The same trades may be in bars and in candles, of several widths: the largest sum of an instrument counts.
_UNIVERSE: Final = """
    WITH known AS (
        SELECT instrument, width, ts_open, coalesce(notional, volume * close) AS notional FROM bars
        WHERE ts_open >= make_timestamptz(?) AND ts_close <= make_timestamptz(?) AND ts_knowable_ns <= ?
        QUALIFY row_number() OVER (PARTITION BY instrument, width, ts_open ORDER BY revision DESC) = 1
    ),
    venue_candles AS (
        SELECT instrument, width, ts_open, volume * close AS notional FROM candles
        WHERE ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?) AND ts_knowable_ns <= ?
        QUALIFY row_number() OVER (PARTITION BY instrument, width, ts_open ORDER BY ts_knowable_ns DESC, source) = 1
    ),
    sums AS (
        SELECT instrument, sum(notional) AS notional FROM known GROUP BY instrument, width
        UNION ALL SELECT instrument, sum(notional) FROM venue_candles GROUP BY instrument, width
    ),
    traded AS (
        SELECT instrument, max(notional) AS notional FROM sums GROUP BY instrument HAVING max(notional) > 0
    ),
    listed AS (
        SELECT instrument, coalesce(state, if(is_delisted, 'delisted', 'listed')) AS state FROM instruments
        WHERE ts_knowable_ns <= ?
        QUALIFY row_number() OVER (PARTITION BY instrument ORDER BY ts_knowable_ns DESC) = 1
    )
    SELECT row_number() OVER (ORDER BY notional DESC, instrument) AS rank, instrument, round(notional, 2) AS notional,
           coalesce(state, 'not said') AS state
    FROM traded LEFT JOIN listed USING (instrument)
    WHERE coalesce(state, 'listed') = 'listed'
    ORDER BY rank LIMIT ?
"""


def seed_fees(lake: Lake) -> CommitResult:
    """Write the fees of the venues' documents; a second call adds nothing."""
    rows: list[dict[str, Any]] = []
    for venue, kind, role, bps, since, source in _KNOWN:
        since_ns = parse_time_ns(since)
        rows.append(
            {
                "venue": venue,
                "kind": kind,
                "dex": "",
                "tier": BASE,
                "role": role,
                "bps": bps,
                "source": source,
            }
            | {"ts_from": since_ns // US_NS, "ts_to": None, "ts_knowable_ns": since_ns}
        )
    about = sha256(repr(_KNOWN).encode()).hexdigest()[:12]
    return lake.commit(
        {"fees": FEES.rows(rows)},
        batch_id=f"fees:{about}",
        inputs={"source": "ingest/instruments/reference_data.py"},
    )


def fees_at(lake: Lake, at_ns: int, *, known_ns: int | None = None) -> pa.Table:
    """Return the fees in force at an instant, one row a venue, kind, dex, tier and role.

    Args:
        lake: holds the table `fees`.
        at_ns: the instant.
        known_ns: use what was known by then (default: at the instant itself).
    """
    return lake.query(_FEES_AT, [at_ns // US_NS, at_ns if known_ns is None else known_ns, at_ns // US_NS])


def fee_bps(
    lake: Lake,
    venue: str,
    instrument: str,
    role: Role,
    at_ns: int,
    *,
    tier: str = BASE,
    known_ns: int | None = None,
) -> float:
    """Return the fee of a trade at an instant, in basis points of its notional.

    Args:
        lake: holds the table `fees`.
        venue: where it was traded; differs from that of the id if a venue relays another's market.
        instrument: id of the instrument.
        role: maker or taker.
        at_ns: time of the trade.
        tier: volume tier.
        known_ns: see `fees_at`.

    Raises:
        SettingsError: no fee was known for it then.
    """
    _, kind, symbol = instrument.split("|", 2)
    dex = symbol.partition(":")[0] if ":" in symbol else ""
    found = {
        row["dex"]: float(row["bps"])
        for row in fees_at(lake, at_ns, known_ns=known_ns).to_pylist()
        if (row["venue"], row["kind"], row["tier"], row["role"]) == (venue, kind, tier, role)
    }
    for name in (dex, "*") if dex else ("",):
        if name in found:
            return found[name]
    raise SettingsError(
        f"no {role} fee of {instrument} at {venue}, tier {tier}, was known at {iso(at_ns)}",
        hint="see what is with: tickwalk reference fees; the venues' own come with: tickwalk reference seed",
    )


def instruments_at(lake: Lake, at_ns: int) -> pa.Table:
    """Return listed and delisted instruments at an instant, one row each."""
    return lake.query(_INSTRUMENTS_AT, [at_ns, at_ns])


def universe(lake: Lake, at_ns: int, *, days: int, top: int) -> pa.Table:
    """Return the instruments that traded most in the days before an instant, by what was known then.

    Instruments delisted by then are left out; those delisted later are included. `state` says where the lake has no
    listing of that time.

    Args:
        lake: holds `bars`, `candles` and `instruments`.
        at_ns: the instant.
        days: length of the look-back, at least 1.
        top: largest number of instruments.

    Raises:
        RangeError: nothing was known to have traded.
    """
    if days < 1 or top < 1:
        raise RangeError(
            f"{days} days and the top {top} are no universe", hint="ask for one of each at least"
        )
    reach = [(at_ns - days * DAY_NS) // US_NS, at_ns // US_NS, at_ns]
    rows = lake.query(_UNIVERSE, [*reach, *reach, at_ns, top])
    if rows.num_rows == 0:
        raise RangeError(
            f"nothing was known at {iso(at_ns)} to have traded in the {days} days before",
            hint="bring history in with: tickwalk import candles FILE, or tickwalk replay FILE",
        )
    return rows
