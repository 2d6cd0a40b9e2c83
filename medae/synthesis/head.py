"""Heads in other contrasts: one real scan with a brain mask, imaged anew with random tissue intensities and lesions.

What a network that has to find the brain in any MR contrast is trained on, after the idea of Billot et al. 2023, "SynthSeg:
Segmentation of brain MRI scans of any contrast and resolution without retraining": contrast is drawn, not learnt. Here
tissues are classes of the scan's own intensities, inside and outside the brain, so that no atlas is needed. Arrays are
``[I, J, K]`` in RAS axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import Field, model_validator
from scipy import ndimage
from skimage.filters import threshold_multiotsu, threshold_otsu

from medae.config import Config
from medae.synthesis.contrast import bias_field, limit_resolution, rician_noise
from medae.synthesis.lesions import LesionConfig, insert_lesion, random_lesion

RECIPE = 1  # raise it whenever the same arguments would give other images
AIR, DARK = 0, 1
INSIDE, OUTSIDE = 3, 3
"""Classes of intensity inside the brain, and of tissue outside it."""


class RenderConfig(Config):
    """What is drawn for each rendering of a head; ranges are (lowest, highest), uniform in between.

    own_contrast: probability that the scan keeps its own contrast. stripped: probability that what is outside the brain is
    taken away, in half of them all of it, in half beyond a margin. margin_mm: the widest margin. clean: probability that air
    is exactly 0. lesions: probability that some are put in. lesion: what lesions. thickness: of the slices, in voxels of the
    superior axis. shading: logarithm of the bias field's span. noise: standard deviation, a share of the brightest tissue.
    """

    own_contrast: float = Field(default=0.25, ge=0, le=1)
    stripped: float = Field(default=0.35, ge=0, le=1)
    margin_mm: float = Field(default=6.0, ge=0)
    clean: float = Field(default=0.4, ge=0, le=1)
    lesion: LesionConfig = LesionConfig(
        number=(1, 2), size_mm=(8.0, 60.0), blur_mm=(1.0, 6.0), contrast=(0.1, 0.8), bright=0.7
    )
    lesions: float = Field(default=0.7, ge=0, le=1)
    thickness: tuple[float, float] = (1.0, 3.0)
    shading: tuple[float, float] = (0.1, 0.7)
    noise: tuple[float, float] = (0.01, 0.07)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("thickness", "shading", "noise"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive values, the lower one first, not {low} and {high}")
        return self


@dataclass(frozen=True)
class Head:
    """A head in classes. image: float32, its brightest tissue about 1. brain: bool. classes: int8, air 0, then dark places
    outside the brain (bone, sinus), tissues outside it from dark to bright, and those inside from dark to bright. means: of
    the image in each class."""

    image: np.ndarray
    brain: np.ndarray
    classes: np.ndarray
    means: np.ndarray


def classify(image: np.ndarray, brain: np.ndarray) -> Head:
    """The classes of a head. image: MR in the file's units. brain: bool, the same shape. Raises ValueError for an image
    with too few grey values inside or outside the brain to be parted."""
    image = np.asarray(image, dtype=np.float32)
    if not brain.any():
        raise ValueError("the brain mask is empty")
    dark = (image < threshold_otsu(image)) & ~brain
    rest = ~dark & ~brain
    if not rest.any():
        raise ValueError("there is no tissue outside the brain mask")
    classes = np.zeros(image.shape, dtype=np.int8)
    pieces, _ = ndimage.label(dark)
    edges = [np.unique(np.take(pieces, end, axis)) for axis in range(3) for end in (0, -1)]
    classes[dark & ~np.isin(pieces, np.unique(np.concatenate(edges)))] = DARK
    classes[rest] = 1 + DARK + np.digitize(image[rest], threshold_multiotsu(image[rest], OUTSIDE))
    classes[brain] = 1 + DARK + OUTSIDE + np.digitize(image[brain], threshold_multiotsu(image[brain], INSIDE))
    image = image / np.float32(np.percentile(image[~dark], 99))
    count = 1 + DARK + OUTSIDE + INSIDE
    size = np.maximum(np.bincount(classes.ravel(), minlength=count), 1)
    means = np.bincount(classes.ravel(), weights=image.ravel(), minlength=count) / size
    return Head(image, brain, classes, means.astype(np.float32))


def render_head(head: Head, spacing: Sequence[float], config: RenderConfig, rng: np.random.Generator) -> np.ndarray:
    """One rendering: int16 ``[I, J, K]``, brightest tissue about 1000. The brain stays where it is.

    spacing: mm along I, J, K.
    """
    image = head.image if rng.uniform() < config.own_contrast else _recoloured(head, rng)
    if rng.uniform() < config.lesions:
        image = _with_lesions(image, head.brain, spacing, config.lesion, rng)
    widths = np.asarray(spacing) * [*rng.uniform(1.0, 1.6, size=2), rng.uniform(*config.thickness)]
    image = limit_resolution(image, spacing, tuple(widths))
    image = image * bias_field(image.shape, spacing, rng, strength=rng.uniform(*config.shading))
    air = head.classes == AIR
    if rng.uniform() < config.stripped:
        margin = rng.uniform(-config.margin_mm, config.margin_mm)  # below 0: nothing but the brain is left, in half of them
        air = ndimage.distance_transform_edt(~head.brain, sampling=spacing) > max(margin, 0.0)
        image = np.where(air, np.float32(0), image)
    image = rician_noise(image, rng, sigma=rng.uniform(*config.noise))
    if rng.uniform() < config.clean:
        image = np.where(air, np.float32(0), image)
    return np.asarray(np.clip(np.rint(1000 * image), 0, 32000), dtype=np.int16)


def _recoloured(head: Head, rng: np.random.Generator) -> np.ndarray:
    """Each class around a mean of its own, with the texture of the scan, more or less of it, and in some upside down."""
    after = rng.uniform(0.05, 1.0, size=len(head.means))
    after[AIR], after[DARK] = 0.0, rng.uniform(0.0, 0.25)
    texture = rng.uniform(0.3, 1.2, size=len(after)) * rng.choice([1.0, -1.0], size=len(after), p=[0.75, 0.25])
    texture[AIR] = 1.0
    changed = after[head.classes] + texture[head.classes] * (head.image - head.means[head.classes])
    return np.maximum(changed, 0).astype(np.float32)


def _with_lesions(
    image: np.ndarray, brain: np.ndarray, spacing: Sequence[float], config: LesionConfig, rng: np.random.Generator
) -> np.ndarray:
    """Lesions anywhere in the brain, at its edge too, cut off there; the larger ones in some with a core of its own."""
    places = np.argwhere(brain)
    for _ in range(int(rng.integers(*config.number, endpoint=True))):
        centre = tuple(places[rng.integers(len(places))].astype(float))
        size = rng.uniform(*config.size_mm)
        for share in (1.0, *([rng.uniform(0.3, 0.7)] if size > 20 and rng.uniform() < 0.5 else [])):
            contrast = rng.uniform(*config.contrast) * (1 if rng.uniform() < config.bright else -1)
            soft = random_lesion(
                image.shape, spacing, centre, rng, size_mm=share * size, blur_mm=rng.uniform(*config.blur_mm)
            )
            image = insert_lesion(image, soft * brain, contrast=contrast, reference=1.0)
    return image
