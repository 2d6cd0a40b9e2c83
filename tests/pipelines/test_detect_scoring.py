"""What a detection counts of its scans, by scans made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from medae.anomaly.detector import DETECTOR, Rows, Scoring
from medae.anomaly.maps.intensity import IntensityConfig
from medae.anomaly.maps.registry import build_map
from medae.anomaly.postprocessing import eroded
from medae.anomaly.scan import Scan
from medae.config import validate
from medae.data.case import Case, ImageRef, Manifest
from medae.preprocessing.store import Store
from medae.volume import NativeGrid
from pipelines.console import Screen
from pipelines.detect_checks import name_empty, that_count
from pipelines.detect_scoring import Scorer
from tests.anomaly.conftest import PLAN, Flat, scan_by_hand

IMAGE = ImageRef(files=("x.nii.gz",), sha256="0", kind="intensity")


@dataclass(frozen=True)
class ByHand(Scorer):
    """Takes scans and lesions as they are given, in the order of the cases."""

    given: list[tuple[np.ndarray, np.ndarray]]

    def scans(self, manifest: Manifest, what: str) -> Iterator[tuple[Case, Scan]]:
        for case, (image, _) in zip(manifest.cases, self.given, strict=True):
            yield case, scan_by_hand(image[None])

    def lesion(self, manifest: Manifest, case: Case, native: NativeGrid) -> np.ndarray:
        return self.given[[each.id for each in manifest.cases].index(case.id)][1]


def scorer(
    folder: Path, given: list[tuple[np.ndarray, np.ndarray]], normals: Any, **filters: Any
) -> tuple[ByHand, Manifest]:
    """Scores by the intensity. given: images ``[I, J, K]``, 0 outside their masks, and lesions."""
    scoring = validate(Scoring, {"map": {"kind": "intensity"}, "postprocessing": filters})
    rows = Rows({DETECTOR: build_map(IntensityConfig(), "bright", 1)}, scoring, Flat(), PLAN, torch.device("cpu"))
    store = Store(folder, PLAN.space, (), {})
    found = ByHand(rows, store, "lesion", normals, folder, folder, Screen(), given)
    cases = [Case(id=f"c{place}", subject=f"s{place}", images={"image": IMAGE}) for place in range(len(given))]
    return found, Manifest(source="test", root=Path("/"), channels=("image",), cases=tuple(cases))


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({}, 9),
        ({"median": (1, 1, 1)}, 11),
        ({"median": (1, 1, 1), "gaussian": (0.6, 1, 1)}, 5),
        ({"median": (3, 3, 3), "gaussian": (0.4, 0, 0)}, 5),
    ],
)
def test_a_lesion_in_a_slice_that_is_left_out_does_not_move_the_threshold(tmp_path, filters, left):
    rng = np.random.default_rng(0)
    image = rng.uniform(1, 2, (24, 20, 12)).astype(np.float32)
    lesion = np.zeros(image.shape, dtype=bool)
    lesion[4:20, 4:16, 5] = True
    found = []
    for bright in (0, 50):
        own, manifest = scorer(tmp_path, [(image + bright * lesion, lesion)], "lesion_free_slices", **filters)
        found.append(own.calibrate(manifest, 0.01, "by hand")[DETECTOR])
        counted = np.load(tmp_path / "c0.mask.npy")
        assert counted.any(axis=(0, 1)).sum() == counted.all(axis=(0, 1)).sum() == left
    assert found[0] == found[1]


def test_an_eroded_rim_does_not_count_and_lesion_in_it_is_missed(tmp_path):
    image = np.zeros((7, 7, 2), dtype=np.float32)
    image[1:6, 1:6] = 1
    lesion = np.zeros(image.shape, dtype=bool)
    for place in ((3, 3, 0), (1, 1, 0)):  # one in the middle, one in the rim
        lesion[place], image[place] = True, 9
    image[5, 5, 1] = 20  # normal, and brighter than both, in the rim
    own, manifest = scorer(tmp_path, [(image, lesion)], "lesion_free_scans", median=(1, 1, 1), erode=1)
    calibration = own.calibrate(manifest, 0.1, "by hand")[DETECTOR]
    assert np.load(tmp_path / "c0.mask.npy").sum() == 2 * 9
    assert calibration.achieved_mean == pytest.approx(1 / 18)
    at_five = calibration.model_copy(update={"threshold": 5.0})
    (filtered,), (unfiltered,) = (list(rows.values()) for rows in own.score(manifest, {DETECTOR: at_five}))
    (scan,) = filtered.scans
    assert (scan.mask_recall, scan.normal_voxels) == (0.5, 17)
    assert scan.average_precision == 0.5, "the missed voxel is never found, not even with the last of the others"
    assert (scan.true_positives, scan.false_positives, scan.recall, scan.dice) == (1, 0, 0.5, pytest.approx(2 / 3))
    (whole,) = unfiltered.scans
    assert (whole.mask_recall, whole.normal_voxels) == (1.0, 48)
    assert whole.average_precision == pytest.approx(2 / 3), "both lesion voxels after one that is normal"
    written = nib.load(tmp_path / "maps" / "c0_mask.nii.gz").get_fdata()
    assert np.array_equal(written > 0, eroded(image > 0, 1, 2))


def test_a_scan_whose_eroded_mask_is_empty_is_named_and_all_its_lesion_is_missed(tmp_path, capsys):
    thin, thick = np.zeros((2, 9, 9, 2), dtype=np.float32)
    thin[3:5, 1:8], thick[1:8, 1:8] = 1, 1
    lesion = np.zeros(thin.shape, dtype=bool)
    lesion[3, 3] = True
    given = [(thin, lesion), (thick, np.zeros_like(lesion))]
    own, manifest = scorer(tmp_path, given, "lesion_free_scans", median=(1, 1, 1), erode=1)
    store: Any = {
        case.id: SimpleNamespace(prepared=partial(lambda image: scan_by_hand(image[None]).prepared, image))
        for case, (image, _) in zip(manifest.cases, given, strict=True)
    }
    name_empty(manifest, store, PLAN, own.rows.scoring.postprocessing, Screen())
    said = capsys.readouterr().err
    assert "c0: its mask is empty after erosion by 1" in said and "c1" not in said
    kept = that_count(manifest, store, PLAN, own.rows.scoring.postprocessing, None, Screen())
    assert [case.id for case in kept.cases] == ["c1"]
    assert "c0 does not count for the threshold" in capsys.readouterr().err

    calibration = own.calibrate(manifest, 0.1, "by hand")[DETECTOR]
    assert calibration.n_scans == 1
    (filtered,), (unfiltered,) = (list(rows.values()) for rows in own.score(manifest, {DETECTOR: calibration}))
    empty, whole = filtered.scans
    assert (empty.score, empty.normal_voxels, empty.recall, empty.dice) == (0.0, 0, 0.0, 0.0)
    assert whole.normal_voxels == 2 * 25
    assert filtered.summary()["mask_recall_pooled"] == 0.0
    assert unfiltered.scans[0].normal_voxels == 2 * 13
