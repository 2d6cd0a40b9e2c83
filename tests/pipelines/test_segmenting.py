"""Scores are taken where scan, prediction and reference lie on each other, however each is stored."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from medae.anomaly.detector import Rows, Scoring
from medae.data.case import Manifest
from medae.data.folder import FolderSource
from medae.models.output import Output
from medae.plan import NetworkPlan, Plan, RobustZ, SamplingPlan, SpacePlan
from medae.preprocessing.prepare import prepare_case
from medae.preprocessing.store import Store
from pipelines.console import Screen
from pipelines.detect_scoring import Scorer
from pipelines.segmenting import native_image, reference, score_arms
from tests.anomaly.conftest import Flat

PLAN = Plan(
    space=SpacePlan(spatial_dims=3, spacing=(1.0, 1.5, 2.0), intensity=RobustZ(clip=50.0), foreground="all"),
    network=NetworkPlan(widths=(4, 4), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3), (3, 3, 3))),
    sampling=SamplingPlan(patch=(12, 10, 8)),
)
"""The spacing is that of the scans, so that nothing is lost on the way."""


class Bright(torch.nn.Module):
    """Takes what is ten deviations above the median for label 1."""

    def forward(self, image: torch.Tensor, visible: torch.Tensor | None = None) -> Output:
        return Output((torch.cat([torch.full_like(image, 10.0), image], dim=1),))


def stored(path: Path, array: np.ndarray, axes: str) -> None:
    """Write an array on RAS axes to a file that has others, at the same place of the world."""
    image = nib.Nifti1Image(array, np.diag([*PLAN.space.spacing, 1.0]))
    turned = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(axes)))
    path.parent.mkdir(exist_ok=True)
    nib.save(turned, path)


@pytest.fixture(params=[("RAS", "RAS"), ("LAS", "RAS"), ("RAI", "RAS"), ("PSL", "RAS"), ("RAS", "IRP")])
def lesion(request: pytest.FixtureRequest, tmp_path: Path) -> Manifest:
    """A scan with a bright corner, and the label map of it."""
    array = np.zeros((12, 10, 8), dtype=np.uint8)
    array[1:4, 2:8, 5:7] = 1
    noise = np.random.default_rng(0).normal(size=array.shape)
    image, label = request.param
    stored(tmp_path / "image" / "a.nii.gz", (noise + 100.0 * array).astype(np.float32), image)
    stored(tmp_path / "mask" / "a.nii.gz", array, label)
    return FolderSource(root=tmp_path, images="image", labels="mask", ids="names").manifest()


def test_a_reference_lies_on_its_scan(lesion: Manifest) -> None:
    case = lesion.cases[0]
    image, affine = native_image(lesion, case.images["image"])
    truth, spacing = reference(lesion, case, "label", affine)
    assert np.array_equal(truth > 0, image > 50)
    assert spacing == pytest.approx(np.linalg.norm(affine[:3, :3], axis=0))
    own, _ = reference(lesion, case, "label")
    assert np.array_equal(own, nib.load(next((lesion.root / "mask").iterdir())).get_fdata())


def test_a_segmenter_is_scored_on_its_scan(lesion: Manifest, tmp_path: Path) -> None:
    scores = score_arms(
        {"bright": Bright()},
        lesion,
        "label",
        {0: "background", 1: "lesion"},
        PLAN,
        torch.device("cpu"),
        mirrored=(),
        tolerance=1.0,
        folder=tmp_path,
        screen=Screen(),
    )
    assert scores["bright"]["a"]["lesion"].dice == 1.0


def test_a_detector_is_scored_on_its_scan(lesion: Manifest, tmp_path: Path) -> None:
    rows = Rows({}, Scoring(), Flat(), PLAN, torch.device("cpu"))
    scorer = Scorer(rows, Store(tmp_path, PLAN.space, (), {}), "label", "lesion_free_scans", tmp_path, tmp_path, Screen())
    case = lesion.cases[0]
    found = scorer.lesion(lesion, case, prepare_case(lesion, case, PLAN.space).native)
    assert np.array_equal(found, native_image(lesion, case.images["image"])[0] > 50)
