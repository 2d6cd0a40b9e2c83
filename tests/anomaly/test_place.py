"""The same place in different heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medae.anomaly.maps.intensity import IntensityConfig
from medae.anomaly.maps.registry import build_map
from medae.anomaly.place import PlaceConfig, Template
from medae.config import validate
from medae.errors import ConfigError, DataError

GRID = (20, 24, 16)


def head(shape=(40, 48, 32), margin=4) -> np.ndarray:
    """An ellipsoid with a bright ventricle left of its middle and a gradient from back to front: ``[1, I, J, K]``."""
    i, j, k = (np.linspace(-1, 1, size) for size in (shape[0] - 2 * margin, shape[1] - 2 * margin, shape[2] - 2 * margin))
    x, y, z = np.meshgrid(i, j, k, indexing="ij")
    inside = x**2 + y**2 + z**2 <= 1
    ventricle = (x + 0.3) ** 2 + y**2 + z**2 <= 0.09
    image = np.pad(np.where(inside, 2 + y + 3.0 * ventricle, 0), margin)
    return image[None]


def template(scans, **choices) -> Template:
    found = Template(PlaceConfig(grid=GRID, **choices), 1)
    found.learn(lambda: scans, lambda scan: scan.image)
    return found


def test_mean_and_deviation_of_even_scans_by_hand(scan_of):
    scans = [scan_of(np.full((1, 20, 20, 20), value)) for value in (1.0, 2.0, 6.0)]
    found = template(scans, smooth=0.0)
    inside = tuple(slice(2, size - 2) for size in GRID)
    assert found.mean[0][inside].flatten().tolist() == pytest.approx([3.0] * found.mean[0][inside].numel(), rel=1e-4)
    deviation = np.std([1.0, 2.0, 6.0])
    assert found.deviation[0][inside].numpy() == pytest.approx(deviation, rel=2e-2)
    z = found.standardise(torch.full((1, 20, 20, 20), 9.0), scans[0])
    assert z[0, 4:16, 4:16, 4:16].numpy() == pytest.approx((9 - 3) / deviation, rel=2e-2)


def test_a_head_elsewhere_of_other_voxels_and_another_size_lies_at_the_same_place(scan_of):
    large = scan_of(head())
    other = np.zeros((1, 50, 40, 30))
    other[0, 8:48, 2:38, 1:27] = ndimage.zoom(head()[0, 4:-4, 4:-4, 4:-4], (40 / 32, 36 / 40, 26 / 24), order=0)
    small = scan_of(other, spacing=(2.0, 1.0, 3.0))
    found = template([large])
    z = found.standardise(small.image, small)
    inside = torch.from_numpy(ndimage.binary_erosion(small.mask[0].numpy(), iterations=3))
    assert z[0][inside].abs().median() < 0.4
    moved = small.image.roll(6, dims=1)  # the image no longer where its mask is
    assert found.standardise(moved, small)[0][inside].abs().mean() > 2 * z[0][inside].abs().mean()


def test_a_lesion_within_the_range_of_another_place_stands_out_at_its_own(scan_of):
    rng = np.random.default_rng(0)
    normals = [scan_of(np.where(head() > 0, head() + rng.normal(0, 0.1, head().shape), 0)) for _ in range(6)]
    sick = head()
    sick[0, 27, 24, 15:18] = 5.0  # as bright as the ventricle of the other side
    scan = scan_of(sick)
    anomaly = build_map(IntensityConfig(place=PlaceConfig(grid=GRID)), "bright", 1)
    assert anomaly.learns
    anomaly.learn(lambda: normals)
    found = anomaly(scan)[0]
    plain = build_map(IntensityConfig(), "bright", 1)(scan)[0]
    ventricle = (slice(13, 16), slice(22, 26), slice(14, 18))
    assert plain[27, 24, 16] <= plain[ventricle].max()
    assert found[27, 24, 16] > 3 * found[ventricle].max()


def test_an_affine_registration_finds_a_head_that_is_turned(scan_of):
    straight = head((48, 56, 40), margin=6)[0]
    turned = ndimage.rotate(straight, 14, axes=(0, 1), reshape=False, order=1)
    scan = scan_of(turned[None], mask=(turned > 0.5)[None])
    error = {}
    for align in ("box", "affine"):
        found = Template(PlaceConfig(align=align, grid=(24, 28, 20), smooth=0.0), 1)
        found.learn(lambda: [scan_of(straight[None])], lambda scan: scan.image)
        z = found.standardise(scan.image, scan)
        inside = torch.from_numpy(ndimage.binary_erosion(turned > 0.5, iterations=3))
        error[align] = float(z[0][inside].abs().mean())
        assert np.array_equal(found.placed(scan), found.placed(scan)), "the same scan gives the same matrix"
    assert error["affine"] < 0.6 * error["box"]


def test_places_that_few_scans_cover_have_the_usual_deviation(scan_of):
    noise = np.random.default_rng(0).normal(5, 1, (6, 1, 20, 20, 20))
    noise[1:, 0, 10:] = 0  # half of the head in one scan only
    scans = [scan_of(each, mask=np.ones((1, 20, 20, 20), bool), normal=torch.from_numpy(each != 0)) for each in noise]
    found = template(scans, smooth=8.0)
    alone, together = found.deviation[0, 14:18, 4:20, 4:12], found.deviation[0, 3:7, 4:20, 4:12]
    assert alone.mean() == pytest.approx(float(together.mean()), rel=0.35)
    assert alone.min() > 0.3


def test_a_channel_that_a_scan_lacks_teaches_nothing(scan_of):
    both = [scan_of(np.stack([np.full((20, 20, 20), value), np.full((20, 20, 20), 7.0)])) for value in (1.0, 3.0)]
    lacking = scan_of(np.stack([np.full((20, 20, 20), 2.0), np.zeros((20, 20, 20))]))
    lacking.prepared.present[1] = False
    found = Template(PlaceConfig(grid=GRID, smooth=0.0), 2)
    found.learn(lambda: [*both, lacking], lambda scan: scan.image)
    middle = found.mean[:, 4:16, 4:20, 4:12]
    assert middle[0].mean() == pytest.approx(2.0, rel=1e-3)
    assert middle[1].mean() == pytest.approx(7.0, rel=1e-3)


def test_what_lies_beyond_the_template_is_judged_by_its_edge(scan_of):
    """A registration may leave a part of a head outside: no deviation is nought there."""
    scans = [scan_of(np.full((1, 20, 20, 20), value)) for value in (1.0, 2.0, 6.0)]
    found = template(scans)
    found.placed = lambda scan: np.diag([0.5, 0.5, 0.5, 1.0])
    assert found.standardise(torch.full((1, 20, 20, 20), 9.0), scans[0]).abs().max() < 10


def test_a_channel_that_no_normal_scan_had_says_nothing(scan_of):
    lacking = scan_of(np.stack([np.random.default_rng(0).normal(2, 1, (20, 20, 20)), np.zeros((20, 20, 20))]))
    lacking.prepared.present[1] = False
    found = Template(PlaceConfig(grid=GRID), 2)
    found.learn(lambda: [lacking], lambda scan: scan.image)
    z = found.standardise(torch.full((2, 20, 20, 20), 9.0), scan_of(np.full((2, 20, 20, 20), 9.0)))
    assert z[0].max() > 1
    assert not z[1].any()


def test_a_scan_of_a_few_slices_stays_in_its_box(scan_of):
    found = template([scan_of(head())], align="affine")
    thin = scan_of(head()[..., 14:18])
    assert np.array_equal(found.placed(thin), template([scan_of(head())]).placed(thin))


@pytest.mark.parametrize("grid", [[2, 64, 64], [64, 0, 64]])
def test_a_template_of_a_few_voxels_is_refused(grid):
    with pytest.raises(ConfigError, match="at least 8 voxels"):
        validate(PlaceConfig, {"grid": grid})


def test_no_scan_teaches_nothing():
    with pytest.raises(DataError, match="no normal scan"):
        template([])
