"""Residuals by hand: the side that counts, and the measures beside the plain difference."""

from __future__ import annotations

import pytest
import torch

from medae.anomaly.residual import Side, blurred, one_sided, residual_map, signed_residual
from medae.errors import GeometryError

X = torch.tensor([[[[3.0, -1.0, 2.0, 9.0]]]])
Y = torch.tensor([[[[1.0, 1.0, 2.0, 0.0]]]])
MASK = torch.tensor([[[[True, True, True, False]]]])


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        ("absolute", [2, 2, 0, 0]),
        ("bright", [2, 0, 0, 0]),
        ("dark", [0, 2, 0, 0]),
        ("squared", [4, 4, 0, 0]),
    ],
)
def test_sides_by_hand_and_zero_outside_the_mask(side: Side, expected: list[float]) -> None:
    found = residual_map(X, Y, MASK, side)
    assert found.shape == MASK.shape
    assert found.dtype == torch.float32
    assert found.flatten().tolist() == expected


def test_channels_are_averaged_after_rectifying_and_absent_ones_left_out() -> None:
    x = torch.tensor([[[[4.0]]], [[[0.0]]], [[[0.0]]]])
    y = torch.tensor([[[[0.0]]], [[[2.0]]], [[[50.0]]]])
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    present = torch.tensor([True, True, False])
    assert residual_map(x, y, mask, "bright", present).item() == 2.0
    assert residual_map(x, y, mask, "absolute", present).item() == 3.0
    with pytest.raises(GeometryError, match="No channel"):
        residual_map(x, y, mask, "absolute", torch.zeros(3, dtype=torch.bool))


def test_half_precision_is_subtracted_in_full() -> None:
    x, y = torch.full((1, 1, 1), 1000.5), torch.full((1, 1, 1), 1000.0)
    found = residual_map(x.half(), y.half(), torch.ones(1, 1, 1, dtype=torch.bool))
    assert found.item() == 0.5


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GeometryError, match="do not fit"):
        residual_map(X, Y[..., :2], MASK)
    with pytest.raises(GeometryError, match="do not fit"):
        one_sided(X, MASK[0], "bright")


def test_read_only_arrays_give_what_tensors_give() -> None:
    x, y, mask = X.numpy().copy(), Y.numpy().copy(), MASK.numpy().copy()
    for array in (x, y, mask):
        array.setflags(write=False)
    assert torch.equal(residual_map(x, y, mask), residual_map(X, Y, MASK))


WHOLE = torch.ones(1, 13, 12, 5, dtype=torch.bool)


@pytest.mark.parametrize("slice_axis", [None, 2])
def test_what_is_reconstructed_as_it_is_differs_by_no_measure(slice_axis: int | None) -> None:
    x = torch.rand(2, 13, 12, 5)
    for measure in ("difference", "multiscale", "gradient", "ssim"):
        found = signed_residual(x, x.clone(), WHOLE, measure, slice_axis)
        assert found.shape == x.shape
        assert found.abs().max() < 1e-6


@pytest.mark.parametrize("measure", ["difference", "multiscale", "gradient", "ssim"])
def test_what_a_model_makes_outside_the_mask_does_not_matter(measure):
    mask = torch.zeros(1, 13, 12, 5, dtype=torch.bool)
    mask[0, 4:9, 4:9] = True
    x = torch.where(mask, torch.rand(1, 13, 12, 5), 0.0)
    y = torch.where(mask, x, 2.0)
    assert signed_residual(x, y, mask, measure, None)[mask].abs().max() < 1e-6


def test_a_ramp_that_is_steeper_has_a_gradient_that_is_larger_by_as_much() -> None:
    ramp = torch.arange(13.0)[None, :, None, None].expand(1, 13, 12, 5)
    found = signed_residual(3 * ramp, ramp, WHOLE, "gradient", 2)
    assert found.flatten().tolist() == pytest.approx([2.0] * found.numel())
    across = torch.arange(5.0)[None, None, None].expand(1, 13, 12, 5)
    assert not signed_residual(across, torch.zeros_like(across), WHOLE, "gradient", 2).any(), "slices stand by themselves"
    assert signed_residual(across, torch.zeros_like(across), WHOLE, "gradient", None).min() == 1.0


def test_many_scales_keep_a_lesion_and_average_noise_away() -> None:
    even = torch.full((1, 13, 12, 5), 2.0)
    assert signed_residual(even, torch.zeros_like(even), WHOLE, "multiscale", None) == pytest.approx(even, abs=1e-5)
    chequers = (torch.arange(13)[:, None, None] + torch.arange(12)[:, None] + torch.arange(5)) % 2 * 2.0 - 1
    noise = signed_residual(chequers[None], torch.zeros(1, 13, 12, 5), WHOLE, "multiscale", None)
    assert noise[0, 4:9, 4:8, 2].abs().max() < 0.3


def test_opposite_patterns_are_most_dissimilar_by_ssim() -> None:
    wave = torch.sin(torch.arange(13.0))[None, :, None, None].expand(1, 13, 12, 5) * 2.5
    found = signed_residual(wave, -wave, WHOLE, "ssim", 2)
    assert found.min() >= 0
    assert found[0, 5:8].min() > 0.8


def test_a_blur_inside_the_mask_knows_nothing_of_the_outside() -> None:
    mask = torch.zeros(1, 13, 12, 5, dtype=torch.bool)
    mask[0, 3:9, 3:9] = True
    image = torch.where(mask, 7.0, 1000.0)
    assert blurred(image, mask, 2.0, None)[mask].tolist() == pytest.approx([7.0] * int(mask.sum()))
    assert not blurred(image, mask, 2.0, None)[~mask].any()
    slices = torch.arange(5.0).expand(1, 13, 12, 5)
    assert torch.allclose(blurred(slices, WHOLE, 2.0, 2), slices, atol=1e-5), "no slice is blurred into another"
