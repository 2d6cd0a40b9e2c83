"""``medae brainmask``: masks on the scan's own grid, doubtful voxels, data sets, failures that do not stop the others."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medae.errors import DataError
from medae.synthesis.brain import load_template, make_phantom
from pipelines import brainmask


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(load_template(4.0), 4.0, None, 0, 2)


def write(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def test_a_folder_of_scans_is_masked_in_the_scans_own_space_and_failures_are_listed(empty, phantom):
    turned = nib.as_closest_canonical(nib.Nifti1Image(phantom.t1, phantom.affine)).slicer[:]
    stored = nib.Nifti1Image(np.asarray(turned.dataobj)[::-1, :, ::-1].transpose(2, 0, 1), None)
    flip = np.array([[0, -1, 0, phantom.t1.shape[0] - 1], [0, 0, 1, 0], [-1, 0, 0, phantom.t1.shape[2] - 1], [0, 0, 0, 1.0]])
    write(empty / "scans" / "a.nii.gz", np.asarray(stored.dataobj), phantom.affine @ flip)
    write(empty / "scans" / "b.nii.gz", np.zeros((8, 8, 8), dtype=np.float32), np.eye(4))
    with pytest.raises(DataError, match="1 of 2 scans failed"):
        brainmask.run(Path("scans"), Path("masks"), {"doubtful": True, "device": "cpu"})
    scan, mask, doubtful = (
        nib.load(empty / path) for path in ("scans/a.nii.gz", "masks/a.nii.gz", "masks/a_doubtful.nii.gz")
    )
    assert mask.shape == doubtful.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine)
    inside, brain = np.asarray(mask.dataobj) > 0, np.asarray(scan.dataobj) > 0
    assert 2 * (inside & brain).sum() / (inside.sum() + brain.sum()) > 0.9
    said = json.loads((empty / "masks" / "result.json").read_text())
    assert said["cases"]["a"]["brain_ml"] == pytest.approx(inside.sum() * 0.064)
    assert said["cases"]["a"]["doubtful_ml"] == pytest.approx((np.asarray(doubtful.dataobj) > 0).sum() * 0.064)
    assert list(said["failed"]) == ["b"]
    assert said["network"].startswith("medae ")


def test_one_image_has_the_name_that_is_asked_for(empty, phantom):
    write(empty / "scan.nii.gz", phantom.t1, phantom.affine)
    brainmask.run(Path("scan.nii.gz"), Path("out/brain.nii.gz"), {"device": "cpu"})
    assert sorted(path.name for path in (empty / "out").iterdir()) == [
        "brain.nii.gz",
        "brain_cases.csv",
        "brain_result.json",
    ]


def test_ct_of_a_data_set_is_refused(empty, phantom):
    write(empty / "scans" / "a.nii.gz", phantom.t1, phantom.affine)
    (empty / "cases.csv").write_text("subject,image\nP1,scans/a.nii.gz\n")
    with pytest.raises(DataError, match="this image is CT"):
        brainmask.run(Path("cases.csv"), Path("masks"), {"device": "cpu"}, ["data.modality=CT"])
    assert not list((empty / "masks").glob("*.nii.gz"))


def test_masks_are_not_written_among_the_scans(empty, phantom):
    write(empty / "scans" / "a.nii.gz", phantom.t1, phantom.affine)
    with pytest.raises(DataError, match="among the scans"):
        brainmask.run(Path("scans"), Path("scans"), {"device": "cpu"})
