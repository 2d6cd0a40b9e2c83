"""Lesions: of the stated size, edge and contrast, connected, and not spheres."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage

from medae.synthesis.lesions import LesionConfig, insert_lesion, random_lesion

SHAPE, CENTRE = (64, 64, 48), (32, 32, 24)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.floats(6, 18), blur=st.floats(0.5, 4))
def test_volume_is_that_of_the_sphere_and_in_one_piece(seed: int, size: float, blur: float) -> None:
    spacing = (1.0, 1.0, 1.5)
    lesion = random_lesion(SHAPE, spacing, CENTRE, np.random.default_rng(seed), size_mm=size, blur_mm=blur)
    label = lesion > 0.5
    assert label.sum() * 1.5 == pytest.approx(np.pi / 6 * size**3, rel=0.02, abs=3)
    parts, _ = ndimage.label(label, structure=np.ones((3, 3, 3)))
    assert np.bincount(parts[label]).max() >= 0.98 * label.sum()
    assert lesion[CENTRE] > 0.5
    assert lesion.min() >= 0
    assert lesion.max() <= 1


def test_edge_is_as_wide_as_stated() -> None:
    def edge_voxels(blur: float) -> int:
        lesion = random_lesion(SHAPE, (1, 1, 1), CENTRE, np.random.default_rng(0), size_mm=16, blur_mm=blur, roughness=0)
        return int(((lesion > 0.1) & (lesion < 0.9)).sum())

    surface = np.pi * 16**2
    assert edge_voxels(2.0) / surface == pytest.approx(2.0, rel=0.35)  # of an ellipsoid, a little more than a sphere's
    assert edge_voxels(4.0) / edge_voxels(2.0) == pytest.approx(2.0, rel=0.15)


def test_lesions_are_irregular_and_differ() -> None:
    def overlap_with_sphere(lesion: np.ndarray) -> float:
        offsets = np.indices(SHAPE) - np.reshape(CENTRE, (3, 1, 1, 1))
        sphere = np.linalg.norm(offsets, axis=0) <= 9
        return float(2 * (sphere & (lesion > 0.5)).sum() / (sphere.sum() + (lesion > 0.5).sum()))

    lesions = [random_lesion(SHAPE, (1, 1, 1), CENTRE, np.random.default_rng(s), size_mm=18, blur_mm=2) for s in range(4)]
    assert max(map(overlap_with_sphere, lesions)) < 0.93
    assert min(map(overlap_with_sphere, lesions)) > 0.5
    assert (lesions[0] != lesions[1]).any()
    again = random_lesion(SHAPE, (1, 1, 1), CENTRE, np.random.default_rng(0), size_mm=18, blur_mm=2)
    np.testing.assert_array_equal(lesions[0], again)


def test_a_lesion_at_the_border_is_cut_off_and_one_outside_is_empty() -> None:
    def draw(centre: tuple[int, int, int]) -> np.ndarray:
        return random_lesion(SHAPE, (1, 1, 1), centre, np.random.default_rng(3), size_mm=14, blur_mm=1)

    inside, corner = draw(CENTRE), draw((0, 0, 0))
    np.testing.assert_array_equal(corner[:20, :20, :20], inside[32:52, 32:52, 24:44])
    assert draw((200, 0, 0)).max() == 0


def test_contrast_is_a_share_of_the_reference_by_hand() -> None:
    image = np.array([[1.0, 2.0, 3.0, 9.0]], dtype=np.float32)
    lesion = np.array([[1.0, 0.5, 0.5, 0.0]], dtype=np.float32)  # weighted mean (1 + 1 + 1.5) / 2 = 1.75
    added = insert_lesion(image, lesion, contrast=0.5, reference=2.0, uniformity=0.0)
    np.testing.assert_allclose(added, [[2.0, 2.5, 3.5, 9.0]])
    replaced = insert_lesion(image, lesion, contrast=0.5, reference=2.0, uniformity=1.0)
    np.testing.assert_allclose(replaced, [[2.75, 0.5 * 2 + 0.5 * 2.75, 0.5 * 3 + 0.5 * 2.75, 9.0]])
    dark = insert_lesion(image, lesion, contrast=-5.0, reference=2.0)
    assert dark[0, 0] == 0
    assert dark[0, 3] == 9
    np.testing.assert_array_equal(insert_lesion(image, np.zeros_like(lesion), contrast=1, reference=1), image)


@pytest.mark.parametrize(
    "settings", [{"size_mm": (20, 10)}, {"size_mm": (20, 90)}, {"blur_mm": (0, 1)}, {"number": (0, 2)}, {"bright": 1.5}]
)
def test_ranges_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LesionConfig.model_validate(settings)
