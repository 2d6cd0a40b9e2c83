"""Left and right, by the names of labels and where they lie."""

from __future__ import annotations

import numpy as np
import pytest

from medae.data.sides import has_sides, side_pairs, wrong_sides

RAS = np.diag([2.0, 2.0, 2.0, 1.0])
NAMES = {1: "Left Hippocampus", 2: "Right Hippocampus", 3: "brainstem"}


def two(left_at: int, right_at: int, values: tuple[int, int] = (1, 2)) -> np.ndarray:
    """Two blocks on the first axis, whose centres lie at the given voxels."""
    labels = np.zeros((20, 6, 6), np.int16)
    labels[left_at - 1 : left_at + 2, 1:4, 1:4] = values[0]
    labels[right_at - 1 : right_at + 2, 1:4, 1:4] = values[1]
    return labels


@pytest.mark.parametrize(
    ("left", "right", "shared"),
    [
        ("Left Hippocampus", "Right Hippocampus", "hippocampus"),
        ("lung_left", "lung_right", "lung"),
        ("ctx-lh-insula", "ctx-rh-insula", "ctx insula"),
        ("L Thalamus", "R Thalamus", "thalamus"),
        ("KidneyLeft", "KidneyRight", "kidney"),
    ],
)
def test_pairs_are_found_by_their_names(left, right, shared):
    assert side_pairs({4: right, 9: left, 1: "spleen"}) == [(9, 4, shared)]


def test_words_that_only_contain_a_side_and_lone_sides_are_no_pairs():
    assert side_pairs({1: "cleft palate", 2: "bright spot", 3: "left ventricle", 4: "right lung"}) == []


def test_left_is_where_the_first_world_coordinate_is_smaller():
    assert list(wrong_sides(two(4, 14), RAS, NAMES)) == []
    (remark,) = wrong_sides(two(14, 4), RAS, NAMES)
    assert (remark.level, remark.code) == ("error", "sides")
    assert "20 mm to the right of 'right hippocampus' (1 of 1 pairs)" in remark.problem


def test_a_flipped_affine_is_found_and_a_flip_of_both_is_none():
    flipped = np.diag([-2.0, 2.0, 2.0, 1.0])
    assert [remark.level for remark in wrong_sides(two(4, 14), flipped, NAMES)] == ["error"]
    assert list(wrong_sides(two(14, 4), flipped, NAMES)) == []


def test_axes_may_be_stored_in_any_order():
    swapped = RAS[:, [1, 0, 2, 3]]
    assert list(wrong_sides(two(4, 14).transpose(1, 0, 2), swapped, NAMES)) == []
    assert len(list(wrong_sides(two(14, 4).transpose(1, 0, 2), swapped, NAMES))) == 1


def test_some_pairs_wrong_is_a_warning_and_near_ones_say_nothing():
    names = NAMES | {4: "left amygdala", 5: "right amygdala"}
    labels = two(14, 4) + np.roll(two(4, 14, (4, 5)), 2, axis=1) * (two(14, 4) == 0)
    (remark,) = wrong_sides(labels, RAS, names)
    assert remark.level == "warning"
    assert list(wrong_sides(two(11, 9), np.diag([1.0, 1.0, 1.0, 1.0]), NAMES)) == []


def test_missing_structures_say_nothing():
    assert list(wrong_sides(np.zeros((5, 5, 5), np.int16), RAS, NAMES)) == []


@pytest.mark.parametrize(
    ("names", "sided"),
    [
        ({0: "background", 1: "anterior", 2: "posterior"}, False),
        ({0: "background", 1: "Left Hippocampus", 2: "Right Hippocampus"}, True),
        ({0: "background", 1: "kidney_left"}, True),
        ({0: "background", 1: "leftover", 2: "bright spot"}, False),
        ({0: "background", 1: "left or right lung"}, False),
        ({1: "vertebra L1"}, False),
        ({1: "vertebra L1", 2: "vertebra L2", 3: "nerve R"}, False),
        ({1: "L Thalamus", 2: "R Thalamus"}, True),
        ({1: "left nerve L5"}, True),
        ({1: "ctx-lh-insula"}, True),
    ],
)
def test_one_side_in_a_name_is_a_side(names, sided):
    assert has_sides(names) == sided


def test_a_word_goes_before_a_letter():
    assert side_pairs({1: "left nerve L5", 2: "right nerve L5"}) == [(1, 2, "nerve l 5")]
