"""Several volumes in one series: phases of contrast, echoes, b-values, time points; and files that are there twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from medae.formats.dicom.frames import Slice
from medae.formats.dicom.stack import TOLERANCE, normal_of

MARKS = (
    "stack",
    "echo time",
    "echo number",
    "b-value",
    "gradient direction",
    "inversion time",
    "temporal position",
    "image type",
    "acquisition number",
    "trigger time",
    "acquisition time",
    "content time",
)
"""What may tell phases apart, the most telling first."""


class Phases(NamedTuple):
    """volumes: the slices of each phase, first phase first. by: what tells them apart, in words."""

    volumes: tuple[tuple[Slice, ...], ...]
    by: str


def places_of(slices: Sequence[Slice]) -> np.ndarray:
    """The number of the place of each slice along the normal; slices in one place share it."""
    depths = np.array([item.position for item in slices], dtype=np.float64) @ normal_of(slices[0])
    order = np.argsort(depths, kind="stable")
    places = np.empty(len(slices), dtype=np.int64)
    places[order] = np.concatenate([[0], np.cumsum(np.diff(depths[order]) >= TOLERANCE)])
    return places


def without_copies(slices: Sequence[Slice], content: Callable[[Slice], Hashable]) -> tuple[tuple[Slice, ...], int]:
    """The slices without those whose place, marks and contents are those of another one, and how many went.

    content: what stands for a slice's pixels; asked only for slices of the same place and marks.
    """
    keys = [(int(place), item.marks) for place, item in zip(places_of(slices), slices, strict=True)]
    count = Counter(keys)
    seen: set[Hashable] = set()
    kept = []
    for key, item in zip(keys, slices, strict=True):
        whole = (key, content(item)) if count[key] > 1 else key
        if whole not in seen:
            kept.append(item)
        seen.add(whole)
    return tuple(kept), len(slices) - len(kept)


def phases_of(slices: Sequence[Slice]) -> Phases | None:
    """Slices sorted into volumes with one slice a place; None if nothing in the headers sorts them.

    One volume if no place is taken twice. A mark sorts them if it has as many values as the fullest place has slices, and
    never gives one place two slices; else two marks together; else the order of instance numbers, if every place has the
    same number of slices.
    """
    places = places_of(slices)
    most = int(np.bincount(places).max())
    if most == 1:
        return Phases((tuple(slices),), "")
    known = [name for name in MARKS if len({item.mark(name) for item in slices}) > 1]
    for names in [(name,) for name in known] + list(combinations(known, 2)):
        groups = _grouped(slices, places, names)
        if groups is not None and len(groups) == most:
            return Phases(tuple(groups), " and ".join(names))
    if np.all(np.bincount(places) == most):
        return Phases(_by_order(slices, places, most), "instance number")
    return None


def _grouped(slices: Sequence[Slice], places: np.ndarray, names: Sequence[str]) -> list[tuple[Slice, ...]] | None:
    groups: dict[Hashable, list[Slice]] = {}
    taken: set[Hashable] = set()
    for place, item in zip(places, slices, strict=True):
        value = tuple(item.mark(name) for name in names)
        if (int(place), value) in taken:
            return None
        taken.add((int(place), value))
        groups.setdefault(value, []).append(item)

    def rank(entry: tuple[Hashable, list[Slice]]) -> tuple[object, ...]:
        value = entry[0]
        assert isinstance(value, tuple)
        return (*((part is not None, isinstance(part, str), part) for part in value), min(item.order for item in entry[1]))

    return [tuple(group) for _, group in sorted(groups.items(), key=rank)]


def _by_order(slices: Sequence[Slice], places: np.ndarray, most: int) -> tuple[tuple[Slice, ...], ...]:
    volumes: list[list[Slice]] = [[] for _ in range(most)]
    filled = Counter[int]()
    for row in sorted(range(len(slices)), key=lambda row: slices[row].order):
        place = int(places[row])
        volumes[filled[place]].append(slices[row])
        filled[place] += 1
    return tuple(map(tuple, volumes))
