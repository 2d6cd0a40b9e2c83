"""What a detector can and cannot see: balls of known contrast, size and edge, put into normal scans.

A residual sees intensity. Where a lesion's intensity is normal, or the lesion is smaller than what a filter keeps, it is
invisible, however good the figures on large bright tumours are. This says where that begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from pydantic import Field, field_validator
from scipy import ndimage
from torch import Tensor

from medae.anomaly.detector import Rows
from medae.anomaly.scan import Scan
from medae.config import Config
from medae.errors import DataError
from medae.metrics.pooled import PooledDifference, Tally, mean_differences, pooled_average_precision
from medae.metrics.voxelscores import VoxelScores
from medae.seeding import numpy_generator
from medae.synthesis.lesions import ball
from medae.volume import from_ras, spacing_of

TRIES = 50
"""Places that are tried for each lesion before a scan is taken to be full."""


class DiagnosisConfig(Config):
    """The lesions of a diagnosis: every combination of contrast, radius and edge is a cell, each with lesions of its own.

    contrasts: signed difference that a lesion adds, as a share of the scan's reference intensity. radii: mm. blurs: widths
    of the edge from 10 to 90 %, mm; 0 is sharp. lesions: in a scan, at places that do not overlap. reference: label values
    of a healthy tissue, such as the white matter, whose median is the reference; without them the median of the mask is.
    reference_from: the case's label map that has these values. seed: of the places.
    """

    contrasts: tuple[float, ...] = (-0.4, -0.2, 0.2, 0.4)
    radii: tuple[float, ...] = (3.0, 5.0, 8.0)
    blurs: tuple[float, ...] = (0.0, 2.0)
    lesions: int = Field(default=20, ge=1)
    reference: tuple[int, ...] = ()
    reference_from: str = "label"
    seed: int = 0

    @field_validator("contrasts", "radii", "blurs")
    @classmethod
    def _some(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or len(set(values)) < len(values):
            raise ValueError("give at least one value, and each once")
        return values

    @field_validator("radii")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if min(values) <= 0:
            raise ValueError("a radius is above 0 mm")
        return values

    @field_validator("blurs")
    @classmethod
    def _not_negative(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if min(values) < 0:
            raise ValueError("an edge is 0 mm wide or wider")
        return values

    def cells(self) -> list[Cell]:
        """All combinations."""
        return [Cell(*values) for values in product(self.contrasts, self.radii, self.blurs)]


@dataclass(frozen=True)
class Cell:
    """One kind of lesion: contrast (share of the reference intensity), radius and edge in mm."""

    contrast: float
    radius: float
    blur: float

    @property
    def name(self) -> str:
        """Such as ``+0.2, 5 mm, edge 2 mm``."""
        return f"{self.contrast:+g}, {self.radius:g} mm, edge {self.blur:g} mm"


@dataclass
class Inserted:
    """Puts the lesions of a cell into a scan while it is prepared (a ``Change``), and keeps where they are.

    reference: intensity of each present channel that the contrast is a share of, in the file's units; the median of the mask
    if None. normal: bool ``[1, I, J, K]`` on the whole file's nearest-RAS grid, where lesions may lie; the mask if None.
    count: of the lesions that fit, which may be none.
    """

    cell: Cell
    config: DiagnosisConfig
    case_id: str
    reference: Sequence[float] | None = None
    normal: np.ndarray | None = None
    soft: np.ndarray | None = field(default=None, init=False)
    count: int = field(default=0, init=False)

    def __call__(self, raw_CIJK: Tensor, mask_1IJK: Tensor, affine: np.ndarray) -> Tensor:
        """Intensities that are never below 0, as those of MR, stay so. Raises DataError if a reference is not above 0."""
        inside = mask_1IJK[0].numpy()
        allowed = inside if self.normal is None else inside & self.normal[0]
        # the places hang on the radius alone, so that cells that differ in contrast or edge can be compared
        rng = numpy_generator(self.config.seed, "diagnosis", self.case_id, f"{self.cell.radius:g}")
        soft, self.count = lesions_in(
            allowed, spacing_of(affine), self.cell, self.config.lesions, rng, reach=max(self.config.blurs)
        )
        self.soft = soft * inside
        changed = raw_CIJK.clone()
        for place, channel in enumerate(raw_CIJK):
            reference = float(channel[mask_1IJK[0]].median()) if self.reference is None else self.reference[place]
            if not reference > 0:
                raise DataError(
                    f"The reference intensity is {reference:g}, and a contrast is a share of it.",
                    where=self.case_id,
                    remedy="Name a healthy tissue (diagnosis.reference); CT has no intensity that a contrast is a share of.",
                )
            changed[place] += self.cell.contrast * reference * torch.from_numpy(self.soft)
            if bool(channel.min() >= 0):
                changed[place].clamp_(min=0)
        return changed

    def truth(self, native_affine: np.ndarray) -> np.ndarray:
        """The lesions on the file's own axes: bool, where the soft map is above a half."""
        assert self.soft is not None
        return from_ras(self.soft[None] > 0.5, native_affine)[0]


def lesions_in(
    allowed: np.ndarray,
    spacing: Sequence[float],
    cell: Cell,
    number: int,
    rng: np.random.Generator,
    reach: float | None = None,
) -> tuple[np.ndarray, int]:
    """The soft map of up to ``number`` balls that lie in a mask, apart from one another, and how many there are.

    allowed: bool ``[I, J, K]``. reach: the widest edge that places are to leave room for, mm; the cell's own unless given. A
    centre is further than the radius from what is outside.
    """
    soft = np.zeros(allowed.shape, dtype=np.float32)
    # a single slice has an outline and no faces
    padding = [(0, 0) if size == 1 else (1, 1) for size in allowed.shape]
    padded = np.pad(allowed, padding)
    inner = tuple(slice(before, before + size) for (before, _), size in zip(padding, allowed.shape, strict=True))
    depth = ndimage.distance_transform_edt(padded, sampling=spacing)[inner]
    free = np.argwhere(depth > cell.radius)
    centres: list[np.ndarray] = []
    apart = 2 * cell.radius + 2 * (cell.blur if reach is None else reach) + max(spacing)
    for _ in range(TRIES * number):
        if len(centres) == number or not len(free):
            break
        centre = free[rng.integers(len(free))]
        if all(np.linalg.norm((centre - other) * spacing) >= apart for other in centres):
            centres.append(centre)
    for centre in centres:
        half = np.ceil((cell.radius + 2 * cell.blur) / np.array(spacing)).astype(int) + 1
        low, high = np.maximum(centre - half, 0), np.minimum(centre + half + 1, allowed.shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        own = ball(high - low, spacing, centre - low, radius_mm=cell.radius, blur_mm=cell.blur)
        soft[box] = np.maximum(soft[box], own)
    return soft, len(centres)


@dataclass
class Diagnosis:
    """What was found of the lesions of each cell. Cells whose lesions fit into no scan are left out.

    tallies: by row and cell, the voxels of each scan by score. unfiltered: those of all scans as one, before filters and
    erosion, on the whole mask. lesions: how many there were, by cell. subjects: whom each scan is of, in the order of the
    tallies.
    """

    tallies: dict[str, dict[Cell, list[Tally]]]
    unfiltered: dict[str, dict[Cell, VoxelScores]]
    lesions: dict[Cell, int]
    subjects: list[str]
    _figures: dict[tuple[str, Cell], float] = field(default_factory=dict, init=False, repr=False)
    _differences: dict[str, dict[str, PooledDifference]] = field(default_factory=dict, init=False, repr=False)

    def average_precision(self, row: str, cell: Cell) -> float:
        """Of one row and cell, pooled over the voxels of all scans, those that no lesion fits into too."""
        if (row, cell) not in self._figures:
            self._figures[row, cell] = pooled_average_precision(self.tallies[row][cell])
        return self._figures[row, cell]

    def mean(self, row: str, contrast: float | None = None) -> float | None:
        """Mean over all cells, or over those of a contrast; None where there is none."""
        cells = [cell for cell in self.lesions if contrast is None or cell.contrast == contrast]
        return float(np.mean([self.average_precision(row, cell) for cell in cells])) if cells else None

    def mean_unfiltered(self, row: str) -> float:
        """Mean over all cells before filters and erosion."""
        return float(np.mean([self.unfiltered[row][cell].average_precision() or 0.0 for cell in self.lesions]))

    def differences(self, baseline: str) -> dict[str, PooledDifference]:
        """By row, by how much its mean over all cells is above a baseline's, with an interval over subjects."""
        if baseline not in self._differences:
            rows = {row: [own[cell] for cell in self.lesions] for row, own in self.tallies.items()}
            self._differences[baseline] = mean_differences(rows, rows[baseline], self.subjects)
        return self._differences[baseline]


@dataclass(frozen=True)
class Probe:
    """A scan with lesions put in. truth, counted: bool on the file's axes; counted: where voxels count, the mask if None."""

    scan: Scan
    truth: np.ndarray
    counted: np.ndarray | None
    lesions: int


def diagnose(
    rows: Rows,
    config: DiagnosisConfig,
    scans: Iterable[tuple[str, Callable[[Cell], Probe]]],
) -> Diagnosis:
    """Score scans with lesions put in, a cell at a time.

    scans: of each scan its subject, and a function that puts the lesions of a cell into it. Raises DataError if not one
    lesion fits anywhere.
    """
    cells = config.cells()
    found = Diagnosis(
        {row: {cell: [] for cell in cells} for row in rows.maps},
        {row: {cell: VoxelScores() for cell in cells} for row in rows.maps},
        dict.fromkeys(cells, 0),
        [],
    )
    for subject, scan_with in scans:
        found.subjects.append(subject)
        for cell in cells:
            probe = scan_with(cell)
            found.lesions[cell] += probe.lesions
            for row, own in rows.scored(probe.scan):
                found.tallies[row][cell].append(Tally.of(_counts(own.heat, own.mask, probe)))
                found.unfiltered[row][cell].merge(_counts(own.raw, own.whole, probe))
    for cell in [cell for cell, count in found.lesions.items() if not count]:
        del found.lesions[cell]
        for row in rows.maps:
            del found.tallies[row][cell], found.unfiltered[row][cell]
    if not found.lesions:
        raise no_room()
    return found


def _counts(values: np.ndarray, mask: np.ndarray, probe: Probe) -> VoxelScores:
    scores = VoxelScores()
    scores.add(values, mask if probe.counted is None else mask & probe.counted, probe.truth)
    return scores


def no_room() -> DataError:
    """What is said where not one lesion fits anywhere."""
    return DataError(
        "No lesion of any kind fits into the mask of any scan.",
        where="diagnosis",
        remedy="Give smaller radii (diagnosis.radii), or scans with more normal tissue.",
    )
