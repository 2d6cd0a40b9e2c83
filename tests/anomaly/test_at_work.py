"""A detector at work: it does what its threshold was set with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stored import stored_model

from medae.anomaly.detector import Scoring, load_map, scan_maps
from medae.anomaly.scan import Scan
from medae.artifact import Artifact
from medae.config import to_dict, validate
from medae.errors import ConfigError
from medae.export.at_work import Given, put_to_work
from tests.anomaly.conftest import CALIBRATION

CPU = torch.device("cpu")


def detector(folder: Path, scoring: dict[str, Any], space: dict[str, Any] | None = None, **provenance: Any) -> Artifact:
    """An untrained one of volumes."""
    record = {"scoring": to_dict(validate(Scoring, scoring)), **to_dict(CALIBRATION)}
    return stored_model(folder, "autoencoder", kind="detector", space=space, calibration=record, provenance=provenance)


def test_a_detector_mirrors_along_the_axes_that_its_training_showed(tmp_path, scan_of):
    artifact = detector(tmp_path / "model", {"flips": True}, mirrored=[1])
    image = np.random.default_rng(0).uniform(0.5, 1, (1, 8, 8, 8))
    prepared = scan_of(image, plan=artifact.meta.plan).prepared
    (heat, *_) = put_to_work([artifact], ["model"], CPU).apply(Given([prepared], []), "scan").layers
    scoring = Scoring(flips=True)
    anomaly = load_map(scoring, 1, {})

    def expected(mirrored: tuple[int, ...]) -> np.ndarray:
        scan = Scan(prepared, artifact.meta.plan, artifact.model(), mirrored=mirrored)
        return scan_maps(scan, anomaly, scoring).heat

    assert np.array_equal(heat.array, expected((1,)))
    assert not np.allclose(heat.array, expected(())) and not np.allclose(heat.array, expected((0, 1, 2)))


def test_a_mask_that_was_eroded_is_not_called_the_brain(tmp_path, scan_of):
    named = []
    for erode in (0, 1):
        space = {"foreground": "brain"}
        artifact = detector(tmp_path / f"{erode}", {"postprocessing": {"erode": erode}}, space=space)
        prepared = scan_of(np.ones((1, 8, 8, 8)), plan=artifact.meta.plan).prepared
        mask = put_to_work([artifact], ["model"], CPU).apply(Given([prepared], []), "scan").layers[-1]
        named.append((mask.labels, int(mask.array.sum())))
    assert named == [({1: "brain"}, 8 * 8 * 8), ({1: "scored region"}, 6 * 6 * 8)]


def test_what_was_flagged_where_a_made_mask_is_doubtful_is_said(tmp_path, scan_of):
    artifact = detector(tmp_path / "model", {"map": {"kind": "intensity"}, "postprocessing": {"median": [1, 1, 1]}})
    image = np.zeros((1, 8, 8, 8))
    image[0, :2] = 9.0
    prepared = scan_of(image, plan=artifact.meta.plan).prepared
    doubtful = torch.zeros((1, 8, 8, 8), dtype=torch.bool)
    doubtful[0, 1:4, :5] = True
    work = put_to_work([artifact], ["model"], CPU)
    said = work.apply(Given([replace(prepared, doubtful=doubtful)], []), "scan").said
    voxel = prepared.native.voxel_ml
    assert said["doubtful_ml"] == pytest.approx(3 * 5 * 8 * voxel)
    assert said["flagged_ml"] == pytest.approx(2 * 8 * 8 * voxel)
    assert said["flagged_in_doubt_ml"] == pytest.approx(1 * 5 * 8 * voxel)
    assert "doubtful_ml" not in work.apply(Given([prepared], []), "scan").said, "nothing is known of the mask"


def test_mirror_images_are_refused_where_the_threshold_was_set_without(tmp_path):
    artifact = detector(tmp_path / "model", {}, mirrored=[0])
    with pytest.raises(ConfigError, match="threshold was set on maps without mirror images"):
        put_to_work([artifact], ["model"], CPU, flips=True)
    put_to_work([artifact], ["model"], CPU)
