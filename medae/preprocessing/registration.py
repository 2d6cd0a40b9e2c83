"""A scan in another one's shape: registration of two prepared scans, and the first resampled along what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from pydantic import Field

from medae.config import Config
from medae.errors import DataError
from medae.formats.raw import rows_of
from medae.plan import IntensityScheme
from medae.preprocessing.entry import Entry
from medae.preprocessing.intensity import normalise
from medae.preprocessing.prepare import Prepared
from medae.volume import NativeGrid

AFFINE_LEVELS = (4, 2, 1)
"""By how much both scans are made coarser, one affine registration after the other."""

DEMONS_LEVELS = ((4, 100), (2, 50), (1, 25))
"""The same for the deformation, with its iterations."""

SMALLEST = 8
"""Voxels of an axis that a level leaves at least."""

ENOUGH = 200_000
"""Voxels above which the affine registration does not look at the finest level: 12 numbers need no more."""

Transform = sitk.Transform


class Deformation(Config):
    """How one scan is registered to another.

    spacing: mm of the voxels that the deformation is found on, about; null takes the plan's. Coarser is faster. smooth:
    standard deviation of the Gaussian that the displacements are smoothed with after every iteration, in voxels of the level
    (four times and twice as coarse at first): smaller follows finer shapes.
    """

    spacing: float | None = Field(default=None, gt=0)
    smooth: float = Field(default=1.5, ge=0.5, le=10)


def register(
    fixed_IJK: np.ndarray,
    moving_IJK: np.ndarray,
    fixed_spacing: Sequence[float],
    moving_spacing: Sequence[float],
    config: Deformation = Deformation(),  # noqa: B008 (frozen)
) -> Transform:
    """From millimetres of the fixed scan to those of the moving one, both counted from the first voxel along I, J, K.

    fixed, moving: one channel each on nearest-RAS axes, normalised. An affine registration (correlation) that starts from
    the middles of both, then diffeomorphic demons with histograms matched, from coarse to fine. In one thread, so that the
    same scans give the same bits. Where the affine registration fails, the middles stay on each other.
    Raises DataError for a scan that is too thin. Source of the demons: Vercauteren et al. 2009 (as in SimpleITK).
    """
    if min(*fixed_IJK.shape, *moving_IJK.shape) < SMALLEST:
        raise DataError(
            f"A scan with fewer than {SMALLEST} voxels along an axis cannot be registered.",
            remedy="Leave it out, or choose a finer plan.spacing.",
        )
    with _quiet_and_in_one_thread():
        whole_fixed, whole_moving = _image(fixed_IJK, fixed_spacing), _image(moving_IJK, moving_spacing)
        fixed, moving = _coarsened(whole_fixed, config), _coarsened(whole_moving, config)
        affine = _affine(fixed, moving)
        lowest = float(sitk.GetArrayViewFromImage(moving).min())
        placed = sitk.Resample(moving, fixed, affine, sitk.sitkLinear, lowest)
        field = _demons(fixed, sitk.HistogramMatching(placed, fixed, 128, 7, True), config.smooth)
        field = _onto(field, whole_fixed)
    found = sitk.CompositeTransform(3)
    found.AddTransform(affine)
    found.AddTransform(sitk.DisplacementFieldTransform(field))  # the last that is added is the first that is applied
    return found


def deform(moving: Entry, fixed: Entry, transform: Transform, case_id: str, scheme: IntensityScheme) -> Prepared:
    """The moving case, image and label maps alike, in the shape of the fixed one and on its grid.

    The image is interpolated linearly within the foreground, label maps label by label: the voxel takes the label whose
    interpolated share is the largest. What comes from beyond the moving scan's foreground is outside the mask, and 0; where
    the whole scan is foreground, its outermost voxels are repeated instead, as there is no background to go on with.
    scheme: of the plan. MR is scaled again by the statistics of the new shape, as a scan of that shape would have been.
    """
    grid = _image(np.zeros(fixed.shape, np.float32), fixed.spacing)
    repeat = bool(moving.mask.all())

    def resampled(array_CIJK: np.ndarray, interpolator: int) -> torch.Tensor:
        channels = (_image(channel, moving.spacing) for channel in array_CIJK)
        found = (sitk.Resample(each, grid, transform, interpolator, 0, each.GetPixelID(), repeat) for each in channels)
        return torch.from_numpy(np.stack([sitk.GetArrayFromImage(channel).transpose(2, 1, 0) for channel in found]))

    inside = resampled(moving.mask.astype(np.float32), sitk.sitkLinear)
    mask = inside > 0.5
    # what is interpolated between the foreground and the zeros around it is made up for
    image = torch.where(mask, resampled(moving.image, sitk.sitkLinear) / inside.clamp(min=0.5), 0.0)
    present = torch.from_numpy(moving.present.copy())
    if scheme.kind != "ct_window":
        image[present] = normalise(image[present], mask, scheme)
    targets = {name: resampled(values, sitk.sitkLabelLinear) for name, values in moving.targets.items()}
    native = NativeGrid(shape=fixed.shape, affine=rows_of(fixed.affine, Path(case_id)))
    return Prepared(case_id, image, present, mask, targets, native, fixed.affine)


def likeness(first_IJK: np.ndarray, second_IJK: np.ndarray, where_IJK: np.ndarray) -> float:
    """Pearson's correlation of two images over the voxels of a mask; 0 where one of them is constant."""
    one, two = (each[where_IJK].astype(np.float64) for each in (first_IJK, second_IJK))
    if one.size < 2 or not one.std() or not two.std():
        return 0.0
    return float(np.corrcoef(one, two)[0, 1])


@contextmanager
def _quiet_and_in_one_thread() -> Iterator[None]:
    """SimpleITK's filters, also those that others are made of, take one thread each: more sum in another order. What ITK
    would print of scans that do not overlap is what the affine registration goes back from."""
    threads, shown = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(), sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _image(array_IJK: np.ndarray, spacing: Sequence[float]) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array_IJK.transpose(2, 1, 0)))
    image.SetSpacing([float(step) for step in spacing])
    return image


def _coarsened(image: sitk.Image, config: Deformation) -> sitk.Image:
    """On voxels of about ``config.spacing``, by a whole factor an axis."""
    if config.spacing is None:
        return image
    return _shrunk(image, [round(config.spacing / step) for step in image.GetSpacing()])


def _shrunk(image: sitk.Image, factors: Sequence[int]) -> sitk.Image:
    """Means of blocks of voxels; of an axis as many as leave it long enough."""
    able = [max(1, min(factor, size // SMALLEST)) for factor, size in zip(factors, image.GetSize(), strict=True)]
    return image if max(able) == 1 else sitk.BinShrink(image, able)


def _onto(field: sitk.Image, grid: sitk.Image) -> sitk.Image:
    """A displacement field on another grid of the same place; at its rim the nearest voxel's displacement goes on."""
    nowhere = sitk.Transform(3, sitk.sitkIdentity)
    return sitk.Resample(field, grid, nowhere, sitk.sitkLinear, 0.0, sitk.sitkVectorFloat64, True)


def _affine(fixed: sitk.Image, moving: sitk.Image) -> sitk.AffineTransform:
    middle = sitk.CenteredTransformInitializerFilter.GEOMETRY
    start = sitk.AffineTransform(sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(3), middle))
    found = sitk.AffineTransform(start)
    for level in AFFINE_LEVELS:
        here, there = _shrunk(fixed, [level] * 3), _shrunk(moving, [level] * 3)
        if level == AFFINE_LEVELS[-1] and fixed.GetNumberOfPixels() > ENOUGH:
            break
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsCorrelation()
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 100)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(found, inPlace=True)
        try:
            method.Execute(here, there)
        except RuntimeError:  # ITK's word for images without contrast, or that have moved apart
            return start
    stretch = abs(float(np.linalg.det(np.array(found.GetMatrix()).reshape(3, 3))))
    # a scan whose distance of slices is not known has a wrong size, which the registration makes up for
    sizes = [np.prod(np.multiply(image.GetSize(), image.GetSpacing())) for image in (fixed, moving)]
    usual = any(0.3 < stretch / of < 3 for of in (1.0, float(sizes[1] / sizes[0])))
    return found if usual else start


def _demons(fixed: sitk.Image, moving: sitk.Image, smooth: float) -> sitk.Image:
    """The displacement field, mm, on the fixed scan's grid."""
    field: sitk.Image | None = None
    for level, iterations in DEMONS_LEVELS:
        here, there = _shrunk(fixed, [level] * 3), _shrunk(moving, [level] * 3)
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(iterations)
        demons.SetSmoothDisplacementField(True)
        demons.SetStandardDeviations(smooth)
        field = demons.Execute(here, there) if field is None else demons.Execute(here, there, _onto(field, here))
    return sitk.Cast(field, sitk.sitkVectorFloat64)
