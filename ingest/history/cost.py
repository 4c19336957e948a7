"""What does it cost to fetch what a backfill needs, where whoever reads pays?

Prices are settings (`archive.usd_per_gb`, `archive.usd_per_1000`): Amazon's depend on where the reader stands. What is
on the disk already costs nothing. A size that nobody tells beforehand makes the price a question, not a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ingest.history.steps import Step
from storage.errors import RangeError
from storage.settings import ArchiveSettings

_GB: Final = 1e9


@dataclass(frozen=True, slots=True)
class Cost:
    """What steps would fetch.

    Args:
        steps: how many there are.
        fetching: steps that download something, so far as is known.
        size_bytes: of what is known.
        unknown: steps whose size nobody tells.
        usd: for what is known; 0 where the reader does not pay.
    """

    steps: int
    fetching: int
    size_bytes: int
    unknown: int
    usd: float

    def text(self) -> str:
        """Return one line for people."""
        size = f"{self.size_bytes / _GB:,.3f} GB"
        line = f"{self.steps:,} steps, {self.fetching:,} of them fetch {size} for about {self.usd:,.2f} USD"
        return line + (f"; of {self.unknown:,} more nobody tells the size" if self.unknown else "")


def cost_of(steps: Sequence[Step], archive: ArchiveSettings) -> Cost:
    """Return what it costs to take steps.

    Args:
        steps: as a source told them.
        archive: the prices.
    """
    sizes = [step.size_bytes for step in steps]
    known = [size for size in sizes if size]
    total = sum(known)
    # Objects are listed once a day or so: too few to count beside those that are fetched.
    requests = sum(1 for size in sizes if size != 0)
    usd = total / _GB * archive.usd_per_gb + requests / 1_000 * archive.usd_per_1000
    return Cost(len(steps), len(known), total, sizes.count(None), usd if archive.requester_pays else 0.0)


def check_cost(cost: Cost, archive: ArchiveSettings, *, is_agreed: bool) -> None:
    """Refuse what costs more than the settings allow, or nobody knows how much, unless someone has agreed.

    Raises:
        RangeError: it does.
    """
    if is_agreed or not archive.requester_pays:
        return
    if cost.usd > archive.limit_usd:
        raise RangeError(
            f"fetching {cost.size_bytes / _GB:,.3f} GB costs about {cost.usd:,.2f} USD, "
            f"more than archive.limit_usd = {archive.limit_usd:,.2f}",
            hint="say --yes to pay it, or ask for less with --from, --to and --coin",
            usd=cost.usd,
        )
    if cost.unknown:
        raise RangeError(
            f"nobody tells the size of {cost.unknown:,} objects, so their price is not known",
            hint="say --yes to fetch them all the same",
        )
