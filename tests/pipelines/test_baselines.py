"""The central ball by hand, and on images where it must be right."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medae.data.case import Case, Manifest
from medae.data.folder import FolderSource
from medae.errors import DataError
from medae.metrics.segmentation import case_metrics, summarise
from medae.metrics.statistics import paired_difference
from pipelines.baselines import ball_scores, best_radius, central_ball
from pipelines.finetune_results import never_found, of_record
from pipelines.segmenting import label_names, reference, with_target


def test_a_ball_is_measured_in_mm_from_the_middle_of_the_image():
    ball = central_ball((5, 5, 3), (1.0, 1.0, 2.0), 1.0)
    assert ball.sum() == 5  # the middle voxel and its four neighbours in plane; a slice away is 2 mm
    assert ball[2, 2, 1]
    assert not ball[2, 2, 0]
    assert central_ball((4, 4, 4), (1.0, 1.0, 1.0), 0.9).sum() == 8  # an even size has its middle between voxels


@pytest.fixture
def balls(tmp_path):
    for name, radius in {"a": 3.0, "b": 3.0, "c": 4.0}.items():
        ball = central_ball((11, 11, 11), (1.0, 1.0, 1.0), radius)
        for kind, array in (("image", np.zeros(ball.shape, np.float32)), ("mask", ball.astype(np.uint8))):
            (tmp_path / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / kind / f"{name}.nii.gz")
    return FolderSource(root=tmp_path, images="image", labels="mask", ids="names").manifest()


def test_the_radius_is_the_best_on_the_training_cases(balls):
    assert best_radius(balls.of_subjects(["a", "b"]), "label") == 3.0
    radius, scores = ball_scores(balls.of_subjects(["a", "b"]), balls, "label", {0: "background", 1: "ball"}, 1.0)
    assert radius == 3.0
    assert scores["a"]["ball"].dice == 1.0
    assert scores["c"]["ball"].dice < 1.0


def test_labels_that_nobody_declared_are_found_in_the_maps(balls):
    assert label_names(balls, "label") == {0: "background", 1: "label 1"}
    assert reference(balls, balls.cases[0], "label")[1] == (1.0, 1.0, 1.0)
    declared = balls.model_copy(update={"labels": {"label": {1: "ball"}}})
    assert label_names(declared, "label") == {0: "background", 1: "ball"}
    gap = balls.model_copy(update={"labels": {"label": {0: "background", 1: "ball", 3: "box"}}})
    with pytest.raises(DataError, match="without gaps"):
        label_names(gap, "label")
    alone = balls.model_copy(update={"labels": {"label": {0: "background"}}, "cases": ()})
    with pytest.raises(DataError, match="nothing but background"):
        label_names(alone, "label")
    other = balls.model_copy(update={"labels": {"label": {0: "background", 2: "ball"}}})
    with pytest.raises(DataError, match=r"values \[1\], which the data set does not declare"):
        label_names(other, "label")


def test_a_missing_target_names_those_that_are_there(balls):
    with pytest.raises(DataError, match="label"):
        with_target(balls, "lesion")


def test_a_structure_that_is_never_found_is_named():
    values = {0: "background", 1: "csf", 2: "grey", 3: "absent", 4: "invented"}
    truth, found = np.array([[[1, 1, 2, 2]]]), np.array([[[0, 0, 2, 4]]])
    blind, sees = (
        summarise({name: case_metrics(found if blind else truth, truth, (1.0, 1.0, 1.0), values) for name in "ab"})
        for blind in (True, False)
    )
    assert never_found({"scratch": blind, "pretrained": sees}) == [("scratch", "csf")]


def test_a_model_keeps_its_means_with_intervals_over_subjects():
    dice = {"a1": 0.9, "a2": 0.9, "b": 0.7, "c": 0.8, "d": 0.6, "e": 0.9}
    cases = [Case(id=name, subject=name[0], images={}) for name in reversed(dice)]
    test = Manifest(source="folder", root=Path("/data"), channels=("T1w",), cases=tuple(cases))
    reference = np.zeros((12, 10, 1), np.uint8)
    reference[1:11] = 1  # 100 voxels, of which a prediction has some and no others
    scores = {}
    for name, value in dice.items():
        prediction = np.zeros_like(reference)
        prediction[1:11].flat[: round(100 * value)] = 1
        scores[name] = case_metrics(prediction, reference, (1.0, 1.0, 1.0), {1: "ball"})
    found = of_record(summarise(scores), test)
    each = [scores[name]["ball"].dice for name in dice]
    expected = paired_difference(each, [0.0] * 6, [name[0] for name in dice])
    assert found["dice_mean"] == pytest.approx(np.mean(each)) and found["dice"] == {"ball": found["dice_mean"]}
    assert (found["dice_mean_low"], found["dice_mean_high"]) == pytest.approx((expected.low, expected.high))
    assert found["dice_mean_low"] < found["dice_mean"] < found["dice_mean_high"] and "surface_dice_mean_high" in found
    few = test.model_copy(update={"cases": tuple(case for case in test.cases if case.subject in "abc")})
    kept = of_record(summarise({case.id: scores[case.id] for case in few.cases}), few)
    assert "dice_mean_low" not in kept, "three subjects say nothing"
