"""Phantom brains: made of the real template, anatomically consistent, a function of their arguments."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medae.synthesis.brain import Phantom, Template, load_template, make_phantom
from medae.synthesis.lesions import LesionConfig

SPACING = 5.0
CSF, GREY, WHITE = 1, 2, 3


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template(SPACING)


@pytest.fixture(scope="module")
def cohort(template: Template) -> list[Phantom]:
    return [make_phantom(template, SPACING, LesionConfig() if subject % 2 else None, 0, subject) for subject in range(8)]


def test_template_is_the_icbm_brain_with_its_three_tissues(template: Template) -> None:
    assert template.t1.shape == (197, 233, 189)
    np.testing.assert_array_equal(template.affine[:3, :3], np.eye(3))
    total = np.sum(list(template.maps.values()), axis=0)
    np.testing.assert_allclose(total, template.brain, atol=1e-4)
    assert template.brain.sum() / 1000 == pytest.approx(1886.5, rel=1e-3)  # ml inside the template's skull-stripping
    assert template.means["csf"] < 0.45 < template.means["grey_matter"] < 0.75 < template.means["white_matter"]


def test_same_arguments_same_phantom_other_arguments_another(template: Template, cohort: list[Phantom]) -> None:
    again = make_phantom(template, SPACING, LesionConfig(), 0, 1)
    for name in ("t1", "tissue", "lesion", "affine"):
        np.testing.assert_array_equal(getattr(again, name), getattr(cohort[1], name))
    assert again.drawn == cohort[1].drawn
    other_seed = make_phantom(template, SPACING, LesionConfig(), 1, 1)
    for other in (cohort[0], other_seed):
        assert (other.tissue != again.tissue).mean() > 0.05


def test_every_brain_is_whole_inside_the_image_and_of_human_size(cohort: list[Phantom]) -> None:
    volumes = []
    for phantom in cohort:
        brain = phantom.tissue > 0
        np.testing.assert_array_equal(phantom.t1 > 0, brain)
        parts, _ = ndimage.label(brain, structure=np.ones((3, 3, 3)))
        assert np.bincount(parts[brain]).max() > 0.999 * brain.sum()
        assert not any(brain.take(end, axis).any() for axis in range(3) for end in (0, -1))
        volumes.append(brain.sum() * SPACING**3 / 1000)
        shares = [float((phantom.tissue[brain] == tissue).mean()) for tissue in (CSF, GREY, WHITE)]
        assert shares[0] < shares[2] < shares[1]
        assert shares[0] > 0.02
    assert min(volumes) > 1200
    assert max(volumes) < 2600
    assert np.std(volumes) > 50


def test_labels_follow_the_deformed_image(cohort: list[Phantom]) -> None:
    """T1 contrast holds between the labels of each subject, and one subject's labels fit another's image less well."""

    def separation(image: np.ndarray, tissue: np.ndarray) -> float:
        white, grey = image[(tissue == WHITE) & (image > 0)], image[(tissue == GREY) & (image > 0)]
        return float((white.mean() - grey.mean()) / np.sqrt((white.var() + grey.var()) / 2))

    healthy = cohort[::2]
    for phantom, other in zip(healthy, [*healthy[1:], healthy[0]], strict=True):
        means = [phantom.t1[phantom.tissue == tissue].mean() for tissue in (CSF, GREY, WHITE)]
        assert means == sorted(means)
        assert separation(phantom.t1, phantom.tissue) > 1.5
        assert separation(phantom.t1, other.tissue) < 0.7 * separation(phantom.t1, phantom.tissue)


def test_tissues_keep_texture_beyond_noise(template: Template) -> None:
    """White matter is not flat: what two noise-free neighbours share is a good part of its variation."""
    image = make_phantom(template, 2.5, None, 0, 3)
    white = ndimage.binary_erosion(image.tissue == WHITE)
    values = image.t1.astype(float)
    pairs = white[1:] & white[:-1]
    flat = values / ndimage.gaussian_filter(values, 12).clip(1)  # without the receive field
    assert np.corrcoef(flat[1:][pairs], flat[:-1][pairs])[0, 1] > 0.5


@pytest.mark.parametrize(("bright", "sign"), [(1.0, 1), (0.0, -1)])
def test_lesions_change_the_image_only_where_they_are(template: Template, bright: float, sign: int) -> None:
    config = LesionConfig(bright=bright, size_mm=(20, 30), blur_mm=(2, 3), contrast=(0.3, 0.4), number=(1, 2))
    healthy, ill = (make_phantom(template, SPACING, lesions, 0, 5) for lesions in (None, config))
    np.testing.assert_array_equal(healthy.tissue, ill.tissue)
    assert not healthy.lesion.any()
    assert ill.lesion.any()
    far = ~ndimage.binary_dilation(ill.lesion, iterations=4)
    np.testing.assert_array_equal(healthy.t1[far], ill.t1[far])
    core = ill.lesion > 0
    white = healthy.t1[healthy.tissue == WHITE].mean()
    assert 0.1 < sign * (ill.t1[core].astype(float) - healthy.t1[core]).mean() / white < 0.6


def test_lesions_are_in_the_brain_and_spare_csf(cohort: list[Phantom]) -> None:
    for subject, phantom in enumerate(cohort):
        assert len(phantom.drawn) == 0 if subject % 2 == 0 else 1 <= len(phantom.drawn) <= 3
        assert phantom.lesion.any() == bool(phantom.drawn)
        assert set(np.unique(phantom.lesion)) <= {0, 1}
        inside = phantom.tissue[phantom.lesion > 0]
        assert (inside > 0).all()
        assert (inside == CSF).sum() <= 0.05 * inside.size


def test_lesions_do_not_crowd(template: Template) -> None:
    """Three lesions are apart; where there is no room for more, fewer are drawn."""
    small = make_phantom(template, SPACING, LesionConfig(number=(3, 3), size_mm=(16, 18)), 0, 2)
    assert ndimage.label(small.lesion, structure=np.ones((3, 3, 3)))[1] >= 3
    huge = make_phantom(template, SPACING, LesionConfig(number=(6, 6), size_mm=(60, 60)), 0, 2)
    assert 1 <= len(huge.drawn) < 6
