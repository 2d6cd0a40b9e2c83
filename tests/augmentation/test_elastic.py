import pytest
import torch

from medae.augmentation.draws import Draws
from medae.augmentation.elastic import Elastic
from medae.seeding import Draw


def draws(seed: int = 0) -> Draws:
    return Draws(Draw(seed, 0), (0,), torch.device("cpu"))


def jacobian(shifts: torch.Tensor) -> torch.Tensor:
    """Determinant of the map voxel -> voxel + shift, by forward differences, ``[*S - 1]``."""
    dims = shifts.shape[0]
    inner = (slice(0, -1),) * dims
    columns = [
        torch.diff(shifts, dim=1 + axis)[(slice(None), *inner[:axis], slice(None), *inner[axis + 1 :])]
        for axis in range(dims)
    ]
    matrix = torch.stack(columns, dim=-1).movedim(0, -2) + torch.eye(dims)
    return torch.linalg.det(matrix)


@pytest.mark.parametrize("shape", [(48, 48), (32, 32, 32)])
def test_largest_allowed_displacement_does_not_fold(shape):
    elastic = Elastic(displacement=3.2, spacing=8.0)
    smallest = torch.inf
    for seed in range(5):
        shifts = elastic.shifts(shape, (1.0,) * len(shape), (), draws(seed))[0]
        assert shifts.shape == (len(shape), *shape)
        assert shifts.abs().max() <= 3.2
        smallest = min(smallest, jacobian(shifts).min().item())
    assert 0 < smallest < 0.8


def test_shifts_are_as_long_in_mm_along_every_axis_and_none_along_still_ones():
    shifts = Elastic(displacement=6.0, spacing=16.0).shifts((64, 32, 8), (1.0, 2.0, 1.0), (2,), draws())[0]
    assert (shifts[2] == 0).all()
    assert shifts[0].abs().max() > 2.0
    assert shifts[1].abs().max() <= 3.0


def test_constant_control_points_give_a_constant_shift(monkeypatch):
    monkeypatch.setattr(Draws, "uniform", lambda self, *shape: torch.ones(1, *shape))
    shifts = Elastic(displacement=3.0, spacing=10.0).shifts((23, 31), (1.0, 1.0), (), draws())
    assert torch.allclose(shifts, torch.tensor(3.0))
