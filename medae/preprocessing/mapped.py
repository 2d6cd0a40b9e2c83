"""Reading a piece of an array that is mapped from disk, and of the file only the pages that hold it."""

from __future__ import annotations

import mmap
from itertools import product

import numpy as np


def piece(array_CIJK: np.ndarray, place: tuple[slice, slice, slice]) -> np.ndarray:
    """View of a place ``[C, *sizes]``, about to be read.

    By itself the system reads far around every page that is touched, with some disks the whole file. Of an array mapped by
    `numpy.memmap` it is told to leave that, and which pages are needed, so that it fetches them all at once. Elsewhere, and
    where the system takes no advice, this is plain slicing.
    """
    view = array_CIJK[(slice(None), *place)]
    mapped = getattr(view, "_mmap", None)
    if mapped is None or not view.size or not hasattr(mmap, "MADV_RANDOM"):
        return view
    mapped.madvise(mmap.MADV_RANDOM)
    start = _address(view) - _address(np.frombuffer(mapped, dtype=np.uint8))
    # stretches of the file: one for each step along the channels and along the axis that is outermost on disk
    first, *inner = sorted((1, 2, 3), key=lambda axis: -view.strides[axis])
    length = view.itemsize + sum((view.shape[axis] - 1) * view.strides[axis] for axis in inner)
    for channel, step in product(range(view.shape[0]), range(view.shape[first])):
        begin = start + channel * view.strides[0] + step * view.strides[first]
        page = begin - begin % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, begin + length - page)
    return view


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])
