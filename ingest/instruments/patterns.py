"""Which coins do the patterns of a setting stand for?"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from storage.errors import InstrumentError


def expand(
    patterns: Iterable[str],
    trading: Sequence[str],
    venue: str,
    fate: Callable[[str], str],
    *,
    is_gone: Callable[[str], bool] = lambda _: False,
) -> tuple[str, ...]:
    """Return the names that patterns stand for, each once, in the order asked.

    A name stands for itself, byte-exact; a pattern of the shell, as `*`, `xyz:*` or `@*`, for all names that trade and
    fit. Outcomes (`#`) come only by name: their two sides mirror each other.

    Args:
        patterns: names and patterns.
        trading: the names that trade.
        venue: its name, for messages.
        fate: says why a name cannot be recorded, or nothing.
        is_gone: says of a name or a pattern whether it may stand for nothing now; it is left out then.

    Raises:
        InstrumentError: a name does not trade, or a pattern fits nothing; the hint names the nearest.
    """
    known = set(trading)
    found: dict[str, None] = {}
    for pattern in patterns:
        if pattern not in known and set(pattern) & set("*?["):
            fitting = [name for name in trading if fnmatchcase(name, pattern) and not name.startswith("#")]
            if not fitting and not is_gone(pattern):
                raise InstrumentError(
                    f"no coin that trades on {venue} fits {pattern!r}",
                    hint="see the names with: tickwalk instruments",
                )
            found |= dict.fromkeys(fitting)
        elif why := fate(pattern):
            if is_gone(pattern):
                continue
            near = nearest(pattern, trading)
            raise InstrumentError(
                f"{pattern!r} {why} on {venue} (names are byte-exact)",
                hint=f"did you mean {near}?" if near else "see the names with: tickwalk instruments",
            )
        else:
            found[pattern] = None
    return tuple(found)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the name that looks most like another, whatever its case; empty where none does."""
    by_fold = {each.casefold(): each for each in names}
    close = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=0.5)
    return by_fold[close[0]] if close else ""
