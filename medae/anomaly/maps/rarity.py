"""How unusual a voxel is: the share of normal voxels that score at least as high, as its negative decimal logarithm."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medae.anomaly.maps.base import AnomalyMap, Scans
from medae.anomaly.scan import Scan
from medae.errors import DataError
from medae.metrics.voxelscores import N_BINS, at_least, bin_floor, score_bins

BINS = 16
"""Bins of intensity, of equal numbers of normal voxels."""

KNOTS = np.linspace(0.0, 4.0, 81)
"""Rarities at which a bin's scores are kept: every voxel (0) to one in ten thousand (4)."""

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

    def __init__(self, part: AnomalyMap, by_intensity: bool) -> None:
        super().__init__()
        self.part, self.by_intensity = part, by_intensity
        bins = BINS if by_intensity else 1
        self.register_buffer("edges", torch.zeros(bins - 1, dtype=torch.float64))
        self.register_buffer("values", torch.zeros(bins, len(KNOTS), dtype=torch.float64))

    @property
    def scales(self) -> bool:
        """Always."""
        return True

    def scale(self, scans: Scans) -> None:
        """Take the distribution of normal voxels. Raises DataError if there are too few of them."""
        self.part.scale(scans)
        if self.by_intensity:
            intensities = np.concatenate([_intensity(scan)[scan.normal[0]] for scan in scans()])
            self.edges = torch.from_numpy(np.quantile(intensities, np.arange(1, BINS) / BINS).astype(np.float64))
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
        self.values = torch.from_numpy(np.stack([_knots(count) for count in own]))

    def forward(self, scan: Scan) -> Tensor:
        """The rarity of each voxel of the mask."""
        below, groups, inside = self.part(scan)[0].numpy(), self._group(scan), scan.mask[0].numpy()
        result = np.zeros(below.shape, dtype=np.float32)
        for group, values in enumerate(self.values.numpy()):
            chosen = inside & (groups == group)
            result[chosen] = _rarity(below[chosen], values)
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


def _knots(counts: np.ndarray) -> np.ndarray:
    """The value of each knot, rising; beyond those that enough voxels support, on the line of the last tenfold."""
    total = int(counts.sum())
    share = at_least(counts) / total
    supported = np.log10(total / FEWEST)
    bins = [int(np.flatnonzero(share >= 10.0**-knot)[-1]) for knot in KNOTS if knot <= supported]
    values = np.array([bin_floor(place) for place in bins])
    values[0] = 0.0
    slope = _slope(values)
    rest = KNOTS[len(values) :] - KNOTS[len(values) - 1]
    return np.maximum.accumulate(np.concatenate([values, values[-1] + slope * rest]))


def _slope(values: np.ndarray) -> float:
    """Rise of the value a tenfold of rarity, at the end of the knots that are supported."""
    step = KNOTS[1] - KNOTS[0]
    span = min(round(1 / step), len(values) - 1)
    return float(max((values[-1] - values[-1 - span]) / (span * step), 1e-6))


def _rarity(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Between the knots linear; of knots of one value, such as 0, the commonest; beyond the last on the line."""
    unique, first = np.unique(values, return_index=True)
    found = np.interp(scores, unique, KNOTS[first])
    beyond = scores > values[-1]
    found[beyond] = KNOTS[-1] + (scores[beyond] - values[-1]) / _slope(values)
    return found
