"""Connections that are open, with what they carry and when it last moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ingest.coverage.ledger_rows import Key


class Chain(Protocol):
    """The blockchain below a venue."""

    def was_alive(self, from_ns: int, to_ns: int) -> bool:
        """Return whether it made blocks throughout an interval."""


@dataclass(slots=True)
class CoinMessages:
    """Newest venue time and last receipt of an instrument's messages."""

    event_ns: int
    recv_ns: int


@dataclass(slots=True)
class OpenConnection:
    """A connection that is open: what it has proven, and since when it carries each stream."""

    number: int
    alive_ns: int
    since: dict[Key, int] = field(default_factory=dict)
    coins: dict[str, CoinMessages] = field(default_factory=dict)
