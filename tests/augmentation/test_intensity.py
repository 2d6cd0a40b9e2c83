import math

import pytest
import torch
from torch import Tensor

from medae.augmentation.draws import Draws
from medae.augmentation.intensity import BiasField, Brightness, Contrast, Gamma, InvertedGamma, Noise
from medae.augmentation.presets import Intensity
from medae.augmentation.resolution import Blur, LowResolution
from medae.seeding import Draw

PARTS = [
    BiasField(),
    Blur(),
    LowResolution(lower=1.5),
    Gamma(),
    InvertedGamma(),
    Contrast(),
    Brightness(),
    Noise(),
]
FLAT, SOLID = (16, 18), (10, 12, 9)


def draws(*places: int, seed: int = 0) -> Draws:
    return Draws(Draw(seed, 0), places, torch.device("cpu"))


def samples(shape: tuple[int, ...] = FLAT, count: int = 1) -> tuple[Tensor, Tensor]:
    """Two channels, the second absent in every sample but the first."""
    x = torch.rand(count, 2, *shape, generator=torch.Generator().manual_seed(0)) * 4 - 1
    mask = torch.zeros(count, 2, *shape, dtype=torch.bool)
    mask[(..., *[slice(2, size - 2) for size in shape])] = True
    mask[1:, 1] = False
    return x * mask, mask


def changed(part: Intensity, x: Tensor, mask: Tensor | None = None, pitch: tuple[float, ...] = (1.0, 1.0)) -> Tensor:
    """One sample ``[C, *S]``, changed."""
    mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    return part.apply(x[None], mask[None], draws(0), pitch)[0]


@pytest.mark.parametrize("shape", [FLAT, SOLID])
@pytest.mark.parametrize("part", PARTS)
def test_only_the_foreground_changes(part, shape):
    x, mask = samples(shape, 2)
    result = part.apply(x, mask, draws(0, 1), (1.0,) * len(shape))
    assert torch.equal(result[~mask], x[~mask])
    assert (result[mask] != x[mask]).float().mean() > 0.9
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("shape", [FLAT, SOLID])
@pytest.mark.parametrize("part", PARTS)
def test_a_sample_is_changed_alike_whoever_is_beside_it(part, shape):
    x, mask = samples(shape, 4)
    pitch = (1.0, 1.5, 2.0)[: len(shape)]
    together = part.apply(x, mask, draws(3, 5, 7, 8), pitch)
    for b, place in enumerate((3, 5, 7, 8)):
        assert torch.equal(part.apply(x[b : b + 1], mask[b : b + 1], draws(place), pitch)[0], together[b])
    again = part.apply(x[:1], mask[:1], draws(4), pitch)[0]
    assert not torch.equal(again, together[0])


@pytest.mark.parametrize("part", PARTS)
def test_empty_and_constant_foregrounds_stay_finite(part):
    x, mask = samples()
    assert torch.equal(part.apply(x, mask & False, draws(0), (1.0, 1.0)), x)
    constant = torch.where(mask, torch.tensor(2.0), torch.tensor(0.0))
    assert torch.isfinite(part.apply(constant, mask, draws(0), (1.0, 1.0))).all()


def test_bias_field_is_a_smooth_factor_on_the_signal(monkeypatch):
    # control points that rise by one from row to row make the logarithm of the gain a straight line: over 40 voxels the
    # factor doubles, from row to row it is 2^(1/40)
    monkeypatch.setattr(
        Draws, "uniform", lambda self, *shape: ((torch.arange(4.0) + 1) / 2).view(1, 1, 4, 1).expand(1, *shape)
    )
    x = torch.rand(1, 20, 10, generator=torch.Generator().manual_seed(0)) - 3
    x[0, 0, 0] = -4
    result = changed(BiasField(gain=2.0, spacing=40.0), x)
    assert result.min() == -4
    factor = ((result + 4) / (x + 4))[0, 1:]
    assert torch.allclose(factor[1:] / factor[:-1], torch.tensor(2 ** (1 / 40)), atol=1e-4)
    line = 2 ** (torch.arange(20.0) / 40)
    assert torch.allclose(factor, (line / line.mean())[1:, None].expand_as(factor), atol=1e-4)


def test_bias_field_is_as_long_in_mm_along_every_axis_and_shared_by_channels():
    ramp = torch.rand(2, 64, 32, generator=torch.Generator().manual_seed(0)) + 1
    ramp[:, 0, 0] = 0
    result = changed(BiasField(gain=3.0, spacing=32.0), ramp, pitch=(1.0, 2.0))
    factor = (result / ramp)[:, 1:, 1:]
    assert torch.allclose(factor[0], factor[1], rtol=1e-4)
    steps = [factor[0].log().diff(dim=axis).abs().mean() for axis in (0, 1)]
    assert 1.2 < steps[1] / steps[0] < 3.5


@pytest.mark.parametrize(
    ("part", "pitch", "expected"),
    [
        # cells of two voxels have the means 2 and 6; between their middles the values lie on a line
        (LowResolution(lower=2, upper=2, one_axis=0), (1.0, 1.0), [2.0, 3.0, 5.0, 6.0]),
        (LowResolution(lower=1, upper=1, one_axis=0), (1.0, 1.0), [1.0, 3.0, 5.0, 7.0]),
        # voxels of 2 mm are not made coarser by cells of 2 mm
        (LowResolution(lower=2, upper=2, one_axis=0), (2.0, 1.0), [1.0, 3.0, 5.0, 7.0]),
    ],
)
def test_low_resolution_is_means_of_cells_with_lines_between(part, pitch, expected):
    x = torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 4, 1).expand(1, 4, 6)
    assert torch.allclose(changed(part, x, pitch=pitch), torch.tensor(expected).view(1, 4, 1).expand(1, 4, 6), atol=1e-5)


def test_low_resolution_may_make_one_axis_alone_coarse():
    fine, coarse = torch.tensor([1.0, 3.0, 5.0, 7.0]), torch.tensor([2.0, 3.0, 5.0, 6.0])
    x = (fine[:, None] + 100 * fine).expand(20, 1, 4, 4)
    part = LowResolution(lower=2, upper=2, one_axis=1)
    result = part.apply(x, torch.ones_like(x, dtype=torch.bool), draws(*range(20)), (1.0, 1.0))[:, 0]
    first, second = coarse[:, None] + 100 * fine, fine[:, None] + 100 * coarse
    along = [[torch.allclose(sample, either, rtol=1e-4) for either in (first, second)] for sample in result]
    assert all(one != other for one, other in along)
    assert 4 < sum(one for one, _ in along) < 16


def test_inverted_gamma_is_gamma_of_the_inverted_image():
    # 1 - (1 - x)^2 of 0, 1/2, 1 is 0, 3/4, 1, brought back to the mean and deviation that there were
    x = torch.tensor([[[0.0, 0.5, 1.0]]])
    result = changed(InvertedGamma(lower=2.0, upper=2.0), x)[0, 0]
    assert math.isclose(result.mean(), 0.5, abs_tol=1e-5)
    assert math.isclose((result[1] - result[0]) / (result[2] - result[0]), 0.75, abs_tol=1e-4)
    assert math.isclose(result.std(), x.std(), rel_tol=1e-4)


def test_brightness_shifts_each_channel_by_one_number_within_its_limit():
    x, mask = (tensor[0] for tensor in samples())
    shift = changed(Brightness(shift=0.5), x, mask) - x
    for channel in range(2):
        values = shift[channel][mask[channel]]
        assert torch.allclose(values, values[0].expand_as(values), atol=1e-6)
        assert 0 < values[0].abs() <= 0.5
    assert not torch.allclose(shift[0][mask[0]][0], shift[1][mask[1]][0])


def test_contrast_keeps_mean_and_range():
    # 0, 4 about the mean 2 by the factor 0.5 is 1, 3
    x = torch.tensor([[[0.0, 4.0, 0.0, 4.0]]])
    mask = torch.ones_like(x, dtype=torch.bool)
    assert torch.allclose(changed(Contrast(lower=0.5, upper=0.5), x, mask), torch.tensor([[[1.0, 3.0, 1.0, 3.0]]]))
    assert torch.equal(changed(Contrast(lower=2.0, upper=2.0), x, mask), x)


def test_gamma_keeps_mean_deviation_and_order():
    x, mask = (tensor[0] for tensor in samples())
    result = changed(Gamma(lower=2.0, upper=2.0), x, mask)
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
    result = changed(Blur(lower=1.0, upper=1.0), x)
    assert torch.allclose(result.sum(), torch.tensor(1.0), atol=1e-5)
    assert math.isclose(result[0, 10, 11] / result[0, 10, 10], math.exp(-0.5), rel_tol=1e-4)
    assert math.isclose(result[0, 12, 10] / result[0, 10, 10], math.exp(-2.0), rel_tol=1e-4)


def test_blur_is_as_wide_in_mm_along_every_axis():
    x = torch.zeros(1, 21, 21)
    x[0, 10, 10] = 1
    result = changed(Blur(lower=2.0, upper=2.0), x, pitch=(1.0, 2.0))
    # sigma 2 mm is 2 voxels along the first axis and 1 along the second
    assert math.isclose(result[0, 12, 10], result[0, 10, 11], rel_tol=1e-4)


def test_noise_has_the_drawn_deviation():
    x = torch.zeros(1, 200, 200)
    noise = changed(Noise(std=0.4), x)
    share = float(Draw(0, 0).uniform(1))
    assert math.isclose(noise.std(), 0.4 * share, rel_tol=0.03)
    assert abs(noise.mean()) < 0.01
