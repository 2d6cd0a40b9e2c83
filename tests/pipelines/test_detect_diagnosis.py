"""The scans of a diagnosis: what is done once a scan, whatever the number of lesions."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import torch

from medae.anomaly.detector import DETECTOR, Rows, Scoring
from medae.anomaly.diagnosis import DiagnosisConfig
from medae.anomaly.maps.intensity import IntensityConfig
from medae.anomaly.maps.registry import build_map
from medae.data.case import Case, ImageRef, Manifest
from medae.preprocessing.brain import Extracted
from pipelines import detect_diagnosis
from pipelines.console import Screen
from tests.anomaly.conftest import PLAN, Flat

CELLS = DiagnosisConfig(contrasts=(-0.4, 0.4), radii=(2.0, 3.0), blurs=(0.0,), lesions=2)


def test_a_brain_is_found_once_a_scan(tmp_path, monkeypatch):
    calls: list[float] = []

    class Brighter:
        """What is above 50 is brain."""

        name = "brighter"

        def __call__(self, image_CIJK, affine):
            calls.append(float(image_CIJK.mean()))
            return Extracted(image_CIJK[:1] > 50)

    cases = []
    for place in range(2):
        image = np.full((24, 20, 14), 10, np.float32)
        image[4:20, 4:16, 2:12] = np.random.default_rng(place).uniform(90, 110, (16, 12, 10))
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / f"{place}.nii.gz")
        ref = ImageRef(files=(f"{place}.nii.gz",), sha256=f"{place}" * 64, kind="intensity")
        cases.append(Case(id=f"c{place}", subject=f"s{place}", images={"image": ref}))
    manifest = Manifest(source="test", root=tmp_path, channels=("image",), cases=tuple(cases))
    space = PLAN.space.model_copy(update={"foreground": "brain", "brain_extraction": "medae"})
    plan = PLAN.model_copy(update={"space": space})
    rows = Rows({DETECTOR: build_map(IntensityConfig(), "bright", 1)}, Scoring(), Flat(), plan, torch.device("cpu"))
    monkeypatch.setattr(detect_diagnosis, "extraction_of", lambda space: Brighter())
    found = detect_diagnosis.run_diagnosis(manifest, rows, CELLS, None, Screen())
    assert len(found.lesions) == 4 and found.subjects == ["s0", "s1"]
    assert len(calls) == 2 and calls[0] != calls[1], "each scan has a mask of its own"
