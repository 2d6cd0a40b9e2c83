"""Phantom brains: a real average brain, deformed and imaged anew. No phantom is a scan of a person.

The template is the ICBM-152 (2009a, symmetric) T1 average with its grey and white matter maps, skull-stripped, which the
nilearn wheel carries; CSF is what the two maps leave inside the brain. Arrays are ``[I, J, K]`` in RAS axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage

from medae.seeding import numpy_generator
from medae.synthesis.contrast import bias_field, limit_resolution, remap_tissues, rician_noise, tissue_means
from medae.synthesis.deformation import compose, random_displacement, sample, smooth_field
from medae.synthesis.lesions import LesionConfig, insert_lesion, random_lesion

RECIPE = 1  # raise it whenever the same arguments would give other images
TISSUES = {0: "background", 1: "csf", 2: "grey_matter", 3: "white_matter"}
LESIONS = {0: "background", 1: "lesion"}

# The world box that phantoms are imaged in, and the point about which heads are turned and scaled, in MNI mm.
# The template's brain lies within x -72..72, y -107..73, z -72..82, where its image ends below.
LOW_MM, HIGH_MM = np.array([-88.0, -124.0, -90.0]), np.array([88.0, 92.0, 98.0])
CENTRE_MM = np.array([0.0, -17.0, 5.0])


@dataclass(frozen=True)
class Template:
    """The average brain at 1 mm.

    t1, brain: float32. maps: csf, grey_matter, white_matter, float32 in [0, 1], sum 1 inside the brain and 0 outside.
    affine: voxel to MNI mm. means: T1 of each tissue. depth_mm: distance from the nearest place that is neither grey
    nor white matter, on every second voxel.
    """

    t1: np.ndarray
    brain: np.ndarray
    maps: dict[str, np.ndarray]
    affine: np.ndarray
    means: dict[str, float]
    depth_mm: np.ndarray


def load_template(resolution_mm: float) -> Template:
    """The template seen at a resolution (full width at half maximum), so that sampling it on such a grid does not alias."""
    from nilearn import datasets

    image = datasets.load_mni152_template(resolution=1)
    t1 = np.asarray(image.dataobj, dtype=np.float32)
    brain = (t1 > 0).astype(np.float32)
    grey = np.asarray(datasets.load_mni152_gm_template(resolution=1).dataobj, dtype=np.float32) * brain
    white = np.asarray(datasets.load_mni152_wm_template(resolution=1).dataobj, dtype=np.float32) * brain
    maps = {"csf": np.clip(brain - grey - white, 0, 1), "grey_matter": grey, "white_matter": white}
    depth = ndimage.distance_transform_edt((grey + white)[::2, ::2, ::2] > 0.5, sampling=2.0)
    seen = partial(limit_resolution, spacing=(1.0, 1.0, 1.0), resolution_mm=(resolution_mm,) * 3)
    return Template(
        t1=seen(t1),
        brain=seen(brain),
        maps={name: seen(share) for name, share in maps.items()},
        affine=np.asarray(image.affine, dtype=np.float64),
        means=tissue_means(t1, maps),
        depth_mm=depth,
    )


@dataclass(frozen=True)
class Phantom:
    """One synthetic brain: t1 int16 (0 outside the brain), tissue and lesion uint8, affine voxel to mm, lesions as drawn."""

    t1: np.ndarray
    tissue: np.ndarray
    lesion: np.ndarray
    affine: np.ndarray
    drawn: list[dict[str, float]]


def make_phantom(template: Template, spacing: float, lesions: LesionConfig | None, seed: int, subject: int) -> Phantom:
    """The phantom of that subject: a function of the arguments alone. With and without lesions its anatomy is the same.

    spacing: isotropic voxel size in mm. lesions: None for a brain without lesions.
    """
    stream = partial(numpy_generator, seed, "phantom", subject)
    shape = tuple(int(n) for n in np.ceil((HIGH_MM - LOW_MM) / spacing).astype(int) + 1)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = LOW_MM
    places = _places(template, affine, shape, stream("anatomy"))

    brain = sample(template.brain, places) > 0.5
    maps = {name: sample(share, places) * brain for name, share in template.maps.items()}
    total = np.maximum(np.sum(list(maps.values()), axis=0), 1e-6)
    maps = {name: share / total for name, share in maps.items()}
    tissue = np.where(brain, 1 + np.argmax(list(maps.values()), axis=0), 0).astype(np.uint8)

    rng = stream("contrast")
    after = {"csf": rng.uniform(0.12, 0.28), "grey_matter": rng.uniform(0.56, 0.72), "white_matter": 1.0}
    image = remap_tissues(sample(template.t1, places), maps, template.means, after, texture=rng.uniform(1.0, 1.3))
    grain = smooth_field(shape, (spacing,) * 3, rng, lattice_mm=9.0)[0]
    image = np.maximum(image * (1 + 0.12 * grain), 0)

    label, drawn = np.zeros(shape, dtype=np.uint8), list[dict[str, float]]()
    if lesions is not None:
        for soft, contrast, record in _lesions(template, places, lesions, stream("lesions")):
            spared = soft * np.clip(1.5 - 2 * maps["csf"], 0, 1) * brain
            image = insert_lesion(image, spared, contrast=contrast, reference=1.0)
            label[spared > 0.5] = 1
            drawn.append(record)
    image = _acquire(image, spacing, stream("scanner"))
    t1 = np.where(brain, np.clip(np.rint(image), 1, 4095), 0).astype(np.int16)
    return Phantom(t1=t1, tissue=tissue, lesion=label, affine=affine, drawn=drawn)


def _places(template: Template, affine: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Where each voxel of the phantom comes from: template voxel coordinates ``[3, *shape]``.

    A head's turn and size, then a broad and a fine one-to-one deformation.
    """
    spacing = tuple(np.diag(affine)[:3])
    broad = random_displacement(shape, spacing, rng, lattice_mm=55.0, amplitude_mm=14.0)
    fine = random_displacement(shape, spacing, rng, lattice_mm=22.0, amplitude_mm=7.0)
    linear = _rotation(np.deg2rad(rng.normal(0.0, 4.0, size=3))) * np.exp(rng.normal(0.0, 0.04, size=3))
    shift = rng.normal(0.0, 2.0, size=3)

    voxels = np.indices(shape, dtype=np.float32)
    world = voxels * affine[0, 0] + affine[:3, 3].reshape(3, 1, 1, 1) + compose(broad, fine, spacing)
    inverse = np.linalg.inv(template.affine)
    matrix = inverse[:3, :3] @ linear
    offset = inverse[:3, :3] @ (CENTRE_MM - linear @ CENTRE_MM + shift) + inverse[:3, 3]
    places: np.ndarray = np.tensordot(matrix, world, axes=1) + offset.reshape(3, 1, 1, 1)
    return places.astype(np.float32)


def _rotation(angles: np.ndarray) -> np.ndarray:
    """The rotation ``[3, 3]`` about x, then y, then z, by angles in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    rotation: np.ndarray = about_z @ about_y @ about_x
    return rotation


def _lesions(
    template: Template, places: np.ndarray, config: LesionConfig, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, float, dict[str, float]]]:
    """The soft map on the phantom's grid, the signed contrast and a record of each lesion.

    They grow in the template, centred in white matter and apart from each other, and are deformed with it. There are
    fewer than drawn where no room is left.
    """
    chance = np.where(template.depth_mm > 5.0, template.maps["white_matter"][::2, ::2, ::2], 0.0).astype(np.float64)
    grid = 2 * np.indices(chance.shape, dtype=np.float32)
    others: list[tuple[np.ndarray, float]] = []
    for _ in range(int(rng.integers(*config.number, endpoint=True))):
        size, blur = rng.uniform(*config.size_mm), rng.uniform(*config.blur_mm)
        contrast = rng.uniform(*config.contrast) * (1 if rng.uniform() < config.bright else -1)
        free = chance.copy()
        for centre, other in others:
            distance = np.linalg.norm(grid - centre.reshape(3, 1, 1, 1), axis=0)
            free[distance < 0.75 * (size + other) + blur] = 0
        if free.sum() == 0:
            return
        at = rng.choice(free.size, p=free.ravel() / free.sum())
        centre = 2 * np.array(np.unravel_index(at, free.shape))
        others.append((centre, size))
        soft = random_lesion(template.t1.shape, (1.0, 1.0, 1.0), tuple(centre), rng, size_mm=size, blur_mm=blur)
        record = {"size_mm": round(size, 2), "blur_mm": round(blur, 2), "contrast": round(contrast, 3)}
        yield sample(soft, places), contrast, record


def _acquire(image: np.ndarray, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """The anatomy (white matter 1) as a scanner shows it, in arbitrary units of a few hundred."""
    grid = (spacing,) * 3
    image = limit_resolution(image, grid, tuple(spacing * rng.uniform(1.0, 1.3, size=3)))
    image = image * bias_field(image.shape, grid, rng, strength=rng.uniform(0.1, 0.35))
    image = rician_noise(image, rng, sigma=rng.uniform(0.015, 0.035))
    return image * np.float32(rng.uniform(400, 900))
