"""Heads in other contrasts: the brain stays, contrast and lesions are drawn, the same draw is the same image."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from medae.seeding import numpy_generator
from medae.synthesis.head import AIR, DARK, Head, RenderConfig, classify, render_head
from medae.synthesis.lesions import LesionConfig

SPACING = (4.0, 4.0, 4.0)
QUIET = {
    "noise": (1e-6, 1e-6),
    "shading": (1e-6, 1e-6),
    "thickness": (1.0, 1.0),
    "stripped": 0.0,
    "clean": 1.0,
    "lesions": 0.0,
}


@pytest.fixture(scope="module")
def head() -> Head:
    """Balls in one another, from outside: air 0, three tissues of 90 to 110, bone 5, brain of three tissues, 40 to 80."""
    rng = np.random.default_rng(0)
    places = np.indices((40, 44, 38)) - np.array([20, 22, 19]).reshape(3, 1, 1, 1)
    distance = np.linalg.norm(places, axis=0)
    image = np.zeros(distance.shape)
    image[distance < 17] = 5
    shell = (distance < 17) & (distance >= 15)
    image[shell] = rng.choice([90, 100, 110], size=shell.sum())
    brain = distance < 13
    image[brain] = 80
    image[distance < 10] = 60
    image[distance < 5] = 40
    return classify(image, brain)


def test_the_classes_of_a_head_are_its_tissues(head: Head) -> None:
    centre, corner, between = (20, 22, 19), (0, 0, 0), (20, 22, 19 + 14)
    assert head.classes[corner] == AIR
    assert head.classes[between] == DARK
    assert head.classes[centre] == 5  # the darkest of three inside: 0 air, 1 dark, 2-4 outside, 5-7 inside
    assert head.classes[20 + 7, 22, 19] == 6
    assert head.classes[20 + 12, 22, 19] == 7
    assert set(np.unique(head.classes)) == set(range(8))
    np.testing.assert_allclose(head.means * 110, [0, 5, 90, 100, 110, 40, 60, 80], rtol=1e-3)


def test_a_scan_that_keeps_its_contrast_is_itself(head: Head) -> None:
    config = RenderConfig(own_contrast=1.0, **QUIET)
    made = render_head(head, SPACING, config, numpy_generator(0))
    inside = np.linalg.norm(np.indices(head.brain.shape) - np.array([20, 22, 19]).reshape(3, 1, 1, 1), axis=0) < 3
    np.testing.assert_allclose(made[inside], 1000 * 40 / 110, rtol=0.02)
    assert (made[head.classes == AIR] == 0).all()


def test_contrast_is_drawn_and_every_draw_is_another(head: Head) -> None:
    config = RenderConfig(own_contrast=0.0, **QUIET)
    made = [render_head(head, SPACING, config, numpy_generator(0, n)) for n in range(12)]
    core = np.array([image[20, 22, 19] for image in made], dtype=float)
    shell = np.array([image[20 + 12, 22, 19] for image in made], dtype=float)
    assert len({round(value) for value in core}) == 12
    assert 0 < (core > shell).sum() < 12  # now one tissue is brighter, now the other
    np.testing.assert_array_equal(made[3], render_head(head, SPACING, config, numpy_generator(0, 3)))


def test_stripped_leaves_nothing_beyond_the_margin(head: Head) -> None:
    quiet = QUIET | {"stripped": 1.0}
    config = RenderConfig(own_contrast=1.0, margin_mm=0.0, **quiet)
    made = render_head(head, SPACING, config, numpy_generator(1))
    assert (made[~head.brain] == 0).all()
    assert (made[head.brain] > 0).mean() > 0.99


def test_lesions_lie_inside_the_brain(head: Head) -> None:
    lesion = LesionConfig(number=(1, 1), size_mm=(20.0, 20.0), blur_mm=(1.0, 1.0), contrast=(0.5, 0.5), bright=1.0)
    plain = RenderConfig(own_contrast=1.0, **QUIET)
    with_lesion = plain.model_copy(update={"lesions": 1.0, "lesion": lesion})
    found = []
    for number in range(6):
        before = render_head(head, (1.0, 1.0, 1.0), plain, numpy_generator(number)).astype(int)
        after = render_head(head, (1.0, 1.0, 1.0), with_lesion, numpy_generator(number)).astype(int)
        changed = np.abs(after - before) > 200
        assert not (changed & ~np.isin(head.classes, [5, 6, 7, DARK])).any()  # the blur of the edge may reach the bone
        found.append(changed.sum())
    assert min(found) > 0
    assert max(found) < 2 * np.pi / 6 * 20**3


def test_an_image_without_tissues_is_refused() -> None:
    cube = np.ones((8, 8, 8))
    with pytest.raises(ValueError, match="no tissue outside"):
        classify(cube, cube > 0)
    with pytest.raises(ValueError, match="mask is empty"):
        classify(cube, cube < 0)
    with pytest.raises(ValueError, match="classes"):
        classify(cube, np.indices(cube.shape)[0] < 4)


def test_ranges_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValidationError, match="thickness must be two positive values"):
        RenderConfig(thickness=(3.0, 1.0))
