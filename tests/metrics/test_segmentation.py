"""Segmentation scores against values computed by hand and by brute force."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from medae.errors import GeometryError
from medae.metrics.segmentation import LabelScore, case_dice, case_metrics, summarise

LABELS = {0: "background", 1: "anterior", 2: "posterior"}


def box(shape: tuple[int, ...], *ranges: tuple[int, int], value: int = 1) -> np.ndarray:
    array = np.zeros(shape, dtype=np.uint8)
    array[tuple(slice(*r) for r in ranges)] = value
    return array


def test_dice_and_volumes_by_hand() -> None:
    reference = box((6, 6, 6), (0, 2), (0, 2), (0, 2))  # 8 voxels
    prediction = box((6, 6, 6), (1, 3), (0, 2), (0, 3))  # 12 voxels, 4 of them shared
    score = case_metrics(prediction, reference, (1.0, 2.0, 2.5), {1: "x"})["x"]
    assert score.dice == pytest.approx(2 * 4 / (8 + 12))
    assert score.volume_ml_reference == pytest.approx(8 * 5 / 1000)
    assert score.volume_ml_prediction == pytest.approx(12 * 5 / 1000)


def test_identical_maps_are_perfect_for_each_label() -> None:
    labels = box((8, 8, 8), (1, 4), (1, 4), (1, 4)) + box((8, 8, 8), (4, 8), (4, 8), (4, 8), value=2)
    scores = case_metrics(labels, labels, (1, 1, 3), LABELS)
    assert list(scores) == ["anterior", "posterior"]
    for score in scores.values():
        assert (score.dice, score.hd95, score.surface_dice) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize(("axis", "expected"), [(0, 2.0), (1, 3.0), (2, 10.0)])
def test_hd95_is_in_mm_along_each_axis(axis: int, expected: float) -> None:
    """A slab one voxel thick, moved by two voxels: every surface voxel is two spacings from the other."""
    reference = np.zeros((9, 9, 9), dtype=np.uint8)
    np.moveaxis(reference, axis, 0)[3] = 1
    prediction = np.roll(reference, 2, axis=axis)
    assert case_metrics(prediction, reference, (1.0, 1.5, 5.0), {1: "x"})["x"].hd95 == pytest.approx(expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_has_an_outline_and_no_faces(axis: int) -> None:
    """A square of 20 pixels moved by 3: its two moved sides are 3 pixels away, and what lies beyond the other's ends."""
    plane, moved = (box((40, 40), (5 + by, 25 + by), (10, 30)) for by in (0, 3))
    flat = case_metrics(moved, plane, (1.5, 2.0), {1: "x"})["x"]
    spacing = np.insert((1.5, 2.0), axis, 6.0)
    slab = case_metrics(np.expand_dims(moved, axis), np.expand_dims(plane, axis), spacing, {1: "x"})["x"]
    assert (slab.dice, slab.hd95, slab.surface_dice) == (flat.dice, flat.hd95, flat.surface_dice)
    assert slab.hd95 == pytest.approx(4.5) and slab.surface_dice < 0.6
    assert slab.volume_ml_reference == pytest.approx(400 * 1.5 * 2.0 * 6.0 / 1000)
    missed = case_metrics(np.zeros_like(plane)[None], plane[None], (6.0, 1.5, 2.0), {1: "x"})["x"]
    assert missed.hd95 == pytest.approx(math.hypot(40 * 1.5, 40 * 2.0))


def test_hd95_leaves_out_the_farthest_twentieth() -> None:
    reference = box((40, 40), (5, 15), (5, 15))  # 36 surface pixels
    prediction = reference.copy()
    prediction[35, 10] = 1  # 1 of the prediction's 37 is 21 mm away
    assert case_metrics(prediction, reference, (1, 1), {1: "x"})["x"].hd95 == 0.0
    prediction[35, 20:22] = 1  # 3 of 39: position 0.95 * 38 = 36.1 lies among them
    distances = np.sort([21.0, math.hypot(21, 6), math.hypot(21, 7), *[0.0] * 36])
    expected = distances[36] + 0.1 * (distances[37] - distances[36])
    assert case_metrics(prediction, reference, (1, 1), {1: "x"})["x"].hd95 == pytest.approx(expected, rel=1e-6)
    assert case_metrics(reference, prediction, (1, 1), {1: "x"})["x"].hd95 == pytest.approx(expected, rel=1e-6)


def test_surface_dice_weighs_by_length_by_hand() -> None:
    """A 5 x 5 square moved by 2 mm, pixels of 1 x 3 mm, tolerance 1 mm.

    A contour has 4 elements of 3 mm on each side across axis 0, 4 of 1 mm on each side along it, and 4 corners of
    sqrt(0.5^2 + 1.5^2) mm. Within 1 mm of the other contour are, on both sides along axis 0, 4 elements and a corner.
    """
    reference = box((12, 10), (2, 7), (2, 7))
    prediction = box((12, 10), (4, 9), (2, 7))
    corner = math.hypot(0.5, 1.5)
    expected = (2 * 4 + 2 * corner) / (2 * 4 * 3 + 2 * 4 * 1 + 4 * corner)
    scores = case_metrics(prediction, reference, (1, 3), {1: "x"}, tolerance=1.0)
    assert scores["x"].surface_dice == pytest.approx(expected, rel=1e-6)
    assert case_metrics(prediction, reference, (1, 3), {1: "x"}, tolerance=2.0)["x"].surface_dice == pytest.approx(1.0)


def test_missed_and_invented_structures_count_as_wrong_as_can_be() -> None:
    empty, full = np.zeros((3, 4, 12), dtype=np.uint8), box((3, 4, 12), (0, 1), (0, 1), (0, 1))
    spacing = (1.0, 1.0, 1.0)  # diagonal of 3 x 4 x 12 mm: 13 mm
    for prediction, reference in ((empty, full), (full, empty)):
        score = case_metrics(prediction, reference, spacing, {1: "x"})["x"]
        assert (score.dice, score.surface_dice) == (0.0, 0.0)
        assert score.hd95 == pytest.approx(13.0)
    assert case_metrics(full, empty, (2.0, 2.0, 2.0), {1: "x"})["x"].hd95 == pytest.approx(26.0)


def test_absent_from_both_is_as_right_as_can_be() -> None:
    score = case_metrics(np.zeros((3, 3, 3), int), np.zeros((3, 3, 3), int), (1, 1, 1), LABELS)["posterior"]
    assert (score.dice, score.hd95, score.surface_dice) == (1.0, 0.0, 1.0)
    assert (score.volume_ml_prediction, score.volume_ml_reference) == (0.0, 0.0)


def test_a_structure_that_fills_a_single_slice_is_scored() -> None:
    labels = np.ones((4, 5, 1), dtype=np.uint8)
    score = case_metrics(labels, labels, (1, 1, 5), {1: "x"})["x"]
    assert (score.dice, score.hd95, score.surface_dice) == (1.0, 0.0, 1.0)


def test_grids_that_do_not_fit_are_errors() -> None:
    with pytest.raises(GeometryError, match=r"\(2, 3, 4\).*\(4, 3, 2\)"):
        case_metrics(np.zeros((2, 3, 4)), np.zeros((4, 3, 2)), (1, 1, 1), LABELS)
    for spacing in ((1, 1), (1, 1, 0), (1, 1, math.nan)):
        with pytest.raises(GeometryError, match="spacing"):
            case_metrics(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), spacing, LABELS)


blobs = st.integers(0, 2**32 - 1).map(
    lambda seed: (ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(9, 8, 7)), 1.2) > 0.12).astype(np.uint8)
)


@settings(max_examples=30, deadline=None)
@given(blobs, blobs, st.tuples(*[st.sampled_from([0.7, 1.0, 2.5])] * 3))
def test_hd95_equals_brute_force_and_nothing_depends_on_the_order_of_axes(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]
) -> None:
    score = case_metrics(prediction, reference, spacing, {1: "x"})["x"]
    swapped = case_metrics(reference, prediction, spacing, {1: "x"})["x"]
    turned = case_metrics(prediction.T, reference.T, spacing[::-1], {1: "x"})["x"]
    for metric in ("dice", "hd95", "surface_dice"):
        value = getattr(score, metric)
        assert getattr(swapped, metric) == pytest.approx(value, rel=1e-5)
        assert getattr(turned, metric) == pytest.approx(value, rel=1e-5)
    if prediction.any() and reference.any():
        surfaces = [np.argwhere(m & ~ndimage.binary_erosion(m)) * spacing for m in (prediction > 0, reference > 0)]
        distances = cdist(*surfaces)
        expected = max(np.percentile(distances.min(axis=1), 95), np.percentile(distances.min(axis=0), 95))
        assert score.hd95 == pytest.approx(expected, rel=1e-5, abs=1e-6)


def scored(dice: float, hd95: float, surface: float, *, real: float = 1.0, found: float = 1.0) -> LabelScore:
    return LabelScore(dice=dice, hd95=hd95, surface_dice=surface, volume_ml_prediction=found, volume_ml_reference=real)


NOTHING = scored(1.0, 0.0, 1.0, real=0.0, found=0.0)


def test_summary_by_hand() -> None:
    cases = {
        "one": {"a": scored(0.8, 2.0, 0.6), "b": scored(0.4, 4.0, 0.2), "no": NOTHING},  # case means 0.6, 3, 0.4
        "two": {"a": scored(0.9, 1.0, 0.7), "b": NOTHING, "no": scored(0.0, 9.0, 0.0, real=0.0)},  # 0.95, 0.5, 0.85
    }
    summary = summarise(cases)
    assert summary["dice_mean"] == pytest.approx((0.6 + 0.95) / 2)
    assert summary["hd95_mean"] == pytest.approx((3 + 0.5) / 2)
    assert summary["surface_dice_mean"] == pytest.approx((0.4 + 0.85) / 2)
    assert summary["n_test"] == 2
    a = {"dice": 0.85, "hd95": 1.5, "surface_dice": 0.65, "n": 2, "invented": 0}
    b = {"dice": 0.7, "hd95": 2.0, "surface_dice": 0.6, "n": 1, "invented": 0}
    assert summary["labels"]["a"] == pytest.approx(a)
    assert summary["labels"]["b"] == pytest.approx(b)
    nowhere = {"dice": None, "hd95": None, "surface_dice": None, "n": 0, "invented": 1}
    assert summary["labels"]["no"] == nowhere, "in no reference, so in no mean"
    assert summary["cases"]["two"]["a"]["dice"] == 0.9
    assert case_dice(summary) == pytest.approx({"one": 0.6, "two": 0.95})
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_what_is_invented_in_a_healthy_scan_counts_whatever_another_model_does() -> None:
    """Two models that are alike on the lesions; one of them finds a lesion in every healthy scan too."""
    sick, healthy = {"lesion": scored(0.8, 2.0, 0.6)}, scored(0.0, 9.0, 0.0, real=0.0)
    careful = summarise({"sick": sick, "well": {"lesion": NOTHING}})
    careless = summarise({"sick": sick, "well": {"lesion": healthy}})
    assert (careful["dice_mean"], careless["dice_mean"]) == pytest.approx((0.9, 0.4))
    assert (careful["labels"]["lesion"]["invented"], careless["labels"]["lesion"]["invented"]) == (0, 1)
    assert case_dice(careful).keys() == case_dice(careless).keys() == {"sick", "well"}


def test_summary_of_nothing_has_no_mean() -> None:
    assert summarise({})["dice_mean"] is None
    assert summarise({"one": {"a": NOTHING}})["dice_mean"] is None
    assert case_dice(summarise({"one": {"a": NOTHING}})) == {}
