"""Health of a feature block: coverage, missing and constant values, and drift since training.

Every figure is for one feature and one instrument. A block is split at an instant: the recent window after it is
compared with a training window before it, which is the champion's training data, if given (`TrainingWindow`), or else
everything before the split. Limits (features/monitoring/checks.py) refuse blocks that no model should be trained on,
and warn about findings that a person should know.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.feature import FeatureBlock
from features.monitoring.checks import HealthFinding, find
from features.monitoring.drift import MIN_TRAINED, Figures, drift
from features.panel.panel import PRINTED, QUIET, Panel
from features.sets import feature_sets
from storage.contracts.tables import STATUSES
from storage.errors import ContractError
from storage.logs import get_logger

logger = get_logger(__name__)

MIN_TRAINED_SHARE: Final = 0.5
"""Minimum share of the champion's training window in the range; with less, everything before the split is used."""
_MIN_KNOWN: Final = 100
_UNLISTED: Final = STATUSES.index("unlisted")


@dataclass(frozen=True, slots=True)
class TrainingWindow:
    """Training data of the serving model.

    Args:
        version: version of the model.
        since_ns, until_ns: open of the first bar, and end of the last label.
        instruments: ids of the instruments trained on; the features are those of the block.
    """

    version: str
    since_ns: int
    until_ns: int
    instruments: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureHealth:
    """Health of a block; figures are (F, S), NaN where undefined.

    Args:
        feature_set, fingerprint: of the block.
        names, instruments: the axes.
        since_ns, until_ns: range of the block.
        split_ns: start of the recent window, which ends with the block.
        trained_since_ns, trained_until_ns: the training window that it is compared with.
        champion: the version trained on that window; empty if the window is everything before the split, which is
            always used for instruments that the champion was not trained on.
        coverage: share of the bars since listing on which the feature is known.
        nulls: share of the watched bars (printed or quiet) on which it is missing.
        constant: 1.0 if it never varies.
        psi, ks: drift of the recent window against the training window.
        usual: the largest PSI of a quarter of the training window against the whole of it.
        findings: refusals and warnings.
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
        """Raise if a limit refuses the block.

        Raises:
            ContractError: it names the feature and the instruments.
        """
        if not self.refusals:
            return
        first, more = self.refusals[0], len(self.refusals) - 1
        raise ContractError(
            f"features of set {self.feature_set} are not fit for training: {first.feature} of "
            f"{', '.join(first.instruments[:3])} {first.what}" + (f"; and {more} more" if more else ""),
            hint=f"{first.reason}; see all findings: tickwalk features health {self.feature_set}",
            findings=[asdict(item) for item in self.refusals],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the health for JSON, with null for undefined figures."""
        plain = {name: getattr(self, name) for name in _PLAIN_FIELDS}
        figures = {name: _plain(getattr(self, name)) for name in _FIGURES}
        return plain | figures | {"findings": [asdict(item) for item in self.findings]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FeatureHealth:
        """Return the health from the result of `to_dict`."""
        earlier = {"trained_since_ns": data["since_ns"], "trained_until_ns": data["split_ns"], "champion": ""}
        fields: dict[str, Any] = {name: (earlier | data)[name] for name in _PLAIN_FIELDS}
        fields |= {name: tuple(data[name]) for name in ("names", "instruments")}
        fields |= {name: np.array(data[name], dtype=np.float64) for name in _FIGURES}
        findings = (
            HealthFinding(**item | {"instruments": tuple(item["instruments"])}) for item in data["findings"]
        )
        return cls(**fields, findings=tuple(findings))


_PLAIN_FIELDS: Final = (
    "feature_set", "fingerprint", "names", "instruments", "since_ns", "split_ns", "until_ns",
    "trained_since_ns", "trained_until_ns", "champion",
)  # fmt: skip
_FIGURES: Final = ("coverage", "nulls", "constant", "psi", "ks", "usual")


def check_health(
    block: FeatureBlock, panel: Panel, *, split_ns: int, learned: TrainingWindow | None = None
) -> FeatureHealth:
    """Compute the health of a block.

    Steps whose lookback reaches before the block are excluded, since they are always masked. Drift is not computed for
    clock features, which are deterministic.

    Args:
        block: features.
        panel: the bars that they were built from, on the same axes.
        split_ns: start of the recent window, which is compared with earlier steps.
        learned: training data of the serving model. If the block has at least `MIN_TRAINED_SHARE` of it before the
            split, the recent window is compared with exactly those steps, except for instruments that the model was
            not trained on, which are compared with everything before the split.

    Raises:
        ContractError: block and panel do not have the same axes.
    """
    if block.instruments != panel.instruments or not np.array_equal(block.ts_open_ns, panel.ts_open_ns):
        raise ContractError("a block and its panel must have the same instruments and clock")
    shape = (len(block.names), len(block.instruments))
    figures = {
        name: np.full(shape, math.nan) for name in (*_FIGURES, "nulls_trained", "nulls_recent", "rescaled")
    }
    status = panel.status.cpu().numpy()
    watched = (status == PRINTED) | (status == QUIET)
    listed = status != _UNLISTED
    inside = np.arange(len(block.ts_open_ns)) >= block.lookback_bars
    recent = block.ts_open_ns >= split_ns
    trained, champion = _training_window(block, split_ns, learned)
    others = set(block.instruments) - learned.instruments if learned and champion else set()
    clocks = {item.name for item in feature_sets().get(block.feature_set, ()) if item.is_clock}
    for place, name in enumerate(block.names):
        for row in range(len(block.instruments)):
            value = block.values[row, :, place].cpu().numpy().astype(np.float64)
            known = block.mask[row, :, place].cpu().numpy() & np.isfinite(value)
            counted, seen = inside & listed[row], inside & watched[row]
            usual = ~recent if block.instruments[row] in others else trained
            found = {
                "coverage": _share(known & counted, counted),
                "nulls": _share(~known & seen, seen),
                "nulls_trained": _share(~known & seen & usual, seen & usual),
                "nulls_recent": _share(~known & seen & recent, seen & recent),
                "constant": float(known.sum() >= _MIN_KNOWN and np.ptp(value[known]) == 0.0),
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
    """Return the steps with which the recent window is compared, and the version trained on them.

    The recent window itself is excluded, even if the model was trained on it too.
    """
    before: npt.NDArray[np.bool_] = block.ts_open_ns < split_ns
    if learned is None:
        return before, ""
    trained = before & (block.ts_open_ns >= learned.since_ns)
    trained &= block.ts_open_ns + block.width_ns <= learned.until_ns
    wanted = (learned.until_ns - learned.since_ns) // block.width_ns
    counted = int((trained[block.lookback_bars :]).sum())
    if counted < max(MIN_TRAINED_SHARE * wanted, MIN_TRAINED):
        return before, ""
    return trained, learned.version


def _share(part: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_]) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else math.nan


def _plain(figures: Figures) -> list[list[float | None]]:
    return [[None if math.isnan(x) else round(x, 6) for x in row] for row in figures.tolist()]
