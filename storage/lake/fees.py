"""Trading fees: the venues' published schedule, the table `fees`, and the fee in force at an instant.

A fee applies from `ts_from` until its own end or a later row, and only from the instant at which it became known. So a
correction of an old fee applies from the day on which it became known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal

import numpy as np

from storage.clock import US_NS, iso, parse_time_ns
from storage.contracts.tables import FEES
from storage.errors import SettingsError
from storage.lake.commit_result import CommitResult
from storage.lake.lake import Lake

Role = Literal["maker", "taker"]
BASE: Final = "base"

_DOCS: Final = "the page on fees of the documents at hyperliquid.gitbook.io"
_FLAT: Final = "from June 2023 a flat 2.5, whose day is not said; by volume since March 11 (2024), base 3.5"
_MAY_2025: Final = "announced 2025-04-29 for 2025-05-05 03:00 UTC"
_SEEN: Final = "an answer to userFees of 2026-09-26 (docs.rs/crate/df-hyperliquid-core) has it"
_GAIAEX: Final = (
    "fee_rate in GaiaEx's documentation of /health, read 2026-08-22; for which role it does not say"
)

# (venue, kind, role, bps, in force from, source). Perps have one base taker fee of 3.5 until May 2025, so that no early
# year looks cheaper than it may have been. Fees that no source documents have no row: the maker's fee and spot before
# May 2025, and markets of deployers (HIP-3), who set their own scale.
_PUBLISHED: Final = (
    ("hyperliquid", "perp", "taker", 3.5, "2023-02-26", f"{_DOCS}: {_FLAT}; the higher holds throughout"),
    ("hyperliquid", "perp", "taker", 4.5, "2025-05-05T03:00:00", f"{_MAY_2025}; {_SEEN}"),
    ("hyperliquid", "perp", "maker", 1.5, "2025-05-05T03:00:00", f"{_MAY_2025}; {_SEEN}"),
    ("hyperliquid", "spot", "taker", 7.0, "2025-05-05T03:00:00", f"{_MAY_2025}; {_SEEN}"),
    ("hyperliquid", "spot", "maker", 4.0, "2025-05-05T03:00:00", f"{_MAY_2025}; {_SEEN}"),
    ("gaiaex", "perp", "taker", 3.5, "2026-08-22", _GAIAEX),
)


@dataclass(frozen=True, slots=True)
class FeeRow:
    """One fee of a schedule.

    Args:
        venue, kind, dex: the markets that it applies to, as in the table.
        bps: basis points of the notional.
        from_ns: in force from here, inclusive.
        to_ns: to here, exclusive; `None`: until a later row.
        knowable_ns: when it became known.
    """

    venue: str
    kind: str
    dex: str
    bps: float
    from_ns: int
    to_ns: int | None
    knowable_ns: int


@dataclass(frozen=True, slots=True)
class FeeSchedule:
    """The fees of one role and volume tier, by venue, market and time."""

    role: Role
    tier: str
    rows: tuple[FeeRow, ...]

    def bps(
        self, instrument: str, at_ns: np.ndarray, *, venue: str = "", known_ns: int | None = None
    ) -> np.ndarray:
        """Return the fee in force at each instant, in basis points of the notional, (N,) float64.

        Args:
            instrument: its id.
            at_ns: (N,) int64.
            venue: where it is traded, if that is not the venue of its id because a venue relays another's market.
            known_ns: use rows that were known at this instant; by default, those known at each instant itself.

        Raises:
            SettingsError: no fee is known for an instant.
        """
        found = self._find(instrument, at_ns, venue=venue, known_ns=known_ns)
        if (missing := at_ns[found < 0]).size:
            where = venue or instrument.partition("|")[0]
            raise SettingsError(
                f"no {self.role} fee of {instrument} at {where}, tier {self.tier}, "
                f"was known at {iso(int(missing.min()))}",
                hint="list the known fees with: tickwalk reference fees; "
                "write the venues' published fees with: tickwalk reference seed",
            )
        fees: np.ndarray = np.array([row.bps for row in self.rows], dtype=np.float64)[found]
        return fees

    def used(self, instruments: Iterable[str], at_ns: np.ndarray) -> FeeSchedule:
        """Return the schedule without rows that are in force for none of the instruments at any of the instants."""
        used = {int(n) for name in instruments for n in np.unique(self._find(name, at_ns)) if n >= 0}
        return FeeSchedule(self.role, self.tier, tuple(self.rows[n] for n in sorted(used)))

    def _find(
        self, instrument: str, at_ns: np.ndarray, *, venue: str = "", known_ns: int | None = None
    ) -> np.ndarray:
        """Return the index of the row in force at each instant, -1 for none.

        A market of a deployer (HIP-3) takes the fee of its own dex, or else that of all dexes of deployers (`*`).
        """
        id_venue, kind, symbol = instrument.split("|", 2)
        dex = symbol.partition(":")[0] if ":" in symbol else ""
        known = at_ns if known_ns is None else np.full_like(at_ns, known_ns)
        found = np.full(at_ns.shape, -1)
        for name in ("*", dex) if dex else ("",):
            markets = (venue or id_venue, kind, name)
            fitting = [n for n, row in enumerate(self.rows) if (row.venue, row.kind, row.dex) == markets]
            for n in sorted(fitting, key=lambda n: (self.rows[n].from_ns, self.rows[n].knowable_ns)):
                row = self.rows[n]
                in_force = (row.from_ns <= at_ns) & (row.knowable_ns <= known)
                if row.to_ns is not None:
                    in_force &= at_ns < row.to_ns
                found[in_force] = n
        return found


def seed_fees(lake: Lake) -> CommitResult:
    """Write the venues' published fees into the table `fees`; a second call adds nothing."""
    rows: list[dict[str, Any]] = []
    for venue, kind, role, bps, since, source in _PUBLISHED:
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
    digest = sha256(repr(_PUBLISHED).encode()).hexdigest()[:12]
    return lake.commit(
        {"fees": FEES.rows(rows)}, batch_id=f"fees:{digest}", inputs={"source": "storage/lake/fees.py"}
    )


def read_fees(
    lake: Lake, role: Role, *, until_ns: int, tier: str = BASE, at: int | None = None
) -> FeeSchedule:
    """Return the fees of a role and tier that were announced to begin, and known, by an instant.

    Args:
        lake: holds the table `fees`.
        role: who pays.
        until_ns: the instant.
        tier: by volume; `base` without any.
        at: snapshot of the lake to read; the newest by default.
    """
    rows = lake.query(
        "SELECT venue, kind, dex, bps, epoch_us(ts_from) * 1000 AS from_ns, epoch_us(ts_to) * 1000 AS to_ns,"
        " ts_knowable_ns AS knowable_ns FROM fees"
        " WHERE role = ? AND tier = ? AND epoch_us(ts_from) <= ? AND ts_knowable_ns <= ?"
        " ORDER BY venue, kind, dex, ts_from, ts_knowable_ns",
        [role, tier, until_ns // US_NS, until_ns],
        at=at,
    )
    return FeeSchedule(role, tier, tuple(FeeRow(**row) for row in rows.to_pylist()))
