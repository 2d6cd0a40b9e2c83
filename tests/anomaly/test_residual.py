"""Residual maps and the intensity baseline by hand."""

from __future__ import annotations

import pytest
import torch

from medae.anomaly.baselines import intensity_map
from medae.anomaly.residual import ResidualKind, residual_map
from medae.errors import GeometryError

X = torch.tensor([[[[3.0, -1.0, 2.0, 9.0]]]])
Y = torch.tensor([[[[1.0, 1.0, 2.0, 0.0]]]])
MASK = torch.tensor([[[[True, True, True, False]]]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("absolute", [2, 2, 0, 0]),
        ("bright", [2, 0, 0, 0]),
        ("dark", [0, 2, 0, 0]),
        ("squared", [4, 4, 0, 0]),
    ],
)
def test_kinds_by_hand_and_zero_outside_the_mask(kind: ResidualKind, expected: list[float]) -> None:
    found = residual_map(X, Y, MASK, kind)
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
        residual_map(X, Y, MASK[0])


def test_intensity_baseline_is_the_rectified_intensity() -> None:
    assert intensity_map(X, MASK).flatten().tolist() == [3, 0, 2, 0]
    assert intensity_map(X, MASK, "dark").flatten().tolist() == [0, 1, 0, 0]
    assert intensity_map(X, MASK, "absolute").flatten().tolist() == [3, 1, 2, 0]


def test_read_only_arrays_give_what_tensors_give() -> None:
    x, y, mask = X.numpy().copy(), Y.numpy().copy(), MASK.numpy().copy()
    for array in (x, y, mask):
        array.setflags(write=False)
    assert torch.equal(residual_map(x, y, mask), residual_map(X, Y, MASK))
    assert torch.equal(intensity_map(x, mask), intensity_map(X, MASK))
