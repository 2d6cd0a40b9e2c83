"""The same place in different heads: alignment to a template, and what normal scans have at each place of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
import SimpleITK as sitk
import torch
from pydantic import Field, field_validator
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from medae.config import Config
from medae.errors import DataError

if TYPE_CHECKING:
    from medae.anomaly.scan import Scan

FWHM = float(np.sqrt(8 * np.log(2)))
"""Full width at half maximum of a Gaussian, in standard deviations."""

SHRINKAGE = 5.0
"""Scans that the deviation over all places counts as, beside those that a place has: a place that few scans cover has no
deviation of its own."""

SMALLEST = 8
"""Voxels of a template along an axis, and of a scan that is registered, at the least."""

Signal = Callable[["Scan"], Tensor]


class PlaceConfig(Config):
    """How a place is found in another head.

    align: ``box`` stretches the bounding box of the mask onto the template's, axis by axis, which needs no known slice
    spacing; ``affine`` goes on from there with an affine registration (correlation, SimpleITK), and stays there for a scan
    that cannot be registered, such as one of a few slices. smooth: full width at half
    maximum, mm, of the Gaussian that the template is smoothed with. grid: voxels of the template along right, anterior,
    superior.
    """

    align: Literal["box", "affine"] = "box"
    smooth: float = Field(default=4.0, ge=0)
    grid: tuple[int, int, int] = (64, 80, 64)

    @field_validator("grid")
    @classmethod
    def _large_enough(cls, grid: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(grid) < SMALLEST:
            raise ValueError(f"a template has at least {SMALLEST} voxels along each axis, not {list(grid)}")
        return grid


class Template(nn.Module):
    """What normal scans have at each place: mean and standard deviation of a signal, ``[C, *grid]`` each.

    A channel that no normal scan had says nothing: its deviations are 0 everywhere.
    image: the mean scan, ``[1, *grid]``, that others are registered to. size: mm of the template along its axes.
    """

    mean: Tensor
    deviation: Tensor
    image: Tensor
    size: Tensor

    def __init__(self, config: PlaceConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        for name, shape in (("mean", channels), ("deviation", channels), ("image", 1)):
            self.register_buffer(name, torch.zeros(shape, *config.grid))
        self.register_buffer("size", torch.ones(3, dtype=torch.float64))

    def learn(self, scans: Callable[[], Iterable[Scan]], signal: Signal) -> None:
        """Take mean and deviation of a signal over normal scans, each aligned; only their normal voxels count.

        Raises DataError without a scan.
        """
        sizes = [_box_mm(scan) for scan in scans()]
        if not sizes:
            raise DataError("There is no normal scan to learn from.", where="scoring", remedy="Give normal training scans.")
        self.size = torch.from_numpy(np.mean(sizes, axis=0))
        if self.config.align == "affine":
            self.image = self._moments(scans, _first_channel, aligned=False)[0]
        self.mean, self.deviation = self._moments(scans, signal, aligned=True)

    def standardise(self, signal_CIJK: Tensor, scan: Scan) -> Tensor:
        """A scan's signal in deviations from the mean of its place: ``[C, I, J, K]``, zero outside the mask."""
        onto, shape = np.linalg.inv(self.placed(scan)), tuple(scan.mask.shape[1:])
        mean, deviation = (_sampled(maps, onto, shape, edge="border") for maps in (self.mean, self.deviation))
        known = (self.deviation > 0).flatten(1).any(dim=1)[:, None, None, None]
        return torch.where(scan.mask & known, (signal_CIJK - mean) / deviation.clamp(min=1e-6), 0.0)

    def placed(self, scan: Scan) -> np.ndarray:
        """4x4: from voxels of the template to voxels of the scan."""
        box = _box(scan, self.config.grid)
        if self.config.align == "box":
            return box
        return _registered(self.image[0].numpy(), self.size.numpy() / (np.array(self.config.grid) - 2), scan, box)

    def _moments(self, scans: Callable[[], Iterable[Scan]], signal: Signal, *, aligned: bool) -> tuple[Tensor, Tensor]:
        """Mean and deviation of a signal of C channels, or of one that every scan has; absent channels do not count."""
        sums = torch.zeros(1)
        for scan in scans():
            placed = self.placed(scan) if aligned else _box(scan, self.config.grid)
            values = signal(scan)
            there = scan.prepared.present if len(values) == len(scan.prepared.present) else torch.ones(len(values))
            inside = scan.normal.float() * there.float()[:, None, None, None]
            values = values * inside
            sums = sums + _sampled(torch.cat([inside, values, values * values]), placed, self.config.grid)
        count, total, squares = self._smoothed(sums).chunk(3)
        mean = total / count.clamp(min=1e-3)
        variance = (squares / count.clamp(min=1e-3) - mean.square()).clamp(min=0)
        usual = (variance * count).sum(dim=(1, 2, 3), keepdim=True) / count.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-3)
        deviation = ((count * variance + SHRINKAGE * usual) / (count + SHRINKAGE)).sqrt()
        return mean, deviation

    def _smoothed(self, maps: Tensor) -> Tensor:
        steps = self.size.numpy() / (np.array(self.config.grid) - 2)  # the box leaves a rim of a voxel
        sigmas = self.config.smooth / FWHM / steps
        return torch.from_numpy(np.stack([ndimage.gaussian_filter(each, sigmas, mode="constant") for each in maps.numpy()]))


def _first_channel(scan: Scan) -> Tensor:
    """The first channel that the scan has: ``[1, I, J, K]``."""
    return scan.image[int(torch.nonzero(scan.prepared.present)[0])][None]


def _edges(scan: Scan) -> np.ndarray:
    """The first and the last voxel of the mask along each axis: ``[3, 2]``."""
    inside = scan.mask[0].numpy()
    if not inside.any():
        raise DataError("The mask of a scan is empty.", where=scan.prepared.case_id, remedy="Leave the scan out.")
    others = [tuple(axis for axis in range(3) if axis != kept) for kept in range(3)]
    occupied = [np.flatnonzero(inside.any(axis=axes)) for axes in others]
    return np.array([[found[0], found[-1]] for found in occupied], dtype=np.float64)


def _box_mm(scan: Scan) -> np.ndarray:
    """The size of the mask's bounding box, mm."""
    edges = _edges(scan)
    return (edges[:, 1] - edges[:, 0] + 1) * scan.prepared.spacing


def _box(scan: Scan, grid: tuple[int, int, int]) -> np.ndarray:
    """4x4: the template's voxels onto those of the scan. The mask's box fills the template but for a rim of a voxel."""
    edges = _edges(scan)
    size = np.array(grid, dtype=np.float64)
    step = (edges[:, 1] - edges[:, 0] + 1) / (size - 2)
    placed = np.diag([*step, 1.0])
    placed[:3, 3] = edges[:, 0] - 0.5 - 0.5 * step
    return placed


def _sampled(
    maps_CIJK: Tensor, onto: np.ndarray, shape: tuple[int, ...], edge: Literal["zeros", "border"] = "zeros"
) -> Tensor:
    """Linear interpolation at ``onto @ voxel`` for each voxel of a grid: ``[C, *shape]``.

    onto: 4x4, from voxels of the wanted grid to voxels of the maps. edge: what is outside the maps, 0 or their last voxel.
    """
    sizes = np.array(maps_CIJK.shape[1:], dtype=np.float64)
    # grid_sample counts from -1 to 1 over the edges of the outermost voxels, and its axes from the last to the first
    to_unit = np.eye(4)
    to_unit[:3, :3] = np.diag(2 / sizes)
    to_unit[:3, 3] = 1 / sizes - 1
    from_unit = np.eye(4)
    wanted = np.array(shape, dtype=np.float64)
    from_unit[:3, :3] = np.diag(wanted / 2)
    from_unit[:3, 3] = wanted / 2 - 0.5
    order = [2, 1, 0]
    matrix = (to_unit @ onto @ from_unit)[:3]
    theta = torch.from_numpy(np.concatenate([matrix[order][:, order], matrix[order, 3:]], axis=1)).float()
    points = functional.affine_grid(theta[None], [1, 1, *shape], align_corners=False)
    found: Tensor = functional.grid_sample(
        maps_CIJK[None].float(), points, mode="bilinear", padding_mode=edge, align_corners=False
    )[0]
    return found


def _registered(template_IJK: np.ndarray, spacing: np.ndarray, scan: Scan, box: np.ndarray) -> np.ndarray:
    """4x4: the template's voxels onto the scan's after an affine registration that starts from the boxes.

    spacing: of the template, mm. Correlation of the template and the scan's first channel, over the template's voxels, at
    two resolutions; in one thread, so that the same scan gives the same matrix. The box itself where that fails.
    """
    if min(scan.mask.shape[1:]) < SMALLEST:
        return box
    own = np.array(scan.prepared.spacing)
    fixed = sitk.GetImageFromArray(template_IJK.astype(np.float32).transpose(2, 1, 0))
    moving = sitk.GetImageFromArray(_first_channel(scan)[0].numpy().astype(np.float32).transpose(2, 1, 0))
    fixed.SetSpacing([float(step) for step in spacing])
    moving.SetSpacing([float(step) for step in own])
    # between millimetres of the two images: x -> matrix (x - centre) + centre + translation
    matrix = np.diag(own) @ box[:3, :3] @ np.diag(1 / spacing)
    centre = spacing * (np.array(template_IJK.shape) - 1) / 2
    start = sitk.AffineTransform(3)
    start.SetCenter([float(place) for place in centre])
    start.SetMatrix(matrix.ravel().tolist())
    start.SetTranslation((np.diag(own) @ box[:3, 3] + matrix @ centre - centre).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([2.0, 1.0])
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 100, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # ITK's word for too few voxels, or for images that lie apart
        return box
    found = np.array(start.GetMatrix()).reshape(3, 3)
    offset = np.array(start.GetTranslation()) + centre - found @ centre
    placed = np.eye(4)
    placed[:3, :3] = np.diag(1 / own) @ found @ np.diag(spacing)
    placed[:3, 3] = offset / own
    determinant = np.linalg.det(placed[:3, :3]) / np.linalg.det(box[:3, :3])
    return placed if np.isfinite(determinant) and 0.3 < determinant < 3 else box
