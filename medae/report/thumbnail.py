"""A small picture of a scan: three planes at true proportions with the body's sides, its label map over it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medae.formats.raw import RawImage
from medae.report.colours import DARK, ON_DARK, label_colour
from medae.report.planes import Cut, Scene

WIDTH, HEIGHT = 800, 220
"""Pixels of the whole picture at most, and of its highest plane."""

THINNEST = 14
"""Pixels of a plane at least: a stack of two slices would be a line."""

GAP = 3
OPACITY = 0.2
"""Of a label inside its outline."""

LETTERS, ROOM = 11, 44
"""Height of the letters in pixels, and of a plane that has room for them."""

SAMPLE = 200_000


def thumbnail(image: RawImage, labels: RawImage | None) -> bytes:
    """Axial, coronal and sagittal planes side by side, as WebP, in radiological convention.

    image: any units; the 1st to 99.5th percentiles are shown from black to white. labels: on the same grid up to the order
    of axes; planes go through where most of it is, else through the middle. A label map of another shape is left out.
    """
    grey = np.abs(image.array) if np.iscomplexobj(image.array) else image.array
    scene = Scene(image.native.matrix())
    grey_IJK = np.nan_to_num(scene.ras(grey).astype(np.float32))
    label_IJK = None if labels is None else Scene(labels.native.matrix()).ras(labels.array)
    if label_IJK is not None and label_IJK.shape != grey_IJK.shape:
        label_IJK = None
    sample = grey_IJK.ravel()[:: max(1, grey_IJK.size // SAMPLE)]
    low, high = np.percentile(sample, [1, 99.5])
    shades = np.clip((grey_IJK - low) / max(high - low, 1e-6), 0, 1)
    cuts = scene.orthogonal(np.zeros(shades.shape, bool) if label_IJK is None else label_IJK != 0)
    sizes = np.array([cut.size_mm(shades.shape) for cut in cuts])
    scale = min(WIDTH / sizes[:, 0].sum(), HEIGHT / sizes[:, 1].max())
    pixels = [(max(THINNEST, round(width * scale)), max(THINNEST, round(height * scale))) for width, height in sizes]
    tallest = max(height for _, height in pixels)
    strip = np.zeros((tallest, sum(width for width, _ in pixels) + GAP * (len(cuts) - 1), 3), np.uint8)
    left = 0
    for cut, (width, height) in zip(cuts, pixels, strict=True):
        top = (tallest - height) // 2
        strip[top : top + height, left : left + width] = _panel(cut, (width, height), shades, label_IJK)
        left += width + GAP
    buffer = io.BytesIO()
    Image.fromarray(strip).save(
        buffer, format="WEBP", quality=75, method=1
    )  # four times as fast as the default, a tenth larger
    return buffer.getvalue()


def _panel(cut: Cut, size: tuple[int, int], shades_IJK: np.ndarray, label_IJK: np.ndarray | None) -> np.ndarray:
    """One plane of ``size`` (width, height) pixels: ``[height, width, 3]``, uint8."""
    grey = Image.fromarray((cut.of(shades_IJK) * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    colour = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2).astype(np.float32)
    if label_IJK is not None:
        plane = np.ascontiguousarray(cut.of(label_IJK).astype(np.int32))
        labels = np.asarray(Image.fromarray(plane, mode="I").resize(size, Image.Resampling.NEAREST))
        for value in np.unique(labels[labels > 0]):
            tint = np.frombuffer(bytes.fromhex(label_colour(int(value))[1:]), np.uint8)
            colour[labels == value] = (1 - OPACITY) * colour[labels == value] + OPACITY * tint
            colour[_rim(labels == value)] = tint
    return _marked(colour.astype(np.uint8), cut.marks)


def _rim(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask that touch another one above, below, left or right; those at the border of the picture too."""
    wide = np.pad(mask, 1)
    inside = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return np.asarray(mask & ~inside)


def _marked(pixels: np.ndarray, marks: tuple[str, str, str, str]) -> np.ndarray:
    """With the letters of the sides at left, right, top and bottom, where there is room for them."""
    height, width = pixels.shape[:2]
    if min(height, width) < ROOM:
        return pixels
    picture = Image.fromarray(pixels)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(LETTERS)
    places = ((4, height / 2, "lm"), (width - 4, height / 2, "rm"), (width / 2, 3, "mt"), (width / 2, height - 4, "mb"))
    for text, (x, y, anchor) in zip(marks, places, strict=True):
        pen.text((x, y), text, fill=ON_DARK, font=font, anchor=anchor, stroke_width=1, stroke_fill=DARK)
    return np.asarray(picture)
