"""How unusual a voxel is: the share of normal voxels that score at least as high, as its negative decimal logarithm."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medae.anomaly.maps.base import AnomalyMap, Scans
from medae.anomaly.scan import Scan
from medae.errors import DataError
from medae.metrics.voxelscores import N_BINS, at_least, bin_floor, rounded_down, score_bins

BINS = 16
"""Bins of intensity, of equal numbers of normal voxels."""

KNOTS = np.linspace(0.0, 4.0, 81)
"""Rarities at which a bin's scores are kept: every voxel (0) to one in ten thousand (4)."""

FLATTEST = 0.25
"""Of the rise of all knots, what the rise beyond them is at the least: where many normal voxels share the highest value (a
window's end), the last tenfold is flat, and what is beyond would be called rare without bound."""

TENFOLD = 20
"""Knots to a tenfold of rarity."""

FEWEST = 50
"""Voxels that a knot rests on at least; a rarer one is extrapolated."""

FEWEST_IN_A_BIN = 10 * FEWEST
"""Normal voxels that a bin of intensity needs for a distribution of its own; a smaller one has that of all voxels."""


class RarityMap(AnomalyMap):
    """-log10 of the share of normal voxels that have at least this value: 2 is one in a hundred, 3 one in a thousand.

    by_intensity: among normal voxels of about the same intensity (mean of the present channels), so that a tissue that a
    model reconstructs badly is not a finding. Beyond the rarest of the calibration voxels the curve goes on along the line
    through its last tenfold, as an exponential tail does: such numbers rank voxels, and are no probabilities.
    """

    edges: Tensor
    values: Tensor
    slopes: Tensor

    def __init__(self, part: AnomalyMap, by_intensity: bool) -> None:
        super().__init__()
        self.part, self.by_intensity = part, by_intensity
        bins = BINS if by_intensity else 1
        self.register_buffer("edges", torch.zeros(bins - 1, dtype=torch.float64))
        self.register_buffer("values", torch.zeros(bins, len(KNOTS), dtype=torch.float64))
        self.register_buffer("slopes", torch.zeros(bins, dtype=torch.float64))

    @property
    def scales(self) -> bool:
        """Always."""
        return True

    def scale(self, scans: Scans) -> None:
        """Take the distribution of normal voxels. Raises DataError if there are too few of them."""
        self.part.scale(scans)
        if self.by_intensity:
            total = np.zeros(N_BINS, dtype=np.int64)
            for scan in scans():
                total += np.bincount(score_bins(_intensity(scan)[scan.normal[0].numpy()]), minlength=N_BINS)
            places = np.searchsorted(np.cumsum(total), total.sum() * np.arange(1, BINS) / BINS)
            self.edges = torch.tensor([bin_floor(int(place)) for place in places], dtype=torch.float64)
        counts = np.zeros((len(self.values), N_BINS), dtype=np.int64)
        for scan in scans():
            inside = scan.normal[0].numpy()
            scores, groups = score_bins(self.part(scan)[0].numpy()[inside]), self._group(scan)[inside]
            for group in range(len(counts)):
                counts[group] += np.bincount(scores[groups == group], minlength=N_BINS)
        everything = counts.sum(axis=0)
        if everything.sum() < FEWEST_IN_A_BIN:
            raise DataError(
                f"There are {everything.sum()} normal voxels: too few to say what is unusual.",
                where="scoring.rarity",
                remedy="Calibrate on more normal scans, or set scoring.rarity to none.",
            )
        own = [count if count.sum() >= FEWEST_IN_A_BIN else everything for count in counts]
        knots = [_knots(count) for count in own]
        self.values = torch.from_numpy(np.stack([values for values, _ in knots]))
        self.slopes = torch.tensor([slope for _, slope in knots], dtype=torch.float64)

    def forward(self, scan: Scan) -> Tensor:
        """The rarity of each voxel of the mask."""
        below, groups, inside = self.part(scan)[0].numpy(), self._group(scan), scan.mask[0].numpy()
        result = np.zeros(below.shape, dtype=np.float32)
        for group, (values, slope) in enumerate(zip(self.values.numpy(), self.slopes.tolist(), strict=True)):
            chosen = inside & (groups == group)
            result[chosen] = _rarity(below[chosen], values, slope)
        return torch.from_numpy(result)[None]

    def _group(self, scan: Scan) -> np.ndarray:
        """The bin of intensity of each voxel: int ``[I, J, K]``."""
        return (
            np.searchsorted(self.edges.numpy(), _intensity(scan))
            if self.by_intensity
            else np.zeros(scan.mask.shape[1:], int)
        )


def _intensity(scan: Scan) -> np.ndarray:
    return scan.image[scan.prepared.present].mean(dim=0).numpy()


def _knots(counts: np.ndarray) -> tuple[np.ndarray, float]:
    """The value of each knot, rising, and the rise a tenfold of rarity beyond those that enough voxels support."""
    total = int(counts.sum())
    share = at_least(counts) / total
    supported = KNOTS[np.log10(total / FEWEST) >= KNOTS]
    values = np.array([bin_floor(int(np.flatnonzero(share >= 10.0**-knot)[-1])) for knot in supported])
    values[0] = 0.0
    span = min(TENFOLD, len(values) - 1)
    rise = float(values[-1] - values[-1 - span]) / KNOTS[span]
    slope = max(rise, FLATTEST * float(values[-1]) / supported[-1]) or 1.0
    rest = KNOTS[len(values) :] - KNOTS[len(values) - 1]
    return np.concatenate([values, values[-1] + slope * rest]), slope


def _rarity(scores: np.ndarray, values: np.ndarray, slope: float) -> np.ndarray:
    """Between the knots linear; of knots of one value, such as 0, the commonest; beyond the last on a line."""
    floors = rounded_down(scores)  # as the knots are, so that a shared value meets its knot
    unique, first = np.unique(values, return_index=True)
    found = np.interp(floors, unique, KNOTS[first])
    beyond = floors > values[-1]
    found[beyond] = KNOTS[-1] + (floors[beyond] - values[-1]) / slope
    return found
