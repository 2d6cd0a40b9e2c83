"""Lesions of known contrast, size and edge: where they are put, and what is found of them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from medae.anomaly.detector import Rows, Scoring
from medae.anomaly.diagnosis import Cell, DiagnosisConfig, Inserted, Probe, diagnose, lesions_in
from medae.anomaly.maps.intensity import IntensityConfig
from medae.anomaly.maps.registry import build_map
from medae.anomaly.postprocessing import PostprocessingConfig
from medae.anomaly.scan import Scan
from medae.config import validate
from medae.errors import ConfigError, DataError
from medae.preprocessing.prepare import prepare_files
from medae.synthesis.lesions import ball
from tests.anomaly.conftest import PLAN, Flat

BRAIN = np.zeros((60, 60, 40), dtype=bool)
BRAIN[5:55, 5:55, 5:35] = True
SPACING = (1.0, 1.0, 1.5)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_ball_has_its_volume_and_its_edge_its_width():
    sharp = ball((41, 41, 41), (0.5, 0.5, 0.5), (20, 20, 20), radius_mm=5, blur_mm=0)
    assert set(np.unique(sharp)) == {0.0, 1.0}
    assert sharp.sum() * 0.125 == pytest.approx(4 / 3 * np.pi * 125, rel=0.02)
    soft = ball((81, 81, 81), (0.25, 0.25, 0.25), (40, 40, 40), radius_mm=5, blur_mm=2)
    profile = soft[40:, 40, 40]
    assert profile[20] == pytest.approx(0.5)
    width = 0.25 * (np.argmin(np.abs(profile - 0.1)) - np.argmin(np.abs(profile - 0.9)))
    assert width == pytest.approx(2.0, abs=0.3)


@pytest.mark.parametrize("cell", [Cell(0.2, 3, 0), Cell(0.2, 5, 2), Cell(-0.4, 8, 0)])
def test_lesions_lie_whole_in_the_mask_and_apart(cell):
    soft, count = lesions_in(BRAIN, SPACING, cell, 8, rng())
    balls, found = ndimage.label(soft > 0.5)
    assert found == count == 8
    assert not (soft > 0.5)[~BRAIN].any()
    volumes = np.bincount(balls.ravel())[1:] * np.prod(SPACING)
    assert volumes == pytest.approx(4 / 3 * np.pi * cell.radius**3, rel=0.15)


def test_a_full_scan_holds_fewer_and_a_thin_one_none():
    _, count = lesions_in(BRAIN, SPACING, Cell(0.2, 8, 0), 200, rng())
    assert 5 < count < 60
    assert lesions_in(BRAIN, SPACING, Cell(0.2, 30, 0), 5, rng())[1] == 0


def test_a_single_slice_has_room_in_its_plane():
    soft, count = lesions_in(BRAIN[:, :, 20:21], (1.0, 1.0, 6.0), Cell(0.2, 5, 0), 4, rng())
    assert count == 4 and ndimage.label(soft > 0.5)[1] == 4
    assert soft.sum() == pytest.approx(4 * np.pi * 25, rel=0.1)


def test_the_same_seed_gives_the_same_places_whatever_the_contrast_and_the_edge():
    def places(cell: Cell, case: str = "a") -> np.ndarray:
        put = Inserted(cell, DiagnosisConfig(lesions=3), case, [100.0])
        put(torch.ones(1, *BRAIN.shape), torch.from_numpy(BRAIN)[None], np.diag([*SPACING, 1.0]))
        return put.soft

    assert np.array_equal(places(Cell(0.2, 3, 0)), places(Cell(-0.4, 3, 0)))
    assert np.array_equal(places(Cell(0.2, 3, 0)) > 0.5, places(Cell(0.2, 3, 2)) >= 0.5)
    assert not np.array_equal(places(Cell(0.2, 3, 0)), places(Cell(0.2, 5, 0)))
    assert not np.array_equal(places(Cell(0.2, 3, 0)), places(Cell(0.2, 3, 0), "b"))


def test_the_contrast_is_a_share_of_the_reference_and_only_lesions_change():
    raw = torch.full((2, *BRAIN.shape), 50.0)
    raw[1] = 80.0
    mask = torch.from_numpy(BRAIN)[None]
    put = Inserted(Cell(-0.4, 5, 0), DiagnosisConfig(lesions=2), "a", [100.0, 100.0])
    changed = put(raw, mask, np.diag([*SPACING, 1.0]))
    lesion = torch.from_numpy(put.soft > 0.5)
    assert changed[0][lesion].unique().tolist() == [10.0]
    assert changed[0][~lesion].unique().tolist() == [50.0]
    assert raw.unique().tolist() == [50.0, 80.0], "the scan itself is left as it was"
    own = Inserted(Cell(-0.4, 5, 0), DiagnosisConfig(lesions=2), "a")(raw, mask, np.diag([*SPACING, 1.0]))
    assert own[0].min().item() == pytest.approx(30.0)
    assert own[1].min().item() == pytest.approx(48.0), "without a reference the median of each channel is one"


def test_lesions_are_put_into_normal_voxels_only():
    normal = np.zeros((1, *BRAIN.shape), dtype=bool)
    normal[:, :, :, 20:] = True
    put = Inserted(Cell(0.2, 3, 0), DiagnosisConfig(), "a", [100.0], normal)
    put(torch.ones(1, *BRAIN.shape), torch.from_numpy(BRAIN)[None], np.diag([*SPACING, 1.0]))
    assert put.soft[..., 20:].any()
    assert not put.soft[..., :20].any()


def test_intensities_of_mr_stay_above_nought_and_those_of_ct_do_not():
    mask = torch.from_numpy(BRAIN)[None]
    for lowest, expected in ((0.0, 0.0), (-1000.0, -30.0)):
        raw = torch.full((1, *BRAIN.shape), 10.0)
        raw[0, 0, 0, 0] = lowest
        put = Inserted(Cell(-0.4, 5, 0), DiagnosisConfig(lesions=2), "a", [100.0])
        changed = put(raw, mask, np.diag([*SPACING, 1.0]))
        assert changed[0][torch.from_numpy(put.soft > 0.5)].unique().tolist() == [expected]


def test_a_contrast_needs_a_reference_above_nought():
    raw = torch.full((1, *BRAIN.shape), -1000.0)
    with pytest.raises(DataError, match="reference intensity is -1000"):
        Inserted(Cell(0.2, 5, 0), DiagnosisConfig(), "a")(raw, torch.from_numpy(BRAIN)[None], np.diag([*SPACING, 1.0]))


def test_a_scan_that_no_lesion_fits_into_is_left_as_it_is():
    put = Inserted(Cell(0.2, 40, 0), DiagnosisConfig(), "sub-1", [100.0])
    raw = torch.rand(1, *BRAIN.shape)
    assert torch.equal(put(raw, torch.from_numpy(BRAIN)[None], np.diag([*SPACING, 1.0])), raw)
    assert put.count == 0
    assert not put.truth(np.diag([*SPACING, 1.0])).any()


@pytest.mark.parametrize("wrong", [{"contrasts": []}, {"radii": [0.0]}, {"radii": [3.0, 3.0]}, {"blurs": [-1.0]}])
def test_cells_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        validate(DiagnosisConfig, wrong)


@pytest.fixture
def scan_file(tmp_path):
    """A noisy brain stored from left to right, head first."""
    array = np.where(BRAIN, 100 + np.random.default_rng(0).normal(0, 5, BRAIN.shape), 0).astype(np.float32)
    path = tmp_path / "scan.nii.gz"
    nib.save(
        nib.Nifti1Image(
            array[::-1].transpose(2, 0, 1), np.array([[0, -1, 0, 0], [0, 0, 1, 0], [1.5, 0, 0, 0], [0, 0, 0, 1.0]])
        ),
        path,
    )
    return path


def test_what_is_found_of_bright_and_dark_lesions_by_hand(scan_file):
    """The intensity finds bright lesions and, on that side, no dark one; strong ones better than weak ones."""
    config = DiagnosisConfig(contrasts=(-0.4, 0.05, 0.4), radii=(5.0, 200.0), blurs=(0.0,), lesions=4)
    plan = PLAN.model_copy(update={"space": PLAN.space.model_copy(update={"spacing": (None, None, None)})})

    def scan_with(cell: Cell) -> Probe:
        from medae.preprocessing import prepare

        put = Inserted(cell, config, "scan", [100.0])
        plain = prepare_files({"image": [scan_file]}, plan.space)
        source = {"image": prepare._Source(scan_file, lambda: prepare.read.read_array([scan_file], "intensity"))}
        prepared = prepare._prepare("scan", source, {}, plan.space, None, None, put)
        assert torch.equal(prepared.mask, plain.mask), "the mask is that of the scan without the lesion"
        truth = put.truth(prepared.native.matrix())
        assert truth.shape == nib.load(scan_file).shape
        raw = np.asarray(nib.load(scan_file).dataobj)
        assert (raw[truth] > 0).all(), "lesions lie in the brain of the file"
        return Probe(Scan(prepared, plan), truth, None, put.count)

    scoring = Scoring(postprocessing=PostprocessingConfig(median=(1, 1, 1)))
    rows = Rows({"intensity": build_map(IntensityConfig(), "bright", 1)}, scoring, Flat(), plan, torch.device("cpu"))
    found = diagnose(rows, config, [("scan", scan_with)])
    cells = [cell for cell in config.cells() if cell.radius == 5.0]
    assert list(found.lesions) == cells, "what fits nowhere is left out"
    dark, weak, strong = (found.average_precision("intensity", cell) for cell in cells)
    assert strong > 0.99
    assert dark < weak < strong
    assert set(found.lesions.values()) == {4}
    assert found.mean("intensity") == pytest.approx((dark + weak + strong) / 3)
    assert found.mean("intensity", 0.4) == strong
    assert found.mean_unfiltered("intensity") == found.mean("intensity"), "nothing is filtered here"
    assert found.mean("intensity", 0.7) is None
    assert found.subjects == ["scan"]
    huge = config.model_copy(update={"radii": (200.0,)})
    with pytest.raises(DataError, match="No lesion of any kind fits"):
        diagnose(rows, huge, [("scan", scan_with)])
