"""Normalisation against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medae.errors import DataError
from medae.plan import CTWindow, Percentile, RobustZ, ZScore
from medae.preprocessing.intensity import normalise


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, -1, 1, 1)


def test_ct_window() -> None:
    image = column(-3000, -1000, 0, 100, 3000)
    result = normalise(image, torch.ones_like(image, dtype=torch.bool), CTWindow(lower=-1000, upper=400, mean=100, std=250))
    assert result.flatten().tolist() == pytest.approx([-4.4, -4.4, -0.4, 0, 1.2])
    assert result.dtype == torch.float32


def test_zscore_counts_the_foreground_only_and_zeroes_the_rest() -> None:
    image = column(1000, 2, 4, 4, 4, 5, 5, 7, 9)  # the foreground has mean 5 and standard deviation 2
    mask = image != 1000
    result = normalise(image, mask, ZScore(lower_percentile=0, upper_percentile=100))
    assert result.flatten().tolist() == pytest.approx([0, -1.5, -0.5, -0.5, -0.5, 0, 0, 1, 2])


def test_zscore_clips_a_spike() -> None:
    values = torch.cat([torch.linspace(0, 1, 1000), torch.tensor([358214.0])])
    image = values.reshape(1, -1, 1, 1)
    result = normalise(image, torch.ones_like(image, dtype=torch.bool), ZScore())
    assert result.max() < 2
    assert float(result.std()) == pytest.approx(1, abs=0.01)


def test_percentiles_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    scheme = ZScore(lower_percentile=10, upper_percentile=80)
    image = torch.from_numpy(values).reshape(1, -1, 1, 1)
    lower, upper = np.percentile(values, [10, 80], method="lower")
    clipped = np.clip(values, lower, upper).astype(np.float64)
    expected = (clipped - clipped.mean()) / clipped.std()
    result = normalise(image, torch.ones_like(image, dtype=torch.bool), scheme)
    np.testing.assert_allclose(result.flatten().numpy(), expected, atol=1e-5)


def test_robust_z() -> None:
    image = column(1, 2, 3, 4, 100)  # median 3, median absolute deviation 1
    result = normalise(image, torch.ones_like(image, dtype=torch.bool), RobustZ(clip=5))
    unit = 1.4826
    assert result.flatten().tolist() == pytest.approx([-2 / unit, -1 / unit, 0, 1 / unit, 5], rel=1e-5)


def test_channels_are_scaled_each_by_itself() -> None:
    image = torch.cat([column(0, 2), column(100, 300)])
    mask = torch.ones(1, 2, 1, 1, dtype=torch.bool)
    result = normalise(image, mask, ZScore(lower_percentile=0, upper_percentile=100))
    assert result.flatten().tolist() == pytest.approx([-1, 1, -1, 1])


@pytest.mark.parametrize("scheme", [ZScore(), RobustZ()])
def test_a_constant_image_is_refused(scheme: ZScore | RobustZ) -> None:
    image = column(7, 7, 7)
    with pytest.raises(DataError, match="cannot be scaled") as caught:
        normalise(image, torch.ones_like(image, dtype=torch.bool), scheme)
    assert caught.value.remedy


def test_an_empty_foreground_is_refused() -> None:
    with pytest.raises(DataError, match="no foreground"):
        normalise(column(0, 0), torch.zeros(1, 2, 1, 1, dtype=torch.bool), CTWindow())


def test_percentile_keeps_zero_and_clips_nothing() -> None:
    image = column(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1000)
    mask = image < 1000
    result = normalise(image, mask, Percentile(percentile=80))
    assert result.flatten().tolist() == pytest.approx([value / 8 for value in range(11)] + [0])
    with pytest.raises(DataError, match="percentile of the image inside its foreground is 0"):
        normalise(column(0, 0, 0, 5), torch.ones(1, 4, 1, 1, dtype=torch.bool), Percentile(percentile=50))
