"""Is a block of features fit to learn from: how much is known, what never varies, what drifted since training?

Every figure is of one feature and one instrument. A block is split at an instant: what lies before it is what a
model learns from (the training window), what lies after it is what the model meets. Limits refuse what no model
should be trained on, and warn of what a person should know; each says why (`Finding.reason`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from features.drift import Figures, drift
from features.panel import PRINTED, QUIET, Panel
from features.sets import FEATURE_SETS
from features.spec import FeatureBlock
from storage.contracts import STATUSES
from storage.errors import ContractError
from storage.logs import get_logger

logger = get_logger(__name__)

PSI_SOME: Final = 0.1
PSI_MUCH: Final = 0.25
"""Population stability index from which on a distribution has shifted somewhat, or much: the usual limits
(Siddiqi, 2006, Credit Risk Scorecards)."""
USUAL_TIMES: Final = 2.0
"""A drift is told where it is so many times that of the training window's own farthest quarter: features of
overlapping windows wander, and a limit for independent values would warn every night."""
DEAD_NULLS: Final = 0.95
"""A feature that is missing on more of the bars that somebody watched is dead, where it was alive in training."""
ALIVE_NULLS: Final = 0.5
RESCALED_RANGES: Final = 10.0
"""A median that moved by more such widths (1st to 99th percentile in training) is another unit, not a market."""
_LEAST_KNOWN: Final = 100
_UNLISTED: Final = STATUSES.index("unlisted")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a limit says.

    Args:
        verdict: `refuse`, or `warn`.
        feature: which.
        instruments: on which of them, worst first.
        what: what was found, with figures.
        reason: why that matters.
    """

    verdict: Literal["refuse", "warn"]
    feature: str
    instruments: tuple[str, ...]
    what: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Health:
    """The health of a block; figures are (F, S), NaN where there is nothing to say.

    Args:
        feature_set, fingerprint: of the block.
        names, instruments: the axes.
        since_ns, split_ns, until_ns: the training window ends, and the recent one begins, at the split.
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
    coverage: Figures
    nulls: Figures
    constant: Figures
    psi: Figures
    ks: Figures
    usual: Figures
    findings: tuple[Finding, ...]

    @property
    def refusals(self) -> tuple[Finding, ...]:
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
    def from_dict(cls, told: dict[str, Any]) -> Health:
        """Return the health that `to_dict` described."""
        held: dict[str, Any] = {name: told[name] for name in _TOLD}
        held |= {name: tuple(told[name]) for name in ("names", "instruments")}
        held |= {name: np.array(told[name], dtype=np.float64) for name in _FIGURES}
        findings = (
            Finding(**item | {"instruments": tuple(item["instruments"])}) for item in told["findings"]
        )
        return cls(**held, findings=tuple(findings))


_TOLD: Final = ("feature_set", "fingerprint", "names", "instruments", "since_ns", "split_ns", "until_ns")
_FIGURES: Final = ("coverage", "nulls", "constant", "psi", "ks", "usual")


def check_health(block: FeatureBlock, panel: Panel, *, split_ns: int) -> Health:
    """Return the health of a block.

    Steps whose lookback reaches before the block are left out: nobody can know them. Features of the clock do not
    drift: what they say is known for ever.

    Args:
        block: features.
        panel: the bars that they were built from, on the same axes.
        split_ns: where the training window ends.

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
    clocks = {item.name for item in FEATURE_SETS.get(block.feature_set, ()) if item.is_clock}
    for place, name in enumerate(block.names):
        for row in range(len(block.instruments)):
            value = block.values[row, :, place].cpu().numpy().astype(np.float64)
            known = block.mask[row, :, place].cpu().numpy() & np.isfinite(value)
            counted, seen = inside & listed[row], inside & watched[row]
            found = {
                "coverage": _share(known & counted, counted),
                "nulls": _share(~known & seen, seen),
                "ago": _share(~known & seen & ~recent, seen & ~recent),
                "of_late": _share(~known & seen & recent, seen & recent),
                "constant": float(known.sum() >= _LEAST_KNOWN and np.ptp(value[known]) == 0.0),
            }
            if name not in clocks:
                found |= drift(value[known & inside & ~recent], value[known & inside & recent])
            for figure, number in found.items():
                figures[figure][place, row] = number
    findings = tuple(_findings(block, figures))
    logger.info("features checked", feature_set=block.feature_set, findings=len(findings))
    return Health(
        feature_set=block.feature_set,
        fingerprint=block.fingerprint,
        names=block.names,
        instruments=block.instruments,
        since_ns=int(block.ts_open_ns[0]),
        split_ns=split_ns,
        until_ns=int(block.ts_open_ns[-1]) + block.width_ns,
        coverage=figures["coverage"],
        nulls=figures["nulls"],
        constant=figures["constant"],
        psi=figures["psi"],
        ks=figures["ks"],
        usual=figures["usual"],
        findings=findings,
    )


def _share(part: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_]) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else math.nan


def _plain(figures: Figures) -> list[list[float | None]]:
    return [[None if math.isnan(x) else round(x, 6) for x in row] for row in figures.tolist()]


# Limits.


def _findings(block: FeatureBlock, figures: dict[str, Figures]) -> Iterator[Finding]:
    unsound = ~torch.isfinite(block.values) | ((block.values != 0.0) & ~block.mask)
    for place, name in enumerate(block.names):
        of = {figure: numbers[place] for figure, numbers in figures.items()}
        told = _teller(name, block.instruments)
        bad = unsound[:, :, place].any(dim=1).cpu().numpy()
        if bad.any():
            yield told(
                "refuse",
                bad,
                bad * 1.0,
                "holds values that are not numbers, or are not zero where masked",
                "a network that meets NaN forgets everything; no function may let one out",
            )
        was_alive = of["ago"] <= ALIVE_NULLS
        died = was_alive & (of["of_late"] >= DEAD_NULLS)
        if died.any():
            yield told(
                "refuse" if 2 * died.sum() >= was_alive.sum() else "warn",
                died,
                of["of_late"],
                f"is missing on {DEAD_NULLS:.0%} or more of the watched bars of late, and was there in training",
                "its source stopped: a model would learn from what it will never see again",
            )
        rescaled = of["rescaled"] > RESCALED_RANGES
        if rescaled.any():
            yield told(
                "refuse" if 2 * rescaled.sum() >= np.isfinite(of["psi"]).sum() else "warn",
                rescaled,
                of["rescaled"],
                f"moved by up to {np.nanmax(of['rescaled']):,.0f} times all that training saw of it",
                "that is another unit at its source, not another market",
            )
        yield from _warnings(of, told, ~died & ~rescaled)


def _warnings(
    of: dict[str, Figures], told: Callable[..., Finding], left: npt.NDArray[np.bool_]
) -> Iterator[Finding]:
    never = of["coverage"] == 0.0
    if never.any():
        yield told(
            "warn",
            never,
            of["nulls"],
            "is never known",
            "the data does not carry what it reads, or the range is too short; it is a column of zeros to a model",
        )
    constant = of["constant"] > 0.0
    if constant.any():
        yield told(
            "warn", constant, of["constant"], "never varies", "it teaches nothing, or its source is frozen"
        )
    judged = left & np.isfinite(of["psi"])
    drifted = judged & (of["psi"] > PSI_MUCH) & (of["psi"] > USUAL_TIMES * of["usual"])
    if drifted.any() and 2 * drifted.sum() >= judged.sum():
        worst = int(np.nanargmax(np.where(drifted, of["psi"], math.nan)))
        yield told(
            "warn",
            drifted,
            of["psi"],
            f"drifted: PSI up to {of['psi'][worst]:.2f} (KS {of['ks'][worst]:.2f}), where no quarter of the training "
            f"window was further than {of['usual'][worst]:.2f} from the whole",
            "the model meets what it has seldom seen; its test figures may be of another market",
        )


def _teller(name: str, instruments: tuple[str, ...]) -> Callable[..., Finding]:
    """Return a function that makes findings about a feature, the instruments ordered by a figure."""

    def told(
        verdict: Literal["refuse", "warn"], where: npt.NDArray[np.bool_], by: Figures, what: str, reason: str
    ) -> Finding:
        order = sorted(np.flatnonzero(where).tolist(), key=lambda row: (-np.nan_to_num(by[row]), row))
        return Finding(verdict, name, tuple(instruments[row] for row in order), what, reason)

    return told
