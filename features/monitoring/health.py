"""Is a block of features fit to learn from: how much is known, what never varies, what drifted since training?

Every figure is of one feature and one instrument. A block is split at an instant: what lies after it is what a model
meets, and it is compared with a training window before it: what the model that serves learned from, where that is told
(`TrainingWindow`), and else all that lies before the split. Limits (features/monitoring/checks.py) refuse what no model
should be trained on, and warn of what a person should know.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.feature import FeatureBlock
from features.monitoring.checks import HealthFinding, find
from features.monitoring.drift import LEAST_TRAINED, Figures, drift
from features.panel.panel import PRINTED, QUIET, Panel
from features.sets import FEATURE_SETS
from storage.contracts.tables import STATUSES
from storage.errors import ContractError
from storage.logs import get_logger

logger = get_logger(__name__)

LEAST_HELD: Final = 0.5
"""With less of what the serving model learned from, the range says more of what is usual than that remnant."""
_LEAST_KNOWN: Final = 100
_UNLISTED: Final = STATUSES.index("unlisted")


@dataclass(frozen=True, slots=True)
class TrainingWindow:
    """What the model that serves learned from.

    Args:
        version: which model.
        since_ns, until_ns: open of the first bar, and the end of the last label.
        instruments: of whose bars; the features are those of the block.
    """

    version: str
    since_ns: int
    until_ns: int
    instruments: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureHealth:
    """The health of a block; figures are (F, S), NaN where there is nothing to say.

    Args:
        feature_set, fingerprint: of the block.
        names, instruments: the axes.
        since_ns, until_ns: the block.
        split_ns: where the recent window begins; it ends with the block.
        trained_since_ns, trained_until_ns: the training window that it is compared with.
        champion: the version that learned from that window; empty where it is just what lies before the split, as it
            is for instruments that the champion has not learned from.
        coverage: share of the bars since the listing on which it is known.
        nulls: share of the watched bars (printed or quiet) on which it is missing.
        constant: 1.0 where it never varies.
        psi, ks: how far the recent window is from the training window.
        usual: the largest PSI of a quarter of the training window from the whole of it.
        findings: what the limits say.
    """

    feature_set: str
    fingerprint: str
    names: tuple[str, ...]
    instruments: tuple[str, ...]
    since_ns: int
    split_ns: int
    until_ns: int
    trained_since_ns: int
    trained_until_ns: int
    champion: str
    coverage: Figures
    nulls: Figures
    constant: Figures
    psi: Figures
    ks: Figures
    usual: Figures
    findings: tuple[HealthFinding, ...]

    @property
    def refusals(self) -> tuple[HealthFinding, ...]:
        """The findings that refuse the block."""
        return tuple(item for item in self.findings if item.verdict == "refuse")

    def refuse(self) -> None:
        """Refuse the block, where a limit says so.

        Raises:
            ContractError: it names the feature and the instruments.
        """
        if not self.refusals:
            return
        first, more = self.refusals[0], len(self.refusals) - 1
        raise ContractError(
            f"features of set {self.feature_set} are not fit to learn from: {first.feature} of "
            f"{', '.join(first.instruments[:3])} {first.what}" + (f"; and {more} more" if more else ""),
            hint=f"{first.reason}; see all of it: tickwalk features health {self.feature_set}",
            findings=[asdict(item) for item in self.refusals],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the health for JSON; null where there is nothing to say."""
        plain = {name: getattr(self, name) for name in _TOLD}
        figures = {name: _plain(getattr(self, name)) for name in _FIGURES}
        return plain | figures | {"findings": [asdict(item) for item in self.findings]}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> FeatureHealth:
        """Return the health that `to_dict` described."""
        earlier = {"trained_since_ns": told["since_ns"], "trained_until_ns": told["split_ns"], "champion": ""}
        held: dict[str, Any] = {name: (earlier | told)[name] for name in _TOLD}
        held |= {name: tuple(told[name]) for name in ("names", "instruments")}
        held |= {name: np.array(told[name], dtype=np.float64) for name in _FIGURES}
        findings = (
            HealthFinding(**item | {"instruments": tuple(item["instruments"])}) for item in told["findings"]
        )
        return cls(**held, findings=tuple(findings))


_TOLD: Final = (
    "feature_set", "fingerprint", "names", "instruments", "since_ns", "split_ns", "until_ns",
    "trained_since_ns", "trained_until_ns", "champion",
)  # fmt: skip
_FIGURES: Final = ("coverage", "nulls", "constant", "psi", "ks", "usual")


def check_health(
    block: FeatureBlock, panel: Panel, *, split_ns: int, learned: TrainingWindow | None = None
) -> FeatureHealth:
    """Return the health of a block.

    Steps whose lookback reaches before the block are left out: nobody can know them. Features of the clock do not
    drift: what they say is known for ever.

    Args:
        block: features.
        panel: the bars that they were built from, on the same axes.
        split_ns: where the newest share begins, which is compared with what lies before.
        learned: what the model that serves learned from. Where the block holds `LEAST_HELD` of that before the split,
            the newest share is compared with exactly those steps; that of an instrument it never learned from still
            with all that lies before.

    Raises:
        ContractError: block and panel do not have the same axes.
    """
    if block.instruments != panel.instruments or not np.array_equal(block.ts_open_ns, panel.ts_open_ns):
        raise ContractError("a block and the panel it is judged by must have the same instruments and clock")
    shape = (len(block.names), len(block.instruments))
    figures = {name: np.full(shape, math.nan) for name in (*_FIGURES, "ago", "of_late", "rescaled")}
    status = panel.status.cpu().numpy()
    watched = (status == PRINTED) | (status == QUIET)
    listed = status != _UNLISTED
    inside = np.arange(len(block.ts_open_ns)) >= block.lookback_bars
    recent = block.ts_open_ns >= split_ns
    trained, champion = _training_window(block, split_ns, learned)
    others = set(block.instruments) - learned.instruments if learned and champion else set()
    clocks = {item.name for item in FEATURE_SETS.get(block.feature_set, ()) if item.is_clock}
    for place, name in enumerate(block.names):
        for row in range(len(block.instruments)):
            value = block.values[row, :, place].cpu().numpy().astype(np.float64)
            known = block.mask[row, :, place].cpu().numpy() & np.isfinite(value)
            counted, seen = inside & listed[row], inside & watched[row]
            usual = ~recent if block.instruments[row] in others else trained
            found = {
                "coverage": _share(known & counted, counted),
                "nulls": _share(~known & seen, seen),
                "ago": _share(~known & seen & usual, seen & usual),
                "of_late": _share(~known & seen & recent, seen & recent),
                "constant": float(known.sum() >= _LEAST_KNOWN and np.ptp(value[known]) == 0.0),
            }
            if name not in clocks:
                found |= drift(value[known & inside & usual], value[known & inside & recent])
            for figure, number in found.items():
                figures[figure][place, row] = number
    findings = tuple(find(block, figures))
    logger.info("features checked", feature_set=block.feature_set, findings=len(findings))
    return FeatureHealth(
        feature_set=block.feature_set,
        fingerprint=block.fingerprint,
        names=block.names,
        instruments=block.instruments,
        since_ns=int(block.ts_open_ns[0]),
        split_ns=split_ns,
        until_ns=int(block.ts_open_ns[-1]) + block.width_ns,
        trained_since_ns=int(block.ts_open_ns[trained][0]) if trained.any() else split_ns,
        trained_until_ns=int(block.ts_open_ns[trained][-1]) + block.width_ns if trained.any() else split_ns,
        champion=champion,
        coverage=figures["coverage"],
        nulls=figures["nulls"],
        constant=figures["constant"],
        psi=figures["psi"],
        ks=figures["ks"],
        usual=figures["usual"],
        findings=findings,
    )


def _training_window(
    block: FeatureBlock, split_ns: int, learned: TrainingWindow | None
) -> tuple[npt.NDArray[np.bool_], str]:
    """Return which steps the newest share is compared with, and which version learned from them.

    Steps of the newest share are not compared with themselves, even where the model has learned from them too.
    """
    before: npt.NDArray[np.bool_] = block.ts_open_ns < split_ns
    if learned is None:
        return before, ""
    held = before & (block.ts_open_ns >= learned.since_ns)
    held &= block.ts_open_ns + block.width_ns <= learned.until_ns
    asked = (learned.until_ns - learned.since_ns) // block.width_ns
    counted = int((held[block.lookback_bars :]).sum())
    if counted < max(LEAST_HELD * asked, LEAST_TRAINED):
        return before, ""
    return held, learned.version


def _share(part: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_]) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else math.nan


def _plain(figures: Figures) -> list[list[float | None]]:
    return [[None if math.isnan(x) else round(x, 6) for x in row] for row in figures.tolist()]
