"""Left and right: label maps whose structures lie on the wrong side of the body."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
from scipy import ndimage

from medae.data.remarks import Remark

SIDES = {"left": "left", "lh": "left", "lt": "left", "right": "right", "rh": "right", "rt": "right"}
LETTERS = {"l": "left", "r": "right"}
"""Sides only where there is a name of the other one too: a lone letter may be anything, as in ``vertebra L1``."""

APART_MM = 3.0
"""Two structures whose centres lie nearer along the left-right axis say nothing about sides."""


def side_pairs(names: Mapping[int, str]) -> list[tuple[int, int, str]]:
    """Label values of a left structure and of its right counterpart, with the name that they share.

    Names such as ``Left Hippocampus`` / ``Right Hippocampus``, ``lung_left`` / ``lung_right``, ``ctx-lh-insula``.
    """
    found: dict[tuple[str, ...], dict[str, int]] = {}
    for value, name in names.items():
        side, rest = _side_of(name, SIDES)
        if side is None:
            side, rest = _side_of(name, LETTERS)
        if side is not None:
            found.setdefault(rest, {})[side] = value
    return [(pair["left"], pair["right"], " ".join(rest)) for rest, pair in found.items() if len(pair) == 2]


def has_sides(names: Mapping[int, str]) -> bool:
    """Whether any label names a side of the body, so that a mirror image along left-right has another label map.

    A word (``left``, ``rh``) counts by itself, a letter (``L Thalamus``) only beside its counterpart.
    """
    return bool(side_pairs(names)) or any(_side_of(name, SIDES)[0] is not None for name in names.values())


def _side_of(name: str, sides: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
    """``left`` or ``right`` if a name has one of the two, and its other words. sides: what counts as one."""
    words = re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    found = [sides[word] for word in words if word in sides]
    return (found[0] if len(found) == 1 else None), tuple(word for word in words if word not in sides)


def wrong_sides(
    labels_IJK: np.ndarray, affine: np.ndarray, names: Mapping[int, str], *, are_stated: bool = True
) -> Iterator[Remark]:
    """A remark if left structures lie to the right of their counterparts.

    labels: integers, on any axes; affine: 4x4, voxel -> world mm, RAS, so that left has the smaller first coordinate.
    are_stated: whether the file says where left is. An error if it does and the remark holds for every pair that can be
    told apart, which a flipped image or affine explains; else a warning.
    """
    pairs = side_pairs(names)
    if not pairs:
        return
    values = sorted({value for left, right, _ in pairs for value in (left, right)})
    centres = _centres(labels_IJK, values)
    wrong, told = [], 0
    for left, right, name in pairs:
        if left in centres and right in centres:
            offset = float(affine[0, :3] @ (centres[left] - centres[right]))
            told += abs(offset) >= APART_MM
            wrong += [(name, offset)] if offset >= APART_MM else []
    if not wrong:
        return
    name, offset = wrong[0]
    text = f"has 'left {name}' {offset:.0f} mm to the right of 'right {name}' ({len(wrong)} of {told} pairs)"
    remedy = "Left and right are swapped: in the affine, in the array, or in the label names."
    if not are_stated:
        remedy = "Its file does not say where left is: convert it from its source again, or make sure of its sides."
    yield Remark("error" if are_stated and len(wrong) == told else "warning", "sides", text, remedy)


def _centres(labels_IJK: np.ndarray, values: list[int]) -> dict[int, np.ndarray]:
    """Mean voxel coordinates of each label that occurs."""
    boxes = ndimage.find_objects(labels_IJK, max_label=max(values))
    centres = {}
    for value in values:
        box = boxes[value - 1] if value > 0 else None
        if box is not None:
            inside = np.argwhere(labels_IJK[box] == value).mean(axis=0)
            centres[value] = inside + [limits.start for limits in box]
    return centres
