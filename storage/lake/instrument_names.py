"""Instrument ids from the short names that people type."""

from __future__ import annotations

from storage.errors import InstrumentError
from storage.lake.lake import Lake


def resolve_instrument(lake: Lake, name: str, *, width: str, at: int | None = None) -> str:
    """Return the id of the one instrument with bars of a width that a name stands for.

    Args:
        lake: holds the bars.
        name: an instrument id, or the venue's own name such as `BTC`; byte-exact.
        width: bar width, such as `1m`.
        at: a snapshot of the lake (default: the newest).

    Raises:
        InstrumentError: no instrument, or several, have such bars under that name.
    """
    rows = lake.query(
        "SELECT DISTINCT instrument FROM bars WHERE width = ? "
        "AND (instrument = ? OR split_part(instrument, '|', 3) = ?) ORDER BY instrument",
        [width, name, name],
        at=at,
    )
    found = [str(instrument) for instrument in rows["instrument"].to_pylist()]
    if not found:
        raise InstrumentError(
            f"the lake holds no {width} bar of {name!r}",
            hint='names are byte-exact; see: tickwalk sql "SELECT DISTINCT instrument, width FROM bars"',
        )
    if len(found) > 1:
        raise InstrumentError(
            f"{name!r} is {len(found)} instruments: {', '.join(found)}", hint="name one of them in full"
        )
    return found[0]
