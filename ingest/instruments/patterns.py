"""Expansion of name patterns in settings into instruments that trade."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from storage.errors import InstrumentError


def expand(
    patterns: Iterable[str],
    trading: Sequence[str],
    venue: str,
    refusal: Callable[[str], str],
    *,
    is_gone: Callable[[str], bool] = lambda _: False,
) -> tuple[str, ...]:
    """Return the names that match patterns, each once, in the order of the patterns.

    A name matches itself, byte-exact; a shell pattern such as `*`, `xyz:*` or `@*` matches all names that trade.
    Outcomes (`#`) match only by name: their two sides mirror each other.

    Args:
        patterns: names and patterns.
        trading: the names that trade.
        venue: for error messages.
        refusal: returns why a name cannot be recorded, or an empty string.
        is_gone: returns whether a name or pattern may match nothing now; it is then left out.

    Raises:
        InstrumentError: a name does not trade, or a pattern matches nothing; the hint names the nearest.
    """
    known = set(trading)
    found: dict[str, None] = {}
    for pattern in patterns:
        if pattern not in known and set(pattern) & set("*?["):
            matching = [name for name in trading if fnmatchcase(name, pattern) and not name.startswith("#")]
            if not matching and not is_gone(pattern):
                raise InstrumentError(
                    f"no coin that trades on {venue} fits {pattern!r}",
                    hint="see the names with: tickwalk instruments",
                )
            found |= dict.fromkeys(matching)
        elif why := refusal(pattern):
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
    """Return the most similar of some names, whatever its case; empty if none is similar."""
    by_fold = {each.casefold(): each for each in names}
    close = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=0.5)
    return by_fold[close[0]] if close else ""
