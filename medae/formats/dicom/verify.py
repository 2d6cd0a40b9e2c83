"""Whether a conversion agrees with the headers: grid, place of each slice, stored value x slope + intercept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from medae.formats.dicom.frames import Slice
from medae.formats.dicom.pixels import values_of
from medae.formats.dicom.stack import TOLERANCE, Stack, corners_of, in_plane

SAME_VALUE = 1e-5
"""Relative: converters keep slopes and values in single precision."""

Read = Callable[[Stack, int], np.ndarray | None]


def same_grid(array: np.ndarray, affine: np.ndarray, stack: Stack) -> tuple[np.ndarray, str | None]:
    """A converted array on the stack's own axes, and what is wrong with its grid: size, or a corner more than 0.01 mm apart.

    array, affine: as the converter wrote them, on axes of its choice, RAS mm.
    """
    if array.ndim != 3 or sorted(array.shape) != sorted(stack.shape):
        return array, f"it made an image of {' x '.join(map(str, array.shape))} voxels"
    orientation = io_orientation(np.linalg.inv(stack.affine) @ affine)
    if np.isnan(orientation).any():
        return array, "it made an image with an unusable affine"
    turned = apply_orientation(array, orientation)
    if turned.shape != stack.shape:
        return array, "it made an image on other axes"
    found = corners_of(stack.shape, affine @ inv_ornt_aff(orientation, array.shape))
    apart = np.linalg.norm(found - corners_of(stack.shape, stack.affine), axis=1).max()
    if not apart <= TOLERANCE:
        return turned, f"its corners lie up to {apart:.3g} mm from where the headers have them"
    return np.ascontiguousarray(turned), None


def same_plane(image: sitk.Image, item: Slice) -> str | None:
    """What is wrong with the place of a slice as SimpleITK reads it. Of a file of many frames it gives no places."""
    direction = np.reshape(image.GetDirection(), (3, -1)) if image.GetDimension() == 3 else None
    if direction is None or item.position is None or image.GetSize()[2] > 1:
        return None
    columns, rows = in_plane(item)
    ends = np.array(item.size) - 1
    found = direction[:, :2] * np.array(image.GetSpacing()[:2])
    apart = max(
        float(
            np.linalg.norm(
                np.array(image.GetOrigin()) + found @ corner - item.position - columns * corner[0] - rows * corner[1]
            )
        )
        for corner in np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * ends
    )
    return None if apart <= TOLERANCE else f"it lies up to {apart:.3g} mm from where its header has it"


def same_values(array: np.ndarray, stack: Stack, other: Read | None = None) -> str | None:
    """What is wrong with the values of the first, the middle and the last slice, ``[columns, rows, slices]``; of all
    slices, if they differ in slope or intercept: converters may apply one slice's to others, and an empty slice hides it.

    They are compared with what pydicom decodes, times slope plus intercept; where pydicom has no decoder, with what
    ``other`` reads; where that cannot read them either, not at all, which is no agreement if slopes differ.
    """
    count = len(stack.slices)
    has_one_scale = len({(item.slope, item.intercept) for item in stack.slices}) == 1
    for place in sorted({0, count // 2, count - 1}) if has_one_scale else range(count):
        item = stack.slices[place]
        expected = values_of(item)
        if expected is None and other is not None:
            expected = other(stack, place)
        if expected is None and other is not None and not has_one_scale:
            return f"its values in slice {place + 1}, where slopes differ between slices, cannot be verified"
        if expected is None:
            continue
        scale = max(abs(item.slope), float(np.abs(expected).max()))
        apart = float(np.abs(array[:, :, place] - expected).max())
        if not apart <= SAME_VALUE * scale:
            return f"its values in slice {place + 1} are up to {apart:.3g} from stored value x slope + intercept"
    return None
