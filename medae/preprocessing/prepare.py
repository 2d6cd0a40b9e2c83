"""From a case's files to arrays in the plan's space, and what it takes to go back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medae.data.case import Case, ImageRef, Manifest, Modality
from medae.data.reading import read_array
from medae.errors import DataError, GeometryError
from medae.formats import read
from medae.formats.raw import rows_of
from medae.plan import SpacePlan
from medae.preprocessing.bias import correct_bias
from medae.preprocessing.brain import BrainExtraction, Extracted, given_mask, no_mask
from medae.preprocessing.foreground import foreground_mask
from medae.preprocessing.intensity import normalise
from medae.preprocessing.resample import plan_grid, resample_linear, resample_nearest
from medae.volume import NativeGrid, spacing_of

SAME_PLACE = 0.1
"""Voxels by which the corners of two images of one case may lie apart: sform and qform round differently."""

Change = Callable[[Tensor, Tensor, np.ndarray], Tensor]
"""Raw channels ``[C, I, J, K]``, mask ``[1, I, J, K]`` and 4x4 affine, all on nearest-RAS axes, to changed channels."""

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Prepared:
    """A case in the plan's space, on nearest-RAS axes, cropped to the bounding box of its foreground.

    image: float32 ``[C, I, J, K]``, normalised, zero outside the mask and in absent channels. present: bool ``[C]``.
    mask: bool ``[1, I, J, K]``, the foreground. targets: int16 ``[1, I, J, K]`` by name, only those that the case has.
    native: the grid of the first present channel's file, with the crop. affine: 4x4, voxel of these arrays -> world mm.
    doubtful: bool ``[1, I, J, K]``, the part of a brain mask that its extraction was not sure of; None if that is not known.
    beyond: by target, labelled voxels of the file that are lost because they lie beyond that box; only where there are any.
    """

    case_id: str
    image: Tensor
    present: Tensor
    mask: Tensor
    targets: dict[str, Tensor]
    native: NativeGrid
    affine: np.ndarray
    doubtful: Tensor | None = None
    beyond: dict[str, int] = field(default_factory=dict)

    @property
    def counted(self) -> Tensor:
        """Where voxels count, in the channels that are present: bool ``[C, I, J, K]``."""
        return self.mask & self.present.view(-1, 1, 1, 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along I, J, K."""
        i, j, k = self.mask.shape[1:]
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along I, J, K."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class _Source:
    """An image before it is read. where: how errors name it. read: gives array ``[1, I, J, K]`` and grid. doubtful: of a
    brain mask, where it is not sure."""

    where: str | Path
    read: Callable[[], tuple[np.ndarray, NativeGrid]]
    modality: Modality = "unknown"
    doubtful: _Source | None = None


def prepare_case(
    manifest: Manifest,
    case: Case,
    space: SpacePlan,
    targets: Sequence[str] = (),
    brain: BrainExtraction | None = None,
    change: Change | None = None,
) -> Prepared:
    """Read, check and prepare the channels that the plan names and those of the targets that the case has.

    brain: makes the mask where the plan's foreground is the brain and the case has no target of ``space.brain_from``; what
    ``space.brain_extraction`` names is made by `medae.inference.brainmask.extraction_of`. change: applied to the images once
    their mask is known, before they are normalised, such as to put a lesion in.
    Errors name files relative to the manifest's root.
    Raises DataError for a file that cannot be used, a target that is no label map and a brain mask that is missing,
    GeometryError for images of the case that lie on different grids.
    """

    def source(ref: ImageRef) -> _Source:
        doubtful = None if ref.doubtful is None else source(ref.doubtful)
        return _Source(ref.series or ref.files[0], partial(read_array, manifest, ref), ref.modality, doubtful)

    maps = {}
    for name in targets:
        ref = case.targets.get(name)
        if isinstance(ref, ImageRef):
            maps[name] = source(ref)
        elif ref is not None:
            raise DataError(
                f"The target '{name}' is not a label map.", where=case.id, remedy="Name a target with label maps."
            )
    images = {name: source(ref) for name, ref in case.images.items()}
    mask = brain_mask_of(case, space)
    return _prepare(case.id, images, maps, space, None if mask is None else source(mask), brain, change)


def prepare_files(
    files: Mapping[str, Sequence[Path]],
    space: SpacePlan,
    case_id: str = "scan",
    brain_mask: Path | None = None,
    brain: BrainExtraction | None = None,
    change: Change | None = None,
    doubtful: Path | None = None,
) -> Prepared:
    """Prepare one scan for prediction. files: by channel name, the files of that image; channels may be absent.

    brain_mask, brain: as in `prepare_case`, of use only if the plan's foreground is the brain. doubtful: a mask of where
    the brain mask is not sure, on its grid. change: as in `prepare_case`.
    """
    images = {name: _Source(paths[0], partial(read.read_array, paths, "intensity")) for name, paths in files.items()}

    def source(path: Path, doubt: _Source | None = None) -> _Source:
        return _Source(path, partial(read.read_array, [path], "mask"), doubtful=doubt)

    doubt = None if doubtful is None else source(doubtful)
    mask = None if brain_mask is None else source(brain_mask, doubt)
    return _prepare(case_id, images, {}, space, mask if space.foreground == "brain" else None, brain, change)


def prepare_array(image_1IJK: Tensor, affine: np.ndarray, space: SpacePlan, where: str = "image") -> Prepared:
    """Prepare one channel that has been read already, for a plan of one channel whose foreground is not the brain.

    image: float32, on nearest-RAS axes, in the file's units. affine: 4x4, voxel -> world mm. where: how errors name it.
    """
    _, i, j, k = image_1IJK.shape
    native = NativeGrid(shape=(i, j, k), affine=rows_of(affine, Path(where)))
    source = _Source(where, lambda: (image_1IJK.numpy(), native))
    return _prepare(where, {space.channels[0]: source}, {}, space, None, None)


def brain_mask_of(case: Case, space: SpacePlan) -> ImageRef | None:
    """The label map that the case's foreground comes from; None where the plan asks for none, or the case has none."""
    if space.foreground != "brain":
        return None
    found = (case.targets.get(name) for name in space.brain_from)
    return next((ref for ref in found if isinstance(ref, ImageRef)), None)


def _prepare(
    case_id: str,
    images: Mapping[str, _Source],
    targets: Mapping[str, _Source],
    space: SpacePlan,
    brain_mask: _Source | None,
    brain: BrainExtraction | None,
    change: Change | None = None,
) -> Prepared:
    names = [name for name in space.channels if name in images]
    if not names:
        raise DataError(
            f"The case has none of the plan's channels ({', '.join(space.channels)}), only {', '.join(images) or 'none'}.",
            where=case_id,
            remedy="Name the channels as in the plan (space.channels).",
        )
    first = names[0]
    channel, native = images[first].read()
    grid = native.ras()
    channels = [channel, *(_on_grid(images[name], grid, name, first) for name in names[1:])]
    maps = {name: torch.from_numpy(_on_grid(source, grid, name, first)) for name, source in targets.items()}

    raw = torch.from_numpy(np.concatenate(channels))
    try:
        if brain_mask is not None:
            found = _given(brain_mask, grid, first)
        elif space.foreground != "brain":
            found = Extracted(foreground_mask(raw, space.foreground))
        elif brain is not None:
            _refuse_ct(images[first], "finds brains in MR", "Give brain masks.")
            found = brain(raw, grid[1])
        else:
            raise no_mask(case_id, space)
        mask = found.mask
        if space.bias_correction == "n4":
            _refuse_ct(images[first], "corrects the shading of MR (N4)", "Set space.bias_correction to none.")
            raw = correct_bias(raw, mask, spacing_of(grid[1]))
        if change is not None:
            raw = change(raw, mask, grid[1])
        normalised = normalise(raw, mask, space.intensity)
    except DataError as error:
        raise DataError(error.what, where=error.where or images[first].where, remedy=error.remedy) from error

    box = _bounding_box(mask)
    whole = all(limits == (0, size) for limits, size in zip(box, mask.shape[1:], strict=True))
    native = native.model_copy(update={"crop": None if whole else box})
    size, affine = native.cropped()
    shape, onto = plan_grid(size, affine, space.spacing)
    mask = resample_nearest(_cut(mask, box), affine, shape, onto)
    unsure = None if found.doubtful is None else mask & resample_nearest(_cut(found.doubtful, box), affine, shape, onto)
    present = torch.tensor([name in images for name in space.channels])
    image = torch.zeros((len(present), *shape))
    resampled = resample_linear(_cut(normalised, box), affine, shape, onto, extrapolate=True, smooth=True)
    image[present] = torch.where(mask, resampled, 0.0)
    inside = {name: _cut(values, box) for name, values in maps.items()}
    lost = {name: int((maps[name] > 0).sum() - (values > 0).sum()) for name, values in inside.items()}
    labels = {name: resample_nearest(values, affine, shape, onto) for name, values in inside.items()}
    beyond = {name: count for name, count in lost.items() if count}
    return Prepared(case_id, image, present, mask, labels, native, onto, unsure, beyond)


def _given(mask: _Source, grid: tuple[tuple[int, int, int], np.ndarray], first: str) -> Extracted:
    """A brain mask that is given, and what is doubtful of it if that is given, too. Raises as `_on_grid`, and DataError for
    an empty one."""
    try:
        found = given_mask(_on_grid(mask, grid, "brain mask", first))
    except DataError as error:
        error.what = error.what.replace("The mask", "The brain mask", 1)
        raise
    if not found.any():
        raise DataError("The brain mask is empty.", where=mask.where, remedy="Give another one, or leave the scan out.")
    if mask.doubtful is None:
        return Extracted(found)
    return Extracted(found, torch.from_numpy(_on_grid(mask.doubtful, grid, "doubt of the brain mask", first) > 0))


def _on_grid(source: _Source, grid: tuple[tuple[int, int, int], np.ndarray], name: str, first: str) -> np.ndarray:
    """Read an image. Raises GeometryError unless its corners lie where those of the first channel do."""
    array, native = source.read()
    shape, expected = grid
    corners = np.stack(np.meshgrid(*zip((0, 0, 0), np.asarray(shape) - 1, strict=True), [1], indexing="ij")).reshape(4, -1)
    apart = np.linalg.norm((native.ras()[1] - expected)[:3] @ corners, axis=0).max()
    if array.shape[1:] != shape or apart > SAME_PLACE * min(spacing_of(expected)):
        sizes = [" x ".join(map(str, each)) for each in (array.shape[1:], shape)]
        raise GeometryError(
            f"'{name}' ({sizes[0]}) and '{first}' ({sizes[1]}) lie on different grids, up to {apart:.3g} mm apart.",
            where=source.where,
            remedy="Resample the images and label maps of a case onto one grid.",
        )
    return array


def _refuse_ct(image: _Source, does: str, remedy: str) -> None:
    if image.modality == "CT":
        raise DataError(f"The plan {does}, and this image is CT.", where=image.where, remedy=remedy)


def _bounding_box(mask_1IJK: Tensor) -> Box:
    limits = []
    for axis in (1, 2, 3):
        others = tuple(other for other in range(4) if other != axis)
        found = mask_1IJK.any(dim=others).nonzero()
        limits.append((int(found[0]), int(found[-1]) + 1))
    return limits[0], limits[1], limits[2]


def _cut(array_CIJK: Tensor, box: Box) -> Tensor:
    (i, i_stop), (j, j_stop), (k, k_stop) = box
    return array_CIJK[:, i:i_stop, j:j_stop, k:k_stop].contiguous()
