"""From a case's files to arrays in the plan's space, and what it takes to go back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from medae.data.case import Case, ImageKind, ImageRef, Manifest
from medae.data.reading import place_of
from medae.errors import DataError, GeometryError, MedaeError
from medae.formats.read import read_volume
from medae.plan import SpacePlan
from medae.preprocessing.foreground import foreground_mask
from medae.preprocessing.intensity import normalise
from medae.preprocessing.resample import plan_grid, resample_linear, resample_nearest
from medae.volume import NativeGrid, Volume, spacing_of

SAME_PLACE = 0.1
"""Voxels by which the corners of two images of one case may lie apart: sform and qform round differently."""

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Prepared:
    """A case in the plan's space, on nearest-RAS axes, cropped to the bounding box of its foreground.

    image: float32 ``[C, I, J, K]``, normalised, zero outside the mask and in absent channels. present: bool ``[C]``.
    mask: bool ``[1, I, J, K]``, the foreground. targets: int16 ``[1, I, J, K]`` by name, only those that the case has.
    native: the grid of the first present channel's file, with the crop. affine: 4x4, voxel of these arrays -> world mm.
    """

    case_id: str
    image: Tensor
    present: Tensor
    mask: Tensor
    targets: dict[str, Tensor]
    native: NativeGrid
    affine: np.ndarray

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
class _Image:
    """An image to read: its files, and how."""

    paths: Sequence[Path]
    kind: ImageKind
    resample_slices: bool = False
    component: int | None = None

    @classmethod
    def of(cls, manifest: Manifest, ref: ImageRef) -> Self:
        return cls(manifest.paths(ref), ref.kind, ref.resample_slices, ref.component)

    def read(self) -> Volume:
        return read_volume(self.paths, self.kind, resample_slices=self.resample_slices, component=self.component)


def prepare_case(manifest: Manifest, case: Case, space: SpacePlan, targets: Sequence[str] = ()) -> Prepared:
    """Read, check and prepare the channels that the plan names and those of the targets that the case has.

    Errors name files relative to the manifest's root, and series by their pseudonyms.
    Raises DataError for a file that cannot be used and for a target that is no label map, GeometryError for images of
    the case that lie on different grids.
    """
    images = {name: _Image.of(manifest, ref) for name, ref in case.images.items()}
    maps: dict[str, _Image] = {}
    for name in targets:
        ref = case.targets.get(name)
        if isinstance(ref, ImageRef):
            maps[name] = _Image.of(manifest, ref)
        elif ref is not None:
            raise DataError(
                f"The target '{name}' is not a label map.", where=case.id, remedy="Name a target with label maps."
            )
    try:
        return _prepare(case.id, images, maps, space)
    except MedaeError as error:
        refs = [ref for ref in (*case.images.values(), *case.targets.values()) if isinstance(ref, ImageRef)]
        raise type(error)(error.what, where=place_of(manifest, refs, error.where), remedy=error.remedy) from error


def prepare_files(files: Mapping[str, Sequence[Path]], space: SpacePlan, case_id: str = "scan") -> Prepared:
    """Prepare one scan for prediction. files: by channel name, the files of that image; channels may be absent."""
    return _prepare(case_id, {name: _Image(paths, "intensity") for name, paths in files.items()}, {}, space)


def _prepare(
    case_id: str,
    images: Mapping[str, _Image],
    targets: Mapping[str, _Image],
    space: SpacePlan,
) -> Prepared:
    present = [name in images for name in space.channels]
    first = next((name for name in space.channels if name in images), None)
    if first is None:
        raise DataError(
            f"The case has none of the plan's channels ({', '.join(space.channels)}), only {', '.join(images) or 'none'}.",
            where=case_id,
            remedy="Name the channels as in the plan (space.channels).",
        )
    channels = {name: images[name].read() for name in space.channels if name in images}
    for name, volume in channels.items():
        _check_grid(volume, channels[first], name, first, images[name].paths[0])
    maps = {name: target.read() for name, target in targets.items()}
    for name, volume in maps.items():
        _check_grid(volume, channels[first], name, first, targets[name].paths[0])

    raw = torch.cat([volume.image.as_tensor() for volume in channels.values()])
    try:
        mask = foreground_mask(raw, space.foreground)
        normalised = normalise(raw, mask, space.intensity)
    except DataError as error:
        raise DataError(error.what, where=images[first].paths[0], remedy=error.remedy) from error

    box = _bounding_box(mask)
    whole = all(limits == (0, size) for limits, size in zip(box, mask.shape[1:], strict=True))
    native = channels[first].native.model_copy(update={"crop": None if whole else box})
    size, affine = native.cropped()
    shape, onto = plan_grid(size, affine, space.spacing)
    mask = resample_nearest(_cut(mask, box), affine, shape, onto)
    image = torch.zeros((len(present), *shape))
    resampled = resample_linear(_cut(normalised, box), affine, shape, onto, extrapolate=True, smooth=True)
    image[torch.tensor(present)] = torch.where(mask, resampled, 0.0)
    labels = {
        name: resample_nearest(_cut(volume.image.as_tensor(), box), affine, shape, onto) for name, volume in maps.items()
    }
    return Prepared(case_id, image, torch.tensor(present), mask, labels, native, onto)


def _check_grid(volume: Volume, reference: Volume, name: str, first: str, where: Path) -> None:
    """Raise GeometryError unless the corners of the two images lie in the same places."""
    shape = np.asarray(reference.image.shape[1:])
    corners = np.stack(np.meshgrid(*zip((0, 0, 0), shape - 1, strict=True), [1], indexing="ij")).reshape(4, -1)
    affine, expected = volume.native.ras()[1], reference.native.ras()[1]
    apart = np.linalg.norm((affine - expected)[:3] @ corners, axis=0).max()
    if volume.image.shape[1:] != reference.image.shape[1:] or apart > SAME_PLACE * min(spacing_of(expected)):
        sizes = [" x ".join(map(str, each.image.shape[1:])) for each in (volume, reference)]
        raise GeometryError(
            f"'{name}' ({sizes[0]}) and '{first}' ({sizes[1]}) lie on different grids, up to {apart:.3g} mm apart.",
            where=where,
            remedy="Resample the images and label maps of a case onto one grid.",
        )


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
