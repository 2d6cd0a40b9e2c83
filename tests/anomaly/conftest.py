"""Scans made by hand, as anomaly maps see them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from medae.anomaly.calibration import Calibration
from medae.anomaly.scan import Scan
from medae.models.output import Output
from medae.plan import NetworkPlan, Plan, RobustZ, SamplingPlan, SpacePlan
from medae.preprocessing.prepare import Prepared
from medae.volume import NativeGrid

PLAN = Plan(
    space=SpacePlan(
        spatial_dims=2, slice_axis=2, spacing=(1.0, 1.0, None), intensity=RobustZ(clip=50.0), foreground="nonzero"
    ),
    network=NetworkPlan(widths=(4, 4), strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3))),
    sampling=SamplingPlan(patch=(24, 20)),
)


CALIBRATION = Calibration(
    threshold=0.5,
    false_positive_rate=0.01,
    achieved_mean=0.01,
    achieved_sd=None,
    achieved_max=0.01,
    threshold_low=0.5,
    threshold_high=0.5,
    n_scans=1,
    n_subjects=1,
    normals="lesion_free_scans",
    cohort="one scan",
)
"""The least that a threshold has, on one scan."""

ENCODER = {"spatial_dims": 2, "widths": [4, 6], "strides": [[1, 1], [2, 2]], "kernels": [[3, 3], [3, 3]]}
SCAN = np.where(np.indices((1, 24, 20, 2))[1] > 4, 1.0, 0.0) * np.random.default_rng(0).uniform(0.5, 2, (1, 24, 20, 2))


class Flat(torch.nn.Module):
    """A model of normal anatomy: everything is as the median voxel."""

    def forward(self, image, visible=None):
        return Output((torch.zeros_like(image),))


def scan_by_hand(image, spacing=(1.0, 1.0, 1.0), mask=None, model=None, normal=None, plan=PLAN) -> Scan:
    """A scan of an array ``[C, I, J, K]`` that is 0 outside its mask, with 1 mm voxels unless given."""
    x = torch.as_tensor(np.asarray(image), dtype=torch.float32)
    inside = (x != 0).any(dim=0, keepdim=True) if mask is None else torch.as_tensor(mask)
    affine = np.diag([*spacing, 1.0])
    native = NativeGrid(shape=tuple(x.shape[1:]), affine=tuple(map(tuple, affine.tolist())))
    prepared = Prepared("scan", x, torch.ones(len(x), dtype=torch.bool), inside, {}, native, affine)
    return Scan(prepared, plan, model, normal=normal)


@pytest.fixture
def scan_of() -> Callable[..., Scan]:
    """See ``scan_by_hand``."""
    return scan_by_hand
