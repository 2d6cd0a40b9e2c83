"""From a reconstruction to maps in the scan's own space."""

import nibabel as nib
import numpy as np
import pytest
import torch

from medae.anomaly.detector import Scoring, intensity_maps, model_maps, reconstruct
from medae.anomaly.postprocessing import PostprocessingConfig
from medae.models.output import Output
from medae.plan import NetworkPlan, Plan, RobustZ, SamplingPlan, SpacePlan
from medae.preprocessing.prepare import prepare_files

PLAN = Plan(
    space=SpacePlan(
        spatial_dims=2, slice_axis=2, spacing=(1.0, 1.0, None), intensity=RobustZ(clip=50.0), foreground="nonzero"
    ),
    network=NetworkPlan(widths=(4, 4), strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3))),
    sampling=SamplingPlan(patch=(24, 20)),
)
RAW = Scoring(postprocessing=PostprocessingConfig(median=(1, 1, 1)), top_share=0.001)


class Smooth(torch.nn.Module):
    """A model of normal anatomy: everything is as the median voxel."""

    def forward(self, image, visible=None):
        return Output((torch.zeros_like(image),))


@pytest.fixture
def scan(tmp_path):
    rng = np.random.default_rng(0)
    array = np.zeros((20, 24, 7), np.float32)
    array[3:17, 3:21, 1:6] = 100 + rng.normal(0, 1, (14, 18, 5))
    array[8:11, 9:12, 3] = 140
    affine = np.diag([-1.0, 1.0, 4.0, 1.0])  # left to right is reversed in the file
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "scan.nii.gz")
    return array, prepare_files({"image": [tmp_path / "scan.nii.gz"]}, PLAN.space)


def test_what_is_brighter_than_the_reconstruction_lights_up_at_its_place_in_the_file(scan):
    array, prepared = scan
    maps = model_maps(prepared, reconstruct(Smooth(), prepared, PLAN, RAW, torch.device("cpu")), PLAN, RAW)
    assert maps.heat.shape == array.shape
    assert np.array_equal(maps.mask, array > 0)
    assert maps.heat[8:11, 9:12, 3].min() > 10
    assert np.count_nonzero(maps.heat > 10) == 9
    assert not maps.heat[array == 0].any()
    assert maps.slice_axis == 2
    assert maps.voxel_ml == pytest.approx(0.004)
    assert maps.score(RAW) > 10
    assert np.count_nonzero(maps.flagged(10.0, RAW)) == 9


def test_a_model_that_copies_its_input_finds_nothing(scan):
    _, prepared = scan
    maps = model_maps(prepared, prepared.image, PLAN, RAW)
    assert not maps.heat.any()
    assert not maps.error.any()


def test_dark_lesions_need_a_residual_that_counts_them(scan):
    _, prepared = scan
    darker = prepared.image + 2.0
    assert not model_maps(prepared, darker, PLAN, RAW).heat.any()
    for kind in ("dark", "absolute"):
        maps = model_maps(prepared, darker, PLAN, RAW.model_copy(update={"residual": kind}))
        assert maps.heat[maps.mask] == pytest.approx(2.0, abs=1e-4)


def test_the_baseline_has_the_same_mask_and_filter(scan):
    _, prepared = scan
    plain = intensity_maps(prepared, PLAN, RAW)
    flat = model_maps(prepared, torch.zeros_like(prepared.image), PLAN, RAW)
    assert np.array_equal(plain.heat, flat.heat)
    filtered = intensity_maps(prepared, PLAN, Scoring())
    assert np.array_equal(filtered.mask, plain.mask)
    assert filtered.heat[9, 10, 3] < plain.heat[9, 10, 3], "one bright slice of 3 x 3 voxels falls to a 3 x 5 x 5 median"
