"""The values of label maps and masks: which of them are labels, and which are not."""

from __future__ import annotations

import numpy as np

from medae.formats import LARGEST_LABEL

WHOLE = 1e-4
"""How far a stored label may be from a whole number: a header's scale factor rounds."""


def label_problem(array: np.ndarray, *, is_mask: bool = False) -> str | None:
    """A clause that says why the values of a label map cannot be used, or None.

    Labels are whole numbers from 0 to 32767. is_mask: every value but 0 is inside, so that any finite number will do.
    """
    if np.iscomplexobj(array):
        return "holds complex numbers"
    is_integer = array.dtype.kind in "biu"
    if is_mask:
        return None if is_integer or np.isfinite(array).all() else "holds values that are not finite numbers"
    odd: list[float]
    if is_integer:
        odd = [value for value in (int(array.min()), int(array.max())) if not 0 <= value <= LARGEST_LABEL]
    else:
        whole = np.rint(array)
        with np.errstate(invalid="ignore"):  # infinity has no distance from itself
            fits = (np.abs(array - whole) <= WHOLE) & (whole >= 0) & (whole <= LARGEST_LABEL)
        odd = [] if fits.all() else [float(array[~fits][0])]
    return f"has labels that are not whole numbers from 0 to {LARGEST_LABEL}, such as {odd[0]:g}" if odd else None


def as_labels(array: np.ndarray, *, is_mask: bool = False) -> np.ndarray:
    """The labels (int16) of an array without a `label_problem`; of a mask, 1 for every value but 0."""
    if is_mask:
        return (array != 0).astype(np.int16)
    return (array if array.dtype.kind in "biu" else np.rint(array)).astype(np.int16)


def count_labels(labels: np.ndarray) -> dict[int, int]:
    """Voxels by label. labels: whole numbers from 0 on."""
    numbers = np.bincount(labels.astype(np.intp, copy=False).ravel(order="K"))
    return {int(value): int(numbers[value]) for value in np.flatnonzero(numbers)}


def regroup(labels: np.ndarray, groups: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """A label map of any shape with k where its value is one of ``groups[k - 1]``, elsewhere 0; same type."""
    table = np.zeros(LARGEST_LABEL + 1, dtype=labels.dtype)
    for place, values in enumerate(groups, start=1):
        table[list(values)] = place
    return table[np.maximum(labels, 0)]
