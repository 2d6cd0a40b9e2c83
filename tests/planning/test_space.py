"""The rules of the space, one by one, on fingerprints made by hand."""

import pytest
from handmade import found

from medae.plan import CTWindow, RobustZ, ZScore
from medae.planning.hints import PlanHints
from medae.planning.space import dimensions, intensity, slice_axis, spacing, unknown_slice_axis

NONE = PlanHints()


@pytest.mark.parametrize(
    ("shape", "step", "dims", "word"),
    [
        ((256, 256, 3), (0.5, 0.5, 6.0), 2, "too few"),
        ((256, 256, 4), (0.5, 0.5, 6.0), 3, "enough"),
        ((44, 44, 6), (0.7, 0.7, 1.25), 3, "enough"),
        # 256 x 256 x 36 mm of a head: nobody knows how far apart the slices are
        ((256, 256, 36), (1.0, 1.0, 1.0), 2, "256 x 256 x 36 mm"),
        ((36, 256, 256), (1.0, 1.0, 1.0), 2, "36 x 256 x 256 mm"),
        # as flat, but with a spacing of its own: a slab
        ((256, 256, 30), (1.0, 1.0, 1.5), 3, "enough"),
        # a quarter of the others' extent is not flat
        ((256, 256, 64), (1.0, 1.0, 1.0), 3, "enough"),
        ((120, 120, 90), (2.0, 2.0, 2.0), 3, "enough"),
    ],
)
def test_dimensions(shape, step, dims, word):
    choice = dimensions(found(shape, step), NONE)
    assert choice.value == dims
    assert word in choice.reason


def test_the_slice_axis_that_is_not_believed_is_the_flat_one():
    assert unknown_slice_axis(found((256, 20, 256))) == 1
    assert unknown_slice_axis(found((256, 20, 256), (1.0, 1.02, 1.0))) is None
    assert slice_axis(found((256, 20, 256)), NONE).value == 1


def test_dimensions_as_asked_for():
    flat = found((256, 256, 36))
    assert dimensions(flat, PlanHints(spatial_dims=3)) == (3, "given")
    assert dimensions(found((64, 64, 64)), PlanHints(slice_axis=1)).value == 2


def test_the_median_spacing_is_rounded_and_kept_anisotropic():
    three = found((200, 200, 60), [(0.7, 0.7, 1.0), (0.8, 0.8, 2.0), (0.90001, 0.90001, 3.0)])
    choice = spacing(three, NONE, None)
    assert choice.value == (0.8, 0.8, 2.0)
    assert "2.5 times as coarse" in choice.reason
    assert spacing(found((9, 9, 9)), NONE, None) == ((1.0, 1.0, 1.0), "the spacing of all cases")


def test_a_coarse_axis_takes_the_tenth_percentile_as_nnunet_does():
    steps = [(0.5, 0.5, 2.0 + number / 2) for number in range(11)]  # 2.0, 2.5 ... 7.0: median 4.5, 10th percentile 2.5
    choice = spacing(found((400, 400, 30), steps), NONE, None)
    assert choice.value == (0.5, 0.5, 2.5)
    assert "10th percentile" in choice.reason


def test_the_finer_spacing_is_never_finer_than_in_the_plane():
    steps = [(1.0, 1.0, 0.6), *[(1.0, 1.0, 4.0)] * 5]  # the 10th percentile lies between 0.6 and 4: 2.3
    assert spacing(found((400, 400, 30), steps), NONE, None).value == (1.0, 1.0, 2.3)
    steps = [*[(1.0, 1.0, 0.6)] * 2, *[(1.0, 1.0, 4.0)] * 5]
    assert spacing(found((400, 400, 30), steps), NONE, None).value == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("shape", "step"),
    [
        ((400, 400, 30), 1.4),  # 2.8 times the 0.5 mm in the plane
        ((80, 80, 30), 4.0),  # coarse, but with more than a third of the voxels
    ],
)
def test_both_spacing_and_voxels_have_to_be_coarse(shape, step):
    steps = [(0.5, 0.5, step * factor) for factor in (0.5, 1.0, 1.5)]
    assert spacing(found(shape, steps), NONE, None).value == (0.5, 0.5, step)


def test_slices_keep_their_spacing():
    choice = spacing(found((400, 400, 30), [(0.5, 0.5, 2.0), (0.5, 0.5, 6.0), (0.5, 0.5, 6.0)]), NONE, 2)
    assert choice.value == (0.5, 0.5, None)
    assert "stay where they are" in choice.reason


@pytest.mark.parametrize(
    ("tails", "scheme"),
    [
        ((1.0, 1.05, 1.1), ZScore()),
        ((1.1, 1.3, 1.5), RobustZ()),
        ((1.3, 1.3, None), ZScore()),  # the median absolute deviation of one image is 0: it cannot be divided by
        ((), ZScore()),
    ],
)
def test_heavy_tails_take_the_robust_scheme(tails, scheme):
    choice = intensity(found((64, 64, 64), tails=tails), NONE)
    assert choice.value == scheme
    assert "scaled by itself" in choice.reason


def test_one_window_for_all_ct():
    choice = intensity(found((64, 64, 64), modality="CT", tails=(3.0,)), NONE)
    assert choice.value == CTWindow(lower=-1000, upper=701, mean=-650.3, std=330.0)
    assert intensity(found((8, 8, 8), modality="CT", std=0.2), NONE).value.std == 1.0
