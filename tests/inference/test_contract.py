"""A scan that is not of the kind that a model was trained on is refused or spoken of, by name."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from medae.errors import DataError
from medae.inference.contract import Look, _flat, _label_map, cut_off, differences, refuse
from medae.plan import CTWindow, SpacePlan
from medae.preprocessing.domain import Domain
from medae.preprocessing.prepare import prepare_files

MR = SpacePlan(channels=("T1",), foreground="all")
CT = MR.model_copy(update={"intensity": CTWindow()})


def domain(modality: str = "MR", **facts) -> Domain:
    content = {"spacing": ((1.0, 1.2),) * 3, "extent": ((18.0, 24.0),) * 3, "absent": (), "reached": {}}
    return Domain(scans=3, modalities=(modality,), **{**content, **facts})


def look_at(folder: Path, values: np.ndarray, space: SpacePlan = MR, step: float = 1.0, channels: tuple[str, ...] = ("T1",)):
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([step, step, step, 1])), folder / "scan.nii.gz")
    look = Look()
    prepared = prepare_files({name: [folder / "scan.nii.gz"] for name in channels}, space, change=look)
    return prepared, look


def mr(size: int = 20) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 900, (size, size, size))


def hounsfield(size: int = 20) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1000, 900, (size, size, size))


def said(folder: Path, values: np.ndarray, own: Domain | None, space: SpacePlan = MR, modality="unknown", **keys):
    return differences(space, own, *look_at(folder, values, space, **keys), modality)


def test_a_like_scan_is_not_spoken_of(tmp_path: Path):
    assert said(tmp_path, mr(), domain(), modality="MR") == []
    assert said(tmp_path, mr(), domain()) == [], "a plain file does not say what it is"
    assert said(tmp_path, hounsfield(), domain("CT"), CT, "CT") == []
    assert said(tmp_path, mr(), None) == [], "an older model has no record"


@pytest.mark.parametrize(
    ("values", "own", "space", "modality", "sentence"),
    [
        (mr(), domain("CT"), CT, "MR", "The model is for CT, and the image is MR"),
        (hounsfield(), domain(), MR, "CT", "The model is for MR, and the image is CT"),
        (mr(), domain("CT"), CT, "unknown", "hardly a value of the image is below 0"),
        (mr(), None, CT, "unknown", "hardly a value of the image is below 0"),
        (hounsfield(), domain(), MR, "unknown", "values down to -9.. as CT has"),
        (np.arange(8000).reshape(20, 20, 20) // 2000, domain(), MR, "unknown", "4 different values: it is a label map"),
    ],
)
def test_another_modality_and_label_maps_are_refused(tmp_path, values, own, space, modality, sentence):
    (found,) = said(tmp_path, values, own, space, modality)
    assert found.refused
    with pytest.raises(DataError, match=sentence.replace("-9..", r"-9\d\d,")) as caught:
        refuse([found], "scan", anyway=False)
    assert caught.value.where == "scan" and "--anyway" in caught.value.remedy
    assert refuse([found], "scan", anyway=True) == [found.text]


def test_ct_that_is_like_the_training_scans_is_taken(tmp_path: Path):
    """Skull-stripped CT, or CT that was stored clipped from 0."""
    assert said(tmp_path, mr(), domain("CT", lowest=(-3.0, 0.0)), CT, "CT") == []
    assert [each.refused for each in said(tmp_path, mr(), domain("CT", lowest=(-900.0, -50.0)), CT, "CT")] == [True]


def test_an_atlas_of_many_values_and_a_mask_of_halves_are_label_maps():
    atlas = ndimage.zoom(np.random.default_rng(0).integers(0, 200, (6, 6, 6)), 8, order=0).astype(np.float32)
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).uniform(0, 255, (48, 48, 48)), 2).round().astype(np.float32)
    assert _flat(atlas) > 0.8 and _flat(smooth) < 0.5 and _flat(np.zeros((4, 4, 4), np.float32)) == 0.0
    look = Look()
    look(torch.from_numpy(atlas)[None], torch.ones(1), np.eye(4))
    assert _label_map(look) == f"Of neighbouring voxels {100 * look.flat[0]:.0f} % are equal: the image is a label map."


def test_an_empty_channel_is_no_label_map(tmp_path: Path):
    prepared, _ = look_at(tmp_path, mr())
    assert differences(MR, domain(), prepared, Look([0.0], [1]), "unknown") == []
    (found,) = differences(MR, domain(), prepared, Look([0.0], [2]), "unknown")
    assert found.text == "The image has 2 different values: it is a label map."


def test_where_the_training_scans_do_not_say_what_they_are_nothing_is_guessed(tmp_path: Path):
    assert said(tmp_path, hounsfield(), domain("unknown")) == []


def test_voxels_far_from_those_of_training(tmp_path: Path):
    kept = MR.model_copy(update={"spacing": (1.0, 1.0, None)})
    close = said(tmp_path, mr(11), domain(), kept, step=2.0)
    assert [(each.text, each.refused) for each in close] == [
        ("Voxels are 2 mm from left to right, those of the training scans 1 to 1.2 mm.", False),
        ("Voxels are 2 mm from posterior to anterior, those of the training scans 1 to 1.2 mm.", False),
    ], "the third axis keeps what each image has"
    far = said(tmp_path, mr(4), domain(), step=5.0)
    assert [each.refused for each in far] == [True, True, True]
    fine = said(tmp_path, mr(80), domain(), step=0.25)
    assert all("0.25 mm" in each.text and not each.refused for each in fine) and len(fine) == 3


def test_a_field_of_view_of_another_size(tmp_path: Path):
    (one, *_) = said(tmp_path, mr(12), domain())
    assert one.text == "What is seen is 12 mm from left to right, in the training scans 18 to 24 mm." and not one.refused


def test_a_channel_that_every_training_scan_had(tmp_path: Path):
    space = MR.model_copy(update={"channels": ("T1", "T2", "FLAIR")})
    found = said(tmp_path, mr(), domain(absent=("FLAIR",)), space)
    assert [(each.text, each.refused) for each in found] == [
        ("The scan lacks T2, which every training scan had.", True),
        ("The scan lacks FLAIR.", False),
    ]
    assert [each.refused for each in said(tmp_path, mr(), None, space)] == [False], "there is no record of them"


def test_a_brain_that_is_cut_off(tmp_path: Path):
    space = MR.model_copy(update={"foreground": "brain"})
    nib.save(nib.Nifti1Image(mr().astype(np.float32), np.eye(4)), tmp_path / "scan.nii.gz")
    mask = np.zeros((20, 20, 20), dtype=np.uint8)
    mask[1:19, 1:19, 1:] = 1
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "mask.nii.gz")
    look = Look()
    prepared = prepare_files({"T1": [tmp_path / "scan.nii.gz"]}, space, brain_mask=tmp_path / "mask.nii.gz", change=look)
    (found,) = differences(space, domain(reached={0: ("inferior",)}), prepared, look, "unknown")
    assert found.text == "The brain reaches the superior edge of the image, as in no training scan: it may be cut off."
    assert differences(space, domain(reached={0: ("superior",)}), prepared, look, "unknown") == []


def test_a_structure_that_is_cut_off(tmp_path: Path):
    prepared, _ = look_at(tmp_path, mr())
    labels = np.zeros(prepared.shape, dtype=np.int16)
    labels[0, 4:6, 4:6] = 1
    labels[9, 9, -1] = 2
    names = {1: "liver", 2: "spleen"}
    assert cut_off(labels, None, prepared, names) == []
    assert cut_off(labels, domain(reached={1: ("left",), 2: ("superior",)}), prepared, names) == []
    (one,) = cut_off(labels, domain(reached={1: (), 2: ("superior",)}), prepared, names)
    assert one == "'liver' reaches the left edge of the image, as in no training scan: it may be cut off."
