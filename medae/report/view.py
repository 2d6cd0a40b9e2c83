"""A scan with its results, small enough to lie inside a page: for the interactive viewer and for tiles.

The page holds about two million voxels a scan; what is measured is measured on the files, not on this.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medae.formats.raw import RawImage, rows_of
from medae.report.colours import label_colour
from medae.report.thumbnail import thumbnail
from medae.volume import NativeGrid, spacing_of, to_ras

MOST_VOXELS = 2_000_000
STEPS = 250
"""Of a map, from 0 to the highest that is shown."""


@dataclass(frozen=True)
class Backdrop:
    """A scan on nearest-RAS axes, every so many voxels: uint8 ``[I, J, K]``, black to white.

    affine: 4x4 of these voxels, mm. strides: voxels of the scan along I, J, K that are one here.
    """

    array: np.ndarray
    affine: np.ndarray
    strides: tuple[int, int, int]

    @classmethod
    def of(cls, image_IJK: np.ndarray, affine: np.ndarray) -> Backdrop:
        """image: float, on nearest-RAS axes with this affine. The 1st to 99.5th percentiles go from black to white."""
        strides = _strides(image_IJK.shape, spacing_of(affine))
        small = image_IJK[tuple(slice(None, None, stride) for stride in strides)]
        low, high = (float(value) for value in np.percentile(small, (1, 99.5)))
        shades = np.clip((small - low) / max(high - low, 1e-6), 0, 1)
        return cls((255 * shades).astype(np.uint8), affine @ np.diag([*strides, 1.0]), strides)

    def reduced(self, array: np.ndarray, native: NativeGrid, *, highest: bool) -> np.ndarray:
        """A result on the file's axes, on these voxels. highest: the largest value of a block, else that of its corner."""
        whole = to_ras(array[None], native.matrix())[0]
        if not highest:
            return np.ascontiguousarray(whole[tuple(slice(None, None, stride) for stride in self.strides)])
        for axis, stride in enumerate(self.strides):
            starts = np.arange(0, whole.shape[axis], stride)
            whole = np.maximum.reduceat(whole, starts, axis=axis)
        return whole


@dataclass(frozen=True)
class Overlay:
    """What lies over a backdrop: uint8 on its voxels. names: of a label map's values; None of a map of numbers, which is
    stored in steps of ``unit``. window: of a map: where it begins to show, and the highest colour."""

    title: str
    array: np.ndarray
    names: Mapping[int, str] | None = None
    unit: float = 1.0
    window: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def labels(cls, title: str, array: np.ndarray, names: Mapping[int, str]) -> Overlay:
        """Of a label map; values above 255 are drawn as 255."""
        return cls(title, np.clip(array, 0, 255).astype(np.uint8), dict(names))

    @classmethod
    def map(cls, title: str, array: np.ndarray, window: tuple[float, float]) -> Overlay:
        """Of a map of numbers from 0 on."""
        unit = max(float(array.max()), window[1], 1e-6) / STEPS
        return cls(title, np.clip(np.rint(array / unit), 0, STEPS).astype(np.uint8), None, unit, window)


def drawn_over(
    backdrop: Backdrop,
    native: NativeGrid,
    title: str,
    array: np.ndarray,
    names: Mapping[int, str] | None = None,
    window: tuple[float, float] = (0.0, 1.0),
) -> Overlay:
    """A result on the file's axes over a backdrop: of a map (names None) and of a single label the highest of each block."""
    small = backdrop.reduced(array, native, highest=names is None or len(names) == 1)
    return Overlay.map(title, small, window) if names is None else Overlay.labels(title, small, names)


@dataclass(frozen=True)
class View:
    """A scan with its results. name: of the scan. lines: what stands beside it."""

    name: str
    backdrop: Backdrop
    overlays: Sequence[Overlay]
    lines: Sequence[str] = ()

    @classmethod
    def on_file(
        cls,
        name: str,
        image: np.ndarray,
        affine: np.ndarray,
        layers: Sequence[tuple[str, np.ndarray, Mapping[int, str] | None, tuple[float, float]]],
        lines: Sequence[str] = (),
    ) -> View:
        """Of arrays on a file's own three axes. affine: 4x4, voxel to world mm. layers: title, array, names, window, as in
        ``drawn_over``."""
        i, j, k = image.shape
        native = NativeGrid(shape=(i, j, k), affine=rows_of(affine, Path(name)))
        backdrop = Backdrop.of(to_ras(image[None], native.matrix())[0], native.ras()[1])
        return cls(name, backdrop, [drawn_over(backdrop, native, *layer) for layer in layers], lines)

    def tile(self) -> bytes:
        """Three planes as WebP, the first label map over them."""
        grid = _grid(self.backdrop)
        labels = next((each for each in self.overlays if each.names is not None), None)
        over = None if labels is None else RawImage(labels.array.astype(np.int16), grid)
        return thumbnail(RawImage(self.backdrop.array.astype(np.float32), grid), over)

    def content(self) -> dict[str, Any]:
        """In plain JSON types, for the page's script: NIfTI files in base64, and how they are shown."""
        overlays: list[dict[str, Any]] = []
        for each in self.overlays:
            entry: dict[str, Any] = {"title": each.title, "volume": self._nifti(each.array, each.unit)}
            if each.names is not None:
                entry["labels"] = [[value, name, label_colour(value)] for value, name in each.names.items()]
            else:
                entry |= {"window": list(each.window), "highest": STEPS * each.unit}
            overlays.append(entry)
        scan = self._nifti(self.backdrop.array, 1.0)
        return {"name": self.name, "lines": list(self.lines), "scan": scan, "overlays": overlays, "at": self.place()}

    def place(self) -> list[float]:
        """Where to look first, mm: the peak of the first map, else the middle of what is labelled, else of the scan."""
        first = next((each for each in self.overlays if each.names is None), None)
        voxel = (np.array(self.backdrop.array.shape) - 1) / 2
        labelled = np.argwhere(self.overlays[0].array) if self.overlays and first is None else np.zeros((0, 3))
        if first is not None and first.array.any():
            voxel = np.array(np.unravel_index(int(first.array.argmax()), first.array.shape), dtype=float)
        elif len(labelled):
            middle = labelled.mean(axis=0)
            voxel = labelled[int(np.square(labelled - middle).sum(axis=1).argmin())].astype(float)
        return [round(float(value), 2) for value in (self.backdrop.affine @ (*voxel, 1.0))[:3]]

    def _nifti(self, array: np.ndarray, unit: float) -> str:
        image = nib.Nifti1Image(array, self.backdrop.affine)
        image.header.set_slope_inter(unit, 0.0)
        return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode()


def _strides(shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, int, int]:
    """The finest axis is thinned out first, until few enough voxels are left."""
    strides = [1, 1, 1]
    while np.prod([-(-size // stride) for size, stride in zip(shape, strides, strict=True)]) > MOST_VOXELS:
        axis = int(np.argmin([step * stride for step, stride in zip(spacing, strides, strict=True)]))
        strides[axis] += 1
    return strides[0], strides[1], strides[2]


def _grid(backdrop: Backdrop) -> NativeGrid:
    i, j, k = backdrop.array.shape
    return NativeGrid(shape=(i, j, k), affine=rows_of(backdrop.affine, Path("view")))
