"""Instruments of the simulated venue, and the answers that list them.

A name decides the kind, as on the venue: `xyz:AAPL` is a perpetual of the dex `xyz`, `@107` and `PURR/USDC` are
spot, `#70` is a side of an outcome, the rest are perpetuals of the first dex. Bodies follow the venue's
documentation of `meta`, `perpDexs` and `spotMeta` (read 2026-08-22).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple

from ingest.venues.hyperliquid.protocol import SIMULATED_MARK, kind_of
from storage.errors import SettingsError

Kind = Literal["perp", "spot", "outcome"]

FIRST_DEX: Final = ""
COLLATERAL_TOKEN: Final = 0
_DEPLOYER: Final = "0x" + "5d" * 20


def dex_of(name: str) -> str:
    """Return the dex of a perpetual; the first one has no name.

    >>> dex_of("BTC"), dex_of("xyz:AAPL")
    ('', 'xyz')
    """
    return name.partition(":")[0] if ":" in name else FIRST_DEX


class SimulatedListing(NamedTuple):
    """One row of the universe."""

    name: str
    size_decimals: int
    price_decimals: int
    max_leverage: int
    listed: bool = True
    level_size: float = 0.0
    """Typical size of a book level, where books are made."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Pair:
    """A spot instrument and its tokens, by their indices."""

    name: str
    index: int
    base: int
    base_name: str
    size_decimals: int


class SimulatedUniverse:
    """Listed instruments in the venue's order; delisted rows stay, keeping their positions.

    Args:
        listings: all coins, including those listed later.
        absent: coins that are not listed yet.
    """

    def __init__(self, listings: Iterable[SimulatedListing], absent: Iterable[str] = ()) -> None:
        self._known = {item.name: item for item in listings}
        hidden = set(absent)
        self._rows = {name: item for name, item in self._known.items() if name not in hidden}

    @property
    def names(self) -> frozenset[str]:
        """Return the coins that may be subscribed; empty for any coin."""
        return frozenset(self._rows)

    def get(self, name: str) -> SimulatedListing | None:
        """Return a row, delisted or not."""
        return self._rows.get(name)

    def knows(self, name: str) -> bool:
        """Return whether a coin has a row; true for every coin if there is no universe."""
        return name in self._rows or not self._known

    def trades(self, name: str) -> bool:
        """Return whether a coin is listed and not delisted; true for every coin if there is no universe."""
        row = self._rows.get(name)
        return row.listed if row is not None else not self._known

    def list_coin(self, name: str) -> None:
        """Append an absent coin, or restore its row."""
        row = self._find(name)
        self._rows[name] = row._replace(listed=True)

    def delist(self, name: str) -> None:
        """Mark a row as delisted."""
        self._rows[name] = self._find(name)._replace(listed=False)

    def recycle(self, name: str, size_decimals: int | None) -> None:
        """Bring a row back under its name, with other sizes where they are given."""
        row = self._find(name)
        sizes = row.size_decimals if size_decimals is None else size_decimals
        self._rows[name] = row._replace(listed=True, size_decimals=sizes)

    def of_dex(self, dex: str) -> list[SimulatedListing]:
        """Return the perpetuals of a dex by position."""
        return [row for row in self._rows.values() if kind_of(row.name) == "perp" and dex_of(row.name) == dex]

    def of_kind(self, kind: Kind) -> list[SimulatedListing]:
        """Return the rows of a kind."""
        return [row for row in self._rows.values() if kind_of(row.name) == kind]

    def dexes(self) -> list[str]:
        """Return the perpetual dexes, the first one first."""
        return list(dict.fromkeys([FIRST_DEX, *(dex_of(row.name) for row in self.of_kind("perp"))]))

    def meta(self, dex: str) -> dict[str, Any]:
        """Return the universe of a dex."""
        rows = []
        for item in self.of_dex(dex):
            row: dict[str, Any] = {
                "szDecimals": item.size_decimals,
                "name": item.name,
                "maxLeverage": item.max_leverage,
                "marginTableId": item.max_leverage,
            }
            if dex != FIRST_DEX:
                row |= {"onlyIsolated": True, "marginMode": "strictIsolated"}
            rows.append(row if item.listed else row | {"isDelisted": True})
        return {
            "universe": rows,
            "marginTables": [],
            "collateralToken": COLLATERAL_TOKEN,
            SIMULATED_MARK: True,
        }

    def perp_dexs(self) -> list[dict[str, Any] | None]:
        """Return the deployed dexes, after a null for the first dex."""
        return [
            None,
            *(
                {
                    "name": dex,
                    "fullName": f"{dex} (simulated)",
                    "deployer": _DEPLOYER,
                    "oracleUpdater": None,
                    "feeRecipient": _DEPLOYER,
                    "assetToStreamingOiCap": [[row.name, "1000000.0"] for row in self.of_dex(dex)],
                    "assetToFundingMultiplier": [],
                }
                for dex in self.dexes()[1:]
            ),
        ]

    def spot_meta(self) -> dict[str, Any]:
        """Return the tokens and the spot pairs; USDC is token 0 and the quote of every pair."""
        pairs = self._pairs()
        tokens = [("USDC", 0, 8), *((pair.base_name, pair.base, pair.size_decimals) for pair in pairs)]
        return {
            "tokens": [
                {
                    "name": name,
                    "szDecimals": size_decimals,
                    "weiDecimals": 8,
                    "index": index,
                    "tokenId": f"0x{index:032x}",
                    "isCanonical": index == 0 or name == "PURR",
                    "evmContract": None,
                    "fullName": None,
                }
                for name, index, size_decimals in tokens
            ],
            "universe": [
                {
                    "name": pair.name,
                    "tokens": [pair.base, 0],
                    "index": pair.index,
                    "isCanonical": "/" in pair.name,
                }
                for pair in pairs
            ],
        }

    def _pairs(self) -> list[_Pair]:
        """Return the spot rows with tokens: `A/B` are counted from 0, `@n` has the index n."""
        rows: list[_Pair] = []
        named = 0
        for row in self.of_kind("spot"):
            if row.name.startswith("@"):
                index, base_name = int(row.name[1:]), f"TOKEN{row.name[1:]}"
            else:
                index, base_name, named = named, row.name.partition("/")[0], named + 1
            rows.append(_Pair(row.name, index, 1 + len(rows), base_name, row.size_decimals))
        return rows

    def _find(self, name: str) -> SimulatedListing:
        row = self._rows.get(name) or self._known.get(name)
        if row is None:
            raise SettingsError(
                f"{name!r} is to change its listing, but the simulated market has no such coin",
                hint="give the coin to MarketSpec",
            )
        return row
