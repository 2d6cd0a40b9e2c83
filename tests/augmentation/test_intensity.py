import math

import pytest
import torch

from medae.augmentation.intensity import Blur, Brightness, Contrast, Gamma, Noise
from medae.seeding import Draw

PITCH = (1.0, 1.0)


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(2, 16, 18, generator=torch.Generator().manual_seed(0)) * 4 - 1
    mask = torch.zeros(2, 16, 18, dtype=torch.bool)
    mask[:, 3:13, 2:15] = True
    return x * mask, mask


@pytest.mark.parametrize("part", [Blur(), Gamma(), Contrast(), Brightness(), Noise()])
def test_only_the_foreground_changes(part):
    x, mask = sample()
    result = part.apply(x, mask, Draw(0, 0), PITCH)
    assert torch.equal(result[~mask], x[~mask])
    assert (result[mask] != x[mask]).float().mean() > 0.9


@pytest.mark.parametrize("part", [Blur(), Gamma(), Contrast(), Brightness(), Noise()])
def test_empty_and_constant_foregrounds_stay_finite(part):
    x, mask = sample()
    assert torch.equal(part.apply(x, mask & False, Draw(0, 0), PITCH), x)
    constant = torch.where(mask, torch.tensor(2.0), torch.tensor(0.0))
    assert torch.isfinite(part.apply(constant, mask, Draw(0, 0), PITCH)).all()


def test_brightness_shifts_each_channel_by_one_number_within_its_limit():
    x, mask = sample()
    shift = Brightness(shift=0.5).apply(x, mask, Draw(0, 0), PITCH) - x
    for channel in range(2):
        values = shift[channel][mask[channel]]
        assert torch.allclose(values, values[0].expand_as(values), atol=1e-6)
        assert 0 < values[0].abs() <= 0.5
    assert not torch.allclose(shift[0][mask[0]][0], shift[1][mask[1]][0])


def test_contrast_keeps_mean_and_range():
    # 0, 4 about the mean 2 by the factor 0.5 is 1, 3
    x = torch.tensor([[[0.0, 4.0, 0.0, 4.0]]])
    mask = torch.ones_like(x, dtype=torch.bool)
    assert torch.allclose(
        Contrast(lower=0.5, upper=0.5).apply(x, mask, Draw(0, 0), PITCH), torch.tensor([[[1.0, 3.0, 1.0, 3.0]]])
    )
    assert torch.equal(Contrast(lower=2.0, upper=2.0).apply(x, mask, Draw(0, 0), PITCH), x)


def test_gamma_keeps_mean_deviation_and_order():
    x, mask = sample()
    result = Gamma(lower=2.0, upper=2.0).apply(x, mask, Draw(0, 0), PITCH)
    for channel in range(2):
        before, after = x[channel][mask[channel]], result[channel][mask[channel]]
        assert torch.allclose(after.mean(), before.mean(), atol=1e-5)
        assert torch.allclose(after.std(), before.std(), atol=1e-5)
        assert (after[before.argsort()].diff() >= 0).all()
        low, high = before.min(), before.max()
        square = ((before - low) / (high - low)) ** 2
        assert torch.allclose((after - after.mean()) / after.std(), (square - square.mean()) / square.std(), atol=1e-4)


def test_blur_of_a_point_is_a_gaussian():
    x = torch.zeros(1, 21, 21)
    x[0, 10, 10] = 1
    result = Blur(lower=1.0, upper=1.0).apply(x, torch.ones_like(x, dtype=torch.bool), Draw(0, 0), PITCH)
    assert torch.allclose(result.sum(), torch.tensor(1.0), atol=1e-5)
    assert math.isclose(result[0, 10, 11] / result[0, 10, 10], math.exp(-0.5), rel_tol=1e-4)
    assert math.isclose(result[0, 12, 10] / result[0, 10, 10], math.exp(-2.0), rel_tol=1e-4)


def test_blur_is_as_wide_in_mm_along_every_axis():
    x = torch.zeros(1, 21, 21)
    x[0, 10, 10] = 1
    result = Blur(lower=2.0, upper=2.0).apply(x, torch.ones_like(x, dtype=torch.bool), Draw(0, 0), (1.0, 2.0))
    # sigma 2 mm is 2 voxels along the first axis and 1 along the second
    assert math.isclose(result[0, 12, 10], result[0, 10, 11], rel_tol=1e-4)


def test_noise_has_the_drawn_deviation():
    x = torch.zeros(1, 200, 200)
    noise = Noise(std=0.4).apply(x, torch.ones_like(x, dtype=torch.bool), Draw(0, 0), PITCH)
    share = float(Draw(0, 0).uniform(1))
    assert math.isclose(noise.std(), 0.4 * share, rel_tol=0.03)
    assert abs(noise.mean()) < 0.01
