"""How slices lie, from their positions alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medae.formats.dicom.frames import Slice
from medae.formats.dicom.problem import Problem
from medae.formats.dicom.stack import Stack, arrange

ROTATION = Rotation.from_euler("xyz", (20, -35, 70), degrees=True).as_matrix()


def at(position, matrix=ROTATION, spacing=(0.7, 0.9), size=(11, 13)) -> Slice:
    return Slice(Path("x"), 0, size, tuple(position), (*matrix[:, 0], *matrix[:, 1]), spacing)


def along(depths, sideways=0.0, matrix=ROTATION) -> list[Slice]:
    """Slices at these depths (mm) along the normal, shifted along the columns in proportion."""
    return [at(matrix[:, 2] * depth + matrix[:, 1] * depth * sideways, matrix) for depth in depths]


@given(
    depths=st.lists(st.integers(-50, 50), min_size=2, max_size=12, unique=True),
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    seed=st.randoms(use_true_random=False),
)
def test_any_order_of_slices_gives_the_order_along_the_normal(depths, turn, seed):
    matrix = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    slices = along(depths, matrix=matrix)
    seed.shuffle(slices)
    stack = arrange(slices)
    assert isinstance(stack, Stack)
    assert np.allclose(stack.depths, np.sort(depths) - min(depths), atol=1e-9)
    assert stack.tilt < 1e-6
    gaps = np.diff(np.sort(depths))
    assert (stack.spacing == "even") == (len(set(gaps.tolist())) == 1)


def test_the_affine_is_the_standards_formula():
    stack = arrange(along([0, 2, 4, 6]))
    assert isinstance(stack, Stack)
    i, j, k = 3, 5, 2
    lps = ROTATION[:, 0] * 0.9 * i + ROTATION[:, 1] * 0.7 * j + ROTATION[:, 2] * 2 * k
    assert np.allclose(stack.affine @ [i, j, k, 1], [*(lps * (-1, -1, 1)), 1])
    assert stack.is_regular
    assert stack.shape == (11, 13, 4)
    assert stack.step == pytest.approx(2)


@pytest.mark.parametrize(
    ("depths", "spacing", "absent", "step"),
    [
        ([0, 2, 4, 6], "even", 0, 2),
        ([0, 2, 6, 8], "missing", 1, 2),
        ([0, 2, 4, 12], "missing", 3, 2),
        ([0, 3, 6, 9, 13], "uneven", 0, 3),
        ([0, 2, 4.008, 6], "even", 0, 2),
        ([0, 2, 4.05, 6], "uneven", 0, 2),
        ([0, 5], "even", 0, 5),
        ([0, 2, 8, 18], "uneven", 0, 6),
    ],
)
def test_gaps(depths, spacing, absent, step):
    stack = arrange(along(depths))
    assert isinstance(stack, Stack)
    assert (stack.spacing, stack.absent) == (spacing, absent)
    assert stack.step == pytest.approx(step, abs=0.01)
    assert stack.is_regular == (spacing == "even")


@pytest.mark.parametrize("angle", [0.05, 0.2, 12.0, 30.0])
def test_tilt_is_the_angle_between_way_and_normal(angle):
    stack = arrange(along([0, 2, 4, 6], np.tan(np.radians(angle))))
    assert isinstance(stack, Stack)
    assert stack.tilt == pytest.approx(angle)
    assert stack.is_tilted == (angle > 0.1)
    assert stack.spacing == "even"
    sheared = stack.affine[:3, 2] * (-1, -1, 1)
    assert np.allclose(sheared, ROTATION[:, 2] * 2 + ROTATION[:, 1] * 2 * np.tan(np.radians(angle)))


def test_a_slice_shifted_sideways_is_uneven():
    slices = along([0, 2, 4, 6])
    slices[2] = at(ROTATION[:, 2] * 4 + ROTATION[:, 0] * 0.5)
    stack = arrange(slices)
    assert isinstance(stack, Stack)
    assert stack.spacing == "uneven"


TURNED = Rotation.from_euler("x", 90, degrees=True).as_matrix()
SLIGHTLY = ROTATION @ Rotation.from_euler("x", 0.2, degrees=True).as_matrix()


@pytest.mark.parametrize(
    ("slices", "code"),
    [
        ([*along([0, 2]), at((0, 0, 9), TURNED)], "mixed-orientations"),
        ([*along([0, 2]), at(ROTATION[:, 2] * 4, SLIGHTLY)], "mixed-orientations"),
        ([*along([0, 2]), at(ROTATION[:, 2] * 4, spacing=(0.7, 0.8))], "mixed-orientations"),
        ([*along([0, 2]), at(ROTATION[:, 2] * 4, size=(12, 13))], "mixed-sizes"),
        (along([0, 2, 2, 4]), "duplicate-slices"),
        (along([0, 2, 2.005, 4]), "duplicate-slices"),
        (along([3]), "single-slice"),
        ([*along([0, 2]), Slice(Path("x"), 0, (11, 13), None, (1, 0, 0, 0, 1, 0), (1, 1))], "no-geometry"),
    ],
)
def test_what_makes_no_stack_is_named(slices, code):
    problem = arrange(slices)
    assert isinstance(problem, Problem)
    assert problem.code == code
    assert problem.remedy


def test_directions_rounded_to_few_digits_stay_regular():
    rounded = [at(ROTATION[:, 2] * depth, np.round(ROTATION, 4)) for depth in range(0, 60, 3)]
    stack = arrange(rounded)
    assert isinstance(stack, Stack)
    assert stack.is_regular
