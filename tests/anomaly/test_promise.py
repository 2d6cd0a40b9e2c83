"""What a calibration promises of unseen normal subjects holds: on phantoms, and on real heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medae.anomaly.calibration import calibrate
from medae.anomaly.maps.blur import BlurConfig
from medae.anomaly.maps.intensity import IntensityConfig
from medae.anomaly.maps.registry import build_map, learn_maps
from medae.anomaly.place import PlaceConfig
from medae.anomaly.scan import Scan
from medae.data.bids import BIDSSource
from medae.data.case import Manifest
from medae.data.phantom import PhantomSource
from medae.data.split import SplitConfig, split_subjects
from medae.plan import NetworkPlan, Plan, RobustZ, SamplingPlan, SpacePlan
from medae.preprocessing.prepare import prepare_case

RATE = 0.02
NETWORK = NetworkPlan(widths=(4, 4), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3), (3, 3, 3)))
MAPS = {
    "intensity": IntensityConfig(),
    "equalised": IntensityConfig(equalise=True),
    "voxel-wise": IntensityConfig(place=PlaceConfig(align="box", grid=(24, 28, 24))),
    "blurred": BlurConfig(sigma=2.0),
}


def broken(manifest: Manifest, split: SplitConfig, space: SpacePlan) -> list[str]:
    """Of maps without a model: where the mean flagged share of test subjects is not what validation subjects promise."""
    sides = split_subjects(manifest, split)
    plan = Plan(space=space, network=NETWORK, sampling=SamplingPlan(patch=(16, 16, 16)))
    scans = {case.subject: Scan(prepare_case(manifest, case, space), plan) for case in manifest.cases}
    training, validation, test = (
        [scans[subject] for subject in side] for side in (sides.train, sides.validation, sides.test)
    )
    maps = {name: build_map(config, "absolute", 1) for name, config in MAPS.items()}
    learn_maps(maps.values(), lambda: training, lambda: validation)
    problems = []
    for name, anomaly in maps.items():
        heat = [anomaly(scan)[0].numpy() for scan in validation]
        masks = [scan.mask[0].numpy() for scan in validation]
        found = calibrate(heat, masks, RATE, cohort="validation", normals="lesion_free_scans")
        low, high = found.promise(len(test))
        share = np.mean([(anomaly(scan)[0].numpy()[scan.mask[0].numpy()] >= found.threshold).mean() for scan in test])
        if not low <= share <= high:
            problems.append(f"{name}: {share:.4f} is not from {low:.4f} to {high:.4f}")
        if high >= 10 * RATE:
            problems.append(f"{name}: a promise of up to {high:.3f} says nothing")
    return problems


def test_on_phantoms(tmp_path: Path) -> None:
    manifest = PhantomSource(root=tmp_path, subjects=24, lesions=0, spacing=6.0).manifest()
    space = SpacePlan(spacing=(6.0, 6.0, 6.0), intensity=RobustZ(), foreground="nonzero", channels=("T1w",))
    assert broken(manifest, SplitConfig(salt="promise:", test=8, validation=8), space) == []


@pytest.mark.data
def test_on_real_heads(data_root: Path) -> None:
    manifest = BIDSSource(root=data_root / "ixi_t1").manifest()
    space = SpacePlan(
        spacing=(4.0, 4.0, 4.0), intensity=RobustZ(), foreground="brain", brain_from=("label",), channels=("T1w",)
    )
    assert broken(manifest, SplitConfig(salt="medae-test:", test=12, validation=8), space) == []
