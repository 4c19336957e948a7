"""Cost of downloads from requester-pays archives.

Prices are settings (`archive.usd_per_gb`, `archive.usd_per_1000`): Amazon's depend on the location of the reader.
Objects already on disk cost nothing, and neither do REST requests, which have a weight instead. An object of unknown
size makes the price unknown; it is not guessed.
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
    """Size and price of the downloads of steps.

    Args:
        size_bytes: total of the known sizes.
        unsized: number of steps of unknown size.
        is_paid: whether any of it has a price.
        usd: price of the known sizes.
    """

    size_bytes: int = 0
    unsized: int = 0
    is_paid: bool = False
    usd: float = 0.0


def cost_of(steps: Sequence[BackfillStep], archive: ArchiveSettings) -> DownloadCost:
    """Return the cost of fetching steps.

    Args:
        steps: as listed by a source.
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
    """Refuse a cost above the limit of the settings, or an unknown one, unless the user has agreed.

    Raises:
        RangeError: the cost is too high or unknown.
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
