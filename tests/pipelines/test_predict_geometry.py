"""Results lie where the scan lies, for readers that are not medae's: SimpleITK, on scans of every orientation and shape.

The network calls bright voxels foreground, so that every label of a result can be held against its voxel of the scan.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from medae.artifact import Artifact, ArtifactMeta, save_artifact
from medae.models.base import Network
from medae.models.output import Output
from medae.plan import NetworkPlan, Plan, SamplingPlan, SpacePlan
from pipelines import predict
from pipelines.networks import network_config, seeded_network

SCANS = {
    "odd_ras": ((13, 9, 11), "RAS", 0.0),
    "lps": ((12, 10, 8), "LPS", 0.0),
    "psr": ((11, 12, 7), "PSR", 0.0),
    "oblique": ((10, 13, 9), "LIP", 0.35),
    "one_slice": ((14, 11, 1), "LAS", 0.1),
    "flat": ((15, 12), "RAS", 0.0),
}
"""By name: shape in the file, orientation, tilt (radians about the first axis)."""


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number, (name, (shape, codes, tilt)) in enumerate(SCANS.items()):
        values = np.random.default_rng(number).uniform(1, 99, shape).astype(np.float32)
        if len(shape) == 2:
            nib.save(nib.Nifti1Image(values, np.diag([1.5, 1.2, 1.0, 1.0])), folder / f"{name}.nii.gz")
            continue
        turn = np.eye(4)
        turn[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
        affine = turn @ np.diag([1.2, 0.9, 2.0, 1.0])
        affine[:3, 3] = -31.5, 12.25, 7
        there = nib.orientations.axcodes2ornt(codes)
        turned = nib.orientations.ornt_transform(there, nib.orientations.axcodes2ornt("RAS"))
        image = nib.Nifti1Image(nib.orientations.apply_orientation(values, turned), affine)
        back = nib.orientations.ornt_transform(nib.io_orientation(affine), there)
        image = image.as_reoriented(back)
        image.set_qform(image.affine, 1)
        image.set_sform(image.affine, 1)
        assert image.shape == shape and "".join(nib.aff2axcodes(image.affine)) == codes
        nib.save(image, folder / f"{name}.nii.gz")
    return folder


class Bright(nn.Module):
    """Foreground where the image is above its mean."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.config, self.encoder = network.config, network.encoder

    def forward(self, image: torch.Tensor, visible: torch.Tensor | None = None) -> Output:
        return Output((torch.cat([-image, image], dim=1),))


def make_model(folder: Path, dims: int) -> Path:
    plan = Plan(
        space=SpacePlan(
            channels=("T1w",),
            foreground="all",
            spatial_dims=dims,
            spacing=(None,) * 3,
            slice_axis=2 if dims == 2 else None,
        ),
        network=NetworkPlan(widths=(4, 4), strides=((1,) * dims, (2,) * dims), kernels=((3,) * dims, (3,) * dims)),
        sampling=SamplingPlan(patch=(8,) * dims),
    )
    model = seeded_network(network_config({"kind": "unet"}, plan, classes=2), 3)
    meta = ArtifactMeta(kind="segmenter", network=model.config, plan=plan, target="label", labels={0: "background", 1: "a"})
    save_artifact(folder, model, meta)
    return folder


def geometry(path: Path) -> np.ndarray:
    image = sitk.ReadImage(str(path))
    return np.array([*image.GetSize(), *image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("form", ["nifti", "nrrd"])
def test_results_have_the_geometry_of_the_scan_for_simpleitk(
    scans: Path, tmp_path: Path, dims: int, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tmp_path / "model", dims)
    whole = Artifact.model
    monkeypatch.setattr(Artifact, "model", lambda self: Bright(whole(self)))
    result = predict.run(str(model), scans, tmp_path / "out", {"device": "cpu", "to": form})
    assert set(result["cases"]) == set(SCANS) and not result["failed"]
    ending = ".nii.gz" if form == "nifti" else ".seg.nrrd"
    for name, (shape, _, _) in SCANS.items():
        source, found = scans / f"{name}.nii.gz", tmp_path / "out" / f"{name}{ending}"
        expected = geometry(source)
        if form == "nifti" or len(shape) == 3:
            np.testing.assert_allclose(geometry(found), expected, atol=1e-4, err_msg=name)
        image, labels = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (source, found))
        assert np.array_equal(labels.reshape(image.shape), image > image.mean()), name
