"""Deformations: smooth, one-to-one, and applied in mm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medae.synthesis.deformation import compose, jacobian_determinant, random_displacement, smooth_field, warp


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spacing=st.tuples(*[st.sampled_from([1.0, 2.0, 3.5])] * 3),
    share=st.floats(0.0, 0.99),
    lattice=st.floats(16.0, 60.0),
)
def test_no_fold_at_any_allowed_amplitude(
    seed: int, spacing: tuple[float, float, float], share: float, lattice: float
) -> None:
    rng = np.random.default_rng(seed)
    amplitude = share * lattice / 2.4795
    field = random_displacement((24, 20, 22), spacing, rng, lattice_mm=lattice, amplitude_mm=amplitude)
    assert np.abs(field).max() <= amplitude
    assert jacobian_determinant(field, spacing).min() > 0


def test_composition_of_the_strongest_does_not_fold_and_moves_far() -> None:
    rng, spacing, shape = np.random.default_rng(0), (2.0, 2.0, 2.0), (48, 48, 48)
    broad = random_displacement(shape, spacing, rng, lattice_mm=40, amplitude_mm=16)
    fine = random_displacement(shape, spacing, rng, lattice_mm=16, amplitude_mm=6.4)
    both = compose(broad, fine, spacing)
    determinant = jacobian_determinant(both, spacing)
    assert determinant.min() > 0
    assert determinant.std() > 0.1
    assert np.linalg.norm(both, axis=0).max() > 8


def test_folding_amplitudes_are_refused() -> None:
    for shape, limit in (((8, 8), 20 / 2.046), ((8, 8, 8), 20 / 2.479)):
        rng, spacing = np.random.default_rng(0), (1.0,) * len(shape)
        random_displacement(shape, spacing, rng, lattice_mm=20, amplitude_mm=0.99 * limit)
        with pytest.raises(ValueError, match="fold"):
            random_displacement(shape, spacing, rng, lattice_mm=20, amplitude_mm=1.01 * limit)


def test_jacobian_determinant_of_a_linear_map_by_hand() -> None:
    spacing = (1.0, 2.0, 0.5)
    x, y, z = np.indices((5, 6, 7)) * np.reshape(spacing, (3, 1, 1, 1))
    grown = np.stack([0.5 * x, 0.1 * y, -0.2 * z])
    np.testing.assert_allclose(jacobian_determinant(grown, spacing), 1.5 * 1.1 * 0.8)
    folded = np.stack([-1.5 * x, 0 * y, 0 * z])
    np.testing.assert_allclose(jacobian_determinant(folded, spacing), -0.5)


def test_warp_pulls_by_mm() -> None:
    image = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    shift = np.zeros((3, 3, 4, 5))
    shift[1] = 2.0
    moved = warp(image, shift, (1.0, 2.0, 1.0))  # 2 mm are one voxel along the second axis
    np.testing.assert_array_equal(moved[:, :3], image[:, 1:])
    np.testing.assert_array_equal(moved[:, 3], 0)
    np.testing.assert_allclose(warp(image, shift / 2, (1.0, 2.0, 1.0))[:, :3], (image[:, :3] + image[:, 1:]) / 2)


def test_warp_keeps_labels_whole() -> None:
    labels = np.random.default_rng(0).choice(np.array([0, 3, 7], dtype=np.uint8), size=(12, 12, 12))
    field = random_displacement(labels.shape, (1, 1, 1), np.random.default_rng(1), lattice_mm=8, amplitude_mm=3)
    moved = warp(labels, field, (1, 1, 1), labels=True)
    assert moved.dtype == np.uint8
    assert set(np.unique(moved)) == {0, 3, 7}
    assert (moved != labels).any()


def test_compose_is_one_after_the_other() -> None:
    """Two shifts add up; and the second is looked up where the first has led."""
    shape, spacing = (12, 5), (2.0, 1.0)
    first = np.stack([np.full(shape, 4.0), np.zeros(shape)])
    ramp = 0.25 * np.indices(shape)[0] * spacing[0]
    second = np.stack([ramp, np.zeros(shape)])
    expected = 4.0 + np.minimum(ramp + 0.25 * 4.0, ramp.max())
    np.testing.assert_allclose(compose(first, second, spacing)[0], expected)


def test_smooth_field_is_reproducible_bounded_and_smooth_in_mm() -> None:
    def draw(spacing: float) -> np.ndarray:
        return smooth_field((64, 64), (spacing, spacing), np.random.default_rng(5), lattice_mm=16, channels=2)

    field = draw(1.0)
    assert field.shape == (2, 64, 64)
    assert field.dtype == np.float32
    assert np.abs(field).max() <= 1
    assert field.std() > 0.1
    np.testing.assert_array_equal(field, draw(1.0))
    steps = [np.abs(np.diff(draw(spacing), axis=1)).mean() for spacing in (1.0, 4.0)]
    assert steps[0] < 0.1 * field.std() * 4  # neighbours at 1 mm differ little
    assert steps[1] > 2.5 * steps[0]  # at 4 mm several times as much
