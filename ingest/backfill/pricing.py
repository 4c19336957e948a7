"""What does it cost to fetch what a backfill needs, where whoever reads pays?

Prices are settings (`archive.usd_per_gb`, `archive.usd_per_1000`): Amazon's depend on where the reader stands. What is
on the disk already costs nothing, and so does a question over REST, which has a weight instead. A size that nobody
tells beforehand makes the price a question, not a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ingest.backfill.source import BackfillStep
from storage.errors import RangeError
from storage.settings.services import ArchiveSettings

_GB: Final = 1e9


@dataclass(frozen=True, slots=True)
class DownloadCost:
    """What steps download.

    Args:
        size_bytes: of what is known.
        unsized: steps whose size nobody tells.
        is_paid: whether any of it has a price.
        usd: for what is known.
    """

    size_bytes: int = 0
    unsized: int = 0
    is_paid: bool = False
    usd: float = 0.0


def cost_of(steps: Sequence[BackfillStep], archive: ArchiveSettings) -> DownloadCost:
    """Return what it costs to take steps.

    Args:
        steps: as a source told them.
        archive: the prices.
    """
    sizes = [step.size_bytes for step in steps]
    # Objects are listed once a day or so: too few to count beside those that are fetched.
    paid = [step.size_bytes for step in steps if not step.weight and step.size_bytes != 0]
    usd = (
        sum(size or 0 for size in paid) / _GB * archive.usd_per_gb + len(paid) / 1_000 * archive.usd_per_1000
    )
    is_paid = bool(paid) and archive.requester_pays
    return DownloadCost(sum(size or 0 for size in sizes), sizes.count(None), is_paid, usd if is_paid else 0.0)


def check_cost(cost: DownloadCost, archive: ArchiveSettings, *, is_agreed: bool) -> None:
    """Refuse what costs more than the settings allow, or nobody knows how much, unless someone has agreed.

    Raises:
        RangeError: it does.
    """
    if is_agreed or not cost.is_paid:
        return
    if cost.usd > archive.limit_usd:
        raise RangeError(
            f"fetching {cost.size_bytes / _GB:,.3f} GB costs about {cost.usd:,.2f} USD, "
            f"more than archive.limit_usd = {archive.limit_usd:,.2f}",
            hint="say --yes to pay it, or ask for less with --from, --to and --coin",
            usd=cost.usd,
        )
    if cost.unsized:
        raise RangeError(
            f"nobody tells the size of {cost.unsized:,} objects, so their price is not known",
            hint="say --yes to fetch them all the same",
        )
