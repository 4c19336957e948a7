"""Windows of a panel's features as batches, and the normaliser of the features.

The raw block, (S, T, F) float32 with a mask, is stored once a night, and all folds read it: a batch is gathered from it
and standardised by the fold's normaliser on the way, so a fold needs no block of its own. On a CPU one compiled loop
does both on memory-mapped files; it takes as long as an `index_select` of a block that was standardised before
(1.4 ms for 512 windows of 64 bars and 32 features, measured 2026-12-01). On another device the block is resident,
uploaded once, or, where it does not fit, batches are gathered on the host; the bits are the same.

Since the panel is dense, a window always spans `window` consecutive steps of the clock; a missing step is a masked
zero in it, and windows never join across a hole. Steps before the first of the panel are masked, too.

A row is one instrument at one step, numbered `s * T + t`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch

from features.feature import FeatureBlock
from storage.jit import compiled

_MOST_RESIDENT: Final = 0.6
"""Share of a device's free memory that a block may take; weights, batches and their gradients need the rest."""


@dataclass(frozen=True, slots=True)
class Affine:
    """Arithmetic of a standardisation: `((x - high) - low) * scale`, clipped; each (F,) float32."""

    high: torch.Tensor
    low: torch.Tensor
    scale: torch.Tensor
    clip: float

    def apply(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return standardised and clipped values, 0 where masked, (..., F) float32.

        Args:
            values: (..., F) float32.
            mask: (..., F) bool.
        """
        scaled = ((values - self.high) - self.low) * self.scale
        return torch.where(mask, scaled.clamp(-self.clip, self.clip), 0.0)

    def to(self, device: torch.device) -> Affine:
        """Return it on a device."""
        return Affine(self.high.to(device), self.low.to(device), self.scale.to(device), self.clip)


@dataclass(frozen=True, slots=True)
class Normaliser:
    """Mean and scale of each feature, from the train rows of one fold.

    Args:
        mean, std: (F,) float64.
        clip: standardised values are clipped to this many deviations, since order flow has long tails.
    """

    mean: torch.Tensor
    std: torch.Tensor
    clip: float

    @classmethod
    def fit(
        cls, values: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor, *, clip: float = 5.0
    ) -> Normaliser:
        """Fit the normaliser to some rows; a feature that is constant or never valid there gets scale 1.

        Args:
            values: (S, T, F) float32, 0 where invalid.
            mask: (S, T, F) bool.
            rows: (S, T) bool, the rows to use.
        """
        n_features = values.shape[-1]
        count = torch.zeros(n_features, dtype=torch.int64)
        total, spread = torch.zeros(2, n_features, dtype=torch.float64)
        # One instrument after another, so that no copy of the block is made.
        for seen, valid in _instruments(values, mask, rows):
            count += valid.sum(dim=0)
            total += torch.where(valid, seen, 0.0).sum(dim=0)
        mean = total / count.clamp(min=1)
        for seen, valid in _instruments(values, mask, rows):
            spread += torch.where(valid, (seen - mean) ** 2, 0.0).sum(dim=0)
        std = torch.sqrt(spread / count.clamp(min=1))
        return cls(mean, torch.where(std > 1e-12, std, torch.ones_like(std)), clip)

    def affine(self) -> Affine:
        """Return the arithmetic of a standardisation in float32.

        The mean is split in two, so that the difference from a value near it keeps the accuracy of float32 however
        large both are.
        """
        high = self.mean.to(torch.float32)
        low = (self.mean - high.to(torch.float64)).to(torch.float32)
        return Affine(high, low, (1.0 / self.std).to(torch.float32), self.clip)

    def apply(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Standardise and clip values, (..., F); masked ones become 0. Return float32."""
        return self.affine().apply(values.to(torch.float32), mask)

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for a manifest."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "clip": self.clip}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Normaliser:
        """Return the normaliser from the plain values of `to_plain`."""
        return cls(
            torch.tensor(plain["mean"], dtype=torch.float64),
            torch.tensor(plain["std"], dtype=torch.float64),
            float(plain["clip"]),
        )


class PanelWindows:
    """Batches of windows over one raw block, standardised as they are gathered."""

    def __init__(
        self,
        block: FeatureBlock,
        normaliser: Normaliser,
        *,
        window_bars: int,
        device: torch.device,
        is_resident: bool | None = None,
    ) -> None:
        """Prepare the windows.

        Args:
            block: (S, T, F) values, 0 where invalid, and mask; it is read where it is.
            normaliser: of the fold.
            window_bars: bars of a window.
            device: of the batches.
            is_resident: keep the block on the device (default: on another than the CPU, if it fits).
        """
        _, self.n_steps, self.n_features = block.values.shape
        self.window_bars, self.device = window_bars, device
        if is_resident is None:
            is_resident = device.type != "cpu" and fits_on(device, block)
        affine = normaliser.affine()
        self._host = _HostBlock(block, affine)
        self._source: _HostBlock | _ResidentBlock = self._host
        if is_resident:
            self._source = _ResidentBlock.of(block, affine, device)

    def buffer(self, rows: int) -> torch.Tensor | None:
        """Return memory for batches of up to `rows` rows, if batches are gathered into memory of this process.

        New memory for each batch takes as long as the gathering itself (0.7 ms of 1.4, measured 2026-12-01).
        """
        if self._source is not self._host or self.device.type != "cpu":
            return None
        return torch.empty(rows, self.window_bars, 2 * self.n_features)

    def gather(self, rows: torch.Tensor, *, into: torch.Tensor | None = None) -> torch.Tensor:
        """Return the windows that end at these rows, features and then their masks.

        Args:
            rows: (B,) int64 row numbers, on the windows' device.
            into: see `buffer`; it has these windows until it is used again (default: memory of their own).

        Returns:
            (B, window, 2 F) float32, oldest bar first.
        """
        return self._source.gather(rows, self.window_bars, into=into).to(self.device)

    def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features and masks of the windows that end at these rows, each (B, window, F) float32."""
        both = self.gather(rows)
        return both[..., : self.n_features], both[..., self.n_features :]

    def newest(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return only the newest bar of each row, x and mask, each (B, F) float32 on the CPU."""
        both = self._host.gather(rows.cpu(), 1)[:, 0]
        return both[:, : self.n_features], both[:, self.n_features :]


class _HostBlock:
    """A block in the memory of the process, or of the file that it is mapped from."""

    def __init__(self, block: FeatureBlock, affine: Affine) -> None:
        self._values, self._mask = block.values.numpy(), block.mask.numpy()
        self._affine = tuple(part.numpy() for part in (affine.high, affine.low, affine.scale))
        self._clip = np.float32(affine.clip)

    def gather(self, rows: torch.Tensor, window: int, *, into: torch.Tensor | None = None) -> torch.Tensor:
        """Return windows that end at rows, (B, window, 2 F) on the CPU."""
        rows = rows.cpu().contiguous()
        both = (
            torch.empty(len(rows), window, 2 * self._values.shape[2]) if into is None else into[: len(rows)]
        )
        _gather(self._values, self._mask, *self._affine, self._clip, rows.numpy(), both.numpy())
        return both


class _ResidentBlock:
    """A block on a device; the newest one is kept for the folds that follow."""

    _newest: ClassVar[tuple[FeatureBlock, torch.device, torch.Tensor, torch.Tensor] | None] = None

    def __init__(self, values: torch.Tensor, mask: torch.Tensor, affine: Affine) -> None:
        self._n_steps = values.shape[1]
        self._values, self._mask = values.flatten(0, 1), mask.flatten(0, 1)
        self._affine = affine.to(values.device)

    @classmethod
    def of(cls, block: FeatureBlock, affine: Affine, device: torch.device) -> _ResidentBlock:
        """Return a block on a device; it is uploaded unless it is there already."""
        newest = cls._newest
        if newest is None or newest[0] is not block or newest[1] != device:
            cls._newest = None  # first, as two may not fit
            newest = (block, device, block.values.to(device), block.mask.to(torch.uint8).to(device))
            cls._newest = newest
        return cls(newest[2], newest[3], affine)

    def gather(
        self,
        rows: torch.Tensor,
        window: int,
        *,
        into: torch.Tensor | None = None,  # noqa: ARG002  # a device has an allocator of its own
    ) -> torch.Tensor:
        """Return windows that end at rows, (B, window, 2 F) on the device."""
        affine = self._affine
        back = torch.arange(1 - window, 1, device=rows.device)
        step = (rows % self._n_steps).unsqueeze(1) + back
        at = (rows.unsqueeze(1) + back).clamp(min=0).flatten()
        shape = (len(rows), window, self._values.shape[1])
        mask = self._mask.index_select(0, at).view(shape).to(torch.bool) & (step >= 0).unsqueeze(2)
        raw = self._values.index_select(0, at).view(shape)
        return torch.cat((affine.apply(raw, mask), mask.to(torch.float32)), dim=2)


def fits_on(device: torch.device, block: FeatureBlock) -> bool:
    """Return whether a block takes at most `_MOST_RESIDENT` of a GPU's free memory; other devices are not asked."""
    needed = block.values.numel() * (block.values.element_size() + 1)
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return needed <= _MOST_RESIDENT * free


def _instruments(
    values: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield values, float64, and mask of the chosen rows of each instrument, each (N, F)."""
    for own_values, own_mask, chosen in zip(values, mask, rows, strict=True):
        if bool(chosen.any()):
            yield own_values[chosen].to(torch.float64), own_mask[chosen]


@compiled()
def _gather(values, mask, high, low, scale, clip, rows, both):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Gather windows that end at rows into `both`, standardised; the arithmetic is that of `_ResidentBlock.gather`."""
    n_steps, n_features = values.shape[1], values.shape[2]
    window = both.shape[1]
    one, zero = np.float32(1.0), np.float32(0.0)
    for b in range(rows.shape[0]):
        s = rows[b] // n_steps
        first = rows[b] - s * n_steps - window + 1
        before = max(-first, 0)
        for w in range(before):
            out = both[b, w]
            for f in range(2 * n_features):
                out[f] = zero
        for w in range(before, window):
            raw, known, out = values[s, first + w], mask[s, first + w], both[b, w]
            for f in range(n_features):
                x = ((raw[f] - high[f]) - low[f]) * scale[f]
                x = clip if x > clip else x
                x = -clip if x < -clip else x
                out[f] = x if known[f] else zero
            for f in range(n_features):
                out[n_features + f] = one if known[f] else zero


def warm_up() -> None:
    """Compile the loop, or load it from its cache."""
    values, part = np.zeros((1, 1, 1), np.float32), np.zeros(1, np.float32)
    both = np.zeros((1, 1, 2), np.float32)
    _gather(values, values > 0, part, part, part, np.float32(1.0), np.zeros(1, np.int64), both)
