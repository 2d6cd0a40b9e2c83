import pytest
from hypothesis import given
from hypothesis import strategies as st

from medae.errors import ConfigError
from medae.planning.strides import strides_for, total_strides


def test_isotropic_patch_is_halved_along_every_axis_until_four_voxels():
    strides, kernels = strides_for((40, 56, 40), (1.0, 1.0, 1.0), levels=6)
    # 40 -> 20 -> 10 -> 5; 56 -> 28 -> 14 -> 7; a fourth halving would leave 2.5 and 3.5
    assert strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert kernels == ((3, 3, 3),) * 4


def test_short_axis_is_not_pooled():
    strides, kernels = strides_for((48, 48, 6), (0.7, 0.7, 1.25), levels=6)
    assert total_strides(strides) == (8, 8, 1)
    assert kernels == ((3, 3, 3),) * 4


def test_eight_slices_are_pooled_once():
    strides, _ = strides_for((48, 48, 8), (1.0, 1.0, 1.0), levels=6)
    assert strides[1] == (2, 2, 2)
    assert total_strides(strides) == (8, 8, 2)


def test_coarse_axis_waits_and_is_not_convolved_until_the_others_have_caught_up():
    strides, kernels = strides_for((128, 128, 32), (0.5, 0.5, 3.0), levels=6)
    # pitch in-plane 0.5, 1, 2, 4 against 3 mm: 3 < 2 * 2 from the third level on
    assert strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert kernels == ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_space_to_depth_stem_halves_at_the_first_level():
    strides, kernels = strides_for((32, 32, 4), (1.0, 1.0, 1.0), levels=3, stem="space_to_depth")
    assert strides == ((2, 2, 1), (2, 2, 1), (2, 2, 1))
    assert kernels == ((3, 3, 3),) * 3


def test_one_voxel_axis_has_kernel_and_stride_one():
    strides, kernels = strides_for((64, 64, 1), (1.0, 1.0, 1.0), levels=3)
    assert {stride[2] for stride in strides} == {1}
    assert {kernel[2] for kernel in kernels} == {1}


def test_unknown_spacing_counts_as_the_finest():
    assert strides_for((32, 32, 32), (1.0, 1.0, None), 4) == strides_for((32, 32, 32), (1.0, 1.0, 1.0), 4)


def test_patch_too_small_for_the_space_to_depth_stem_is_an_error():
    with pytest.raises(ConfigError, match="too small for a space-to-depth stem"):
        strides_for((7, 7), (1.0, 1.0), levels=3, stem="space_to_depth")


@pytest.mark.parametrize(
    ("patch", "spacing", "levels"), [((8, 8), (1.0, 1.0, 1.0), 2), ((0, 8), (1.0, 1.0), 2), ((8, 8), (1.0, 0.0), 2)]
)
def test_senseless_sizes_are_errors(patch, spacing, levels):
    with pytest.raises(ConfigError):
        strides_for(patch, spacing, levels)


@given(
    patch=st.lists(st.integers(1, 300), min_size=2, max_size=3),
    data=st.data(),
    levels=st.integers(1, 7),
)
def test_no_pooled_axis_falls_below_four_voxels(patch, data, levels):
    spacing = data.draw(st.lists(st.floats(0.2, 8.0), min_size=len(patch), max_size=len(patch)))
    strides, kernels = strides_for(patch, spacing, levels)
    assert len(strides) == len(kernels) <= levels
    for extent, total in zip(patch, total_strides(strides), strict=True):
        assert total == 1 or extent / total >= 4
    assert all(max(stride) > 1 for stride in strides[1:])
    assert strides[0] == (1,) * len(patch)


@given(
    patch=st.lists(st.integers(1, 200), min_size=3, max_size=3),
    spacing=st.lists(st.floats(0.2, 8.0), min_size=3, max_size=3),
)
def test_pooling_stops_only_when_no_axis_can_be_halved(patch, spacing):
    strides, _ = strides_for(patch, spacing, levels=20)
    assert all(extent / total < 8 for extent, total in zip(patch, total_strides(strides), strict=True))
