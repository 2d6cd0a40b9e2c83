"""Contrast, receive field, resolution and noise against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medae.synthesis.contrast import bias_field, limit_resolution, remap_tissues, rician_noise, tissue_means


@pytest.fixture
def anatomy() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A body of two tissues with a fuzzy border between them and texture, zero outside."""
    share = np.clip((np.indices((20, 20))[0] - 6) / 8, 0, 1).astype(np.float32)
    body = np.zeros((20, 20), dtype=np.float32)
    body[2:18, 2:18] = 1
    maps = {"grey": (1 - share) * body, "white": share * body}
    texture = np.random.default_rng(0).normal(0, 0.02, size=(20, 20)).astype(np.float32)
    return (0.6 * maps["grey"] + 0.9 * maps["white"] + texture) * body, maps


def test_equal_means_give_the_image_back(anatomy: tuple[np.ndarray, dict[str, np.ndarray]]) -> None:
    image, maps = anatomy
    means = {"grey": 0.6, "white": 0.9}
    np.testing.assert_allclose(remap_tissues(image, maps, means, means), image, atol=1e-6)


def test_remap_moves_means_and_scales_texture(anatomy: tuple[np.ndarray, dict[str, np.ndarray]]) -> None:
    image, maps = anatomy
    result = remap_tissues(image, maps, {"grey": 0.6, "white": 0.9}, {"grey": 0.3, "white": 1.2}, texture=2.0)
    for name, before, after in (("grey", 0.6, 0.3), ("white", 0.9, 1.2)):
        pure = maps[name] == 1
        np.testing.assert_allclose(result[pure], after + 2.0 * (image[pure] - before), rtol=1e-5)
        assert image[pure].std() > 0.01  # texture is there to be kept
    assert (result[maps["grey"] + maps["white"] == 0] == 0).all()
    # one voxel of a quarter white by hand
    i, j = np.argwhere(maps["white"] == 0.25)[0]
    expected = 0.75 * (0.3 + 2 * (image[i, j] - 0.6)) + 0.25 * (1.2 + 2 * (image[i, j] - 0.9))
    assert result[i, j] == pytest.approx(expected, rel=1e-5)


def test_tissue_means_weigh_pure_voxels_by_hand() -> None:
    image = np.array([1.0, 3.0], dtype=np.float32)
    assert tissue_means(image, {"a": np.array([1.0, 0.5])}) == {"a": pytest.approx((1 + 0.25 * 3) / 1.25)}


def test_bias_field_has_the_stated_span() -> None:
    field = bias_field((40, 40, 30), (4.0, 4.0, 4.0), np.random.default_rng(0), strength=0.3)
    assert np.log(field.max() / field.min()) == pytest.approx(0.3, rel=1e-4)
    assert np.log(field).mean() == pytest.approx(0, abs=1e-5)
    assert np.abs(np.diff(field, axis=0)).max() < 0.04
    flat = bias_field((8, 8, 8), (4.0, 4.0, 4.0), np.random.default_rng(0), strength=0.0)
    np.testing.assert_allclose(flat, 1)


def test_resolution_is_a_full_width_at_half_maximum() -> None:
    point = np.zeros((61, 61), dtype=np.float32)
    point[30, 30] = 1
    seen = limit_resolution(point, (1.0, 2.0), (6.0, 2.0))
    assert seen.sum() == pytest.approx(1, rel=1e-3)
    assert np.count_nonzero(seen[30]) == 1  # nothing along the axis whose voxel is as wide as the resolution
    half = np.sqrt(36 - 1) / 2  # what blurring adds to a voxel of 1 mm, so that both make 6 mm
    profile = np.interp(30 + np.array([0, half]), np.arange(61), seen[:, 30])
    assert profile[1] / profile[0] == pytest.approx(0.5, abs=0.02)


def test_noise_is_rician() -> None:
    rng = np.random.default_rng(0)
    bright = rician_noise(np.full((60, 60, 60), 10.0, dtype=np.float32), rng, sigma=0.5)
    assert bright.std() == pytest.approx(0.5, rel=0.02)
    assert bright.mean() == pytest.approx(10 + 0.5**2 / 20, abs=0.005)
    air = rician_noise(np.zeros((60, 60, 60), dtype=np.float32), rng, sigma=0.5)
    assert air.min() >= 0
    assert air.mean() == pytest.approx(0.5 * np.sqrt(np.pi / 2), rel=0.02)
    still = np.abs(ndimage.gaussian_filter(rng.normal(size=(9, 9, 9)), 1)).astype(np.float32)
    np.testing.assert_allclose(rician_noise(still, rng, sigma=0.0), still)
