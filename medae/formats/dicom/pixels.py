"""Pixels of single slices, decoded by pydicom: what a conversion is compared with, and what tells copies from phases."""

from __future__ import annotations

import hashlib

import numpy as np
from pydicom.pixels.utils import pixel_array

from medae.formats.dicom.frames import Slice
from medae.formats.dicom.headers import UNREADABLE
from medae.formats.dicom.quiet import pydicom


def values_of(item: Slice) -> np.ndarray | None:
    """A slice's values, stored value x slope + intercept, float64 ``[columns, rows]``; None if pydicom cannot decode it.

    Raises nothing: pixels that cannot be decoded are for the conversion to name.
    """
    try:
        stored = pixel_array(item.path, index=item.frame)
    except Exception:  # decoders raise whatever their libraries do
        return None
    values: np.ndarray = stored.astype(np.float64).T * item.slope + item.intercept
    return values if values.shape == item.size else None


def content_of(item: Slice) -> str:
    """SHA-256 over the bytes of a file's pixels, and the frame's number. Pixels that cannot be read are like no others."""
    try:
        pixels = pydicom.dcmread(item.path, specific_tags=["PixelData"], force=True).PixelData
    except UNREADABLE:
        return str(item.path)
    return f"{hashlib.sha256(pixels).hexdigest()}-{item.frame}"
