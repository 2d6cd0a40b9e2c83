"""From a map to a heat map, a mask and a score in the scan's own space."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter

from medae.anomaly.detector import DETECTOR, Rows, Scoring, load_map, reconstruction_error, scan_maps
from medae.anomaly.maps.intensity import IntensityConfig
from medae.anomaly.maps.registry import BASELINES, build_map
from medae.anomaly.maps.residual import ResidualConfig
from medae.anomaly.postprocessing import PostprocessingConfig
from medae.anomaly.scan import Scan
from medae.config import validate
from medae.errors import ArtifactError, ConfigError
from medae.models.output import Output
from medae.preprocessing.prepare import prepare_files
from tests.anomaly.conftest import PLAN, Flat

RAW = Scoring(postprocessing=PostprocessingConfig(median=(1, 1, 1)))


class Shifted(torch.nn.Module):
    """Everything is reconstructed brighter by a number."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, image, visible=None):
        return Output((image + self.by,))


@pytest.fixture
def prepared(tmp_path):
    rng = np.random.default_rng(0)
    array = np.zeros((20, 24, 7), np.float32)
    array[3:17, 3:21, 1:6] = 100 + rng.normal(0, 1, (14, 18, 5))
    array[8:11, 9:12, 3] = 140
    affine = np.diag([-1.0, 1.0, 4.0, 1.0])  # left to right is reversed in the file
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "scan.nii.gz")
    return array, prepare_files({"image": [tmp_path / "scan.nii.gz"]}, PLAN.space)


def maps_of(prepared, model, scoring=RAW, config=None):
    anomaly = build_map(config or ResidualConfig(), scoring.side, 1)
    return scan_maps(Scan(prepared, PLAN, model), anomaly, scoring)


def test_what_is_brighter_than_the_reconstruction_lights_up_at_its_place_in_the_file(prepared):
    array, scan = prepared
    maps = maps_of(scan, Flat())
    assert maps.heat.shape == array.shape
    assert np.array_equal(maps.mask, array > 0)
    assert maps.heat[8:11, 9:12, 3].min() > 10
    assert np.count_nonzero(maps.heat > 10) == 9
    assert not maps.heat[array == 0].any()
    assert maps.slice_axis == 2
    assert maps.voxel_ml == pytest.approx(0.004)
    assert np.count_nonzero(maps.flagged(10.0, RAW)) == 9


def test_maps_of_a_coarse_plan_are_filtered_and_scored_on_the_files_own_grid(prepared, tmp_path):
    array, _ = prepared
    plan = PLAN.model_copy(update={"space": PLAN.space.model_copy(update={"spacing": (2.0, 2.0, None)})})
    scan = Scan(prepare_files({"image": [tmp_path / "scan.nii.gz"]}, plan.space), plan, Flat())
    assert scan.image.shape[1:] != array.shape, "the plan's grid has voxels of 2 mm"
    maps = scan_maps(scan, build_map(ResidualConfig(), "bright", 1), Scoring())
    assert maps.raw.shape == maps.heat.shape == array.shape
    filtered = median_filter(maps.raw, size=(5, 5, 3), mode="constant")
    assert np.array_equal(maps.heat, np.where(maps.mask, filtered, 0)), "5 voxels of 1 mm, not of 2 mm"
    assert np.count_nonzero(maps.heat)


def test_a_model_that_copies_its_input_finds_nothing(prepared):
    _, scan = prepared
    assert not maps_of(scan, Shifted(0.0)).heat.any()
    assert not reconstruction_error(Scan(scan, PLAN, Shifted(0.0))).any()


def test_the_error_counts_both_sides_whatever_side_is_scored(prepared):
    array, scan = prepared
    error = reconstruction_error(Scan(scan, PLAN, Shifted(2.0)))
    assert error[array > 0] == pytest.approx(2.0, abs=1e-4)
    assert not error[array == 0].any()


def test_dark_lesions_need_a_side_that_counts_them(prepared):
    _, scan = prepared
    assert not maps_of(scan, Shifted(2.0)).heat.any()
    for side in ("dark", "absolute"):
        maps = maps_of(scan, Shifted(2.0), RAW.model_copy(update={"side": side}))
        assert maps.heat[maps.mask] == pytest.approx(2.0, abs=1e-4)


def test_the_baseline_has_the_same_mask_and_filter(prepared):
    _, scan = prepared
    plain, flat = maps_of(scan, None, config=IntensityConfig()), maps_of(scan, Flat())
    assert np.array_equal(plain.heat, flat.heat)
    filtered = maps_of(scan, None, Scoring(), IntensityConfig())
    assert np.array_equal(filtered.mask, plain.mask)
    assert filtered.heat[9, 10, 3] < plain.heat[9, 10, 3], "one bright slice of 3 x 3 voxels falls to a 3 x 5 x 5 median"


def test_the_reconstruction_is_averaged_over_mirror_images_along_the_axes_that_training_showed(prepared):
    _, scan = prepared

    class Half(torch.nn.Module):
        """Adds 1 on one half of the patch."""

        def forward(self, image, visible=None):
            added = torch.zeros_like(image)
            added[:, :, : image.shape[2] // 2] = 1
            return Output((image + added,))

    def added(mirrored, flips=True):
        scoring = Scoring(flips=flips)
        rows = Rows({}, scoring, Half(), PLAN, torch.device("cpu"), mirrored)
        return (rows.scan(scan).reconstruction - scan.image).numpy()

    assert set(np.unique(added(()).round(3))) == {0.0, 1.0}
    assert added((0,)) == pytest.approx(0.5, abs=1e-4)
    assert np.array_equal(added((1,)).round(3), added(()).round(3)), "what it adds is alike in a mirror along the other axis"
    assert np.array_equal(added((0,), flips=False), added(()))


def test_a_reconstruction_that_was_kept_is_read_again(prepared, tmp_path):
    _, scan = prepared
    kept = tmp_path / "kept.npy"
    first = Scan(scan, PLAN, Shifted(1.0), kept=kept).reconstruction
    again = Scan(scan, PLAN, None, kept=kept).reconstruction
    assert torch.equal(first, again)


def test_every_baseline_is_reported_beside_every_detector():
    scoring = validate(Scoring, {"map": {"kind": "blur"}, "compare": {"flat": {"kind": "intensity"}}})
    assert list(scoring.rows()) == [DETECTOR, "flat", *BASELINES]
    for name in ("detector", "intensity"):
        with pytest.raises(ConfigError, match="reported anyway"):
            validate(Scoring, {"compare": {name: {"kind": "blur"}}})
    with pytest.raises(ConfigError, match="no name for a map"):
        validate(Scoring, {"compare": {"a/b": {"kind": "blur"}}})


def test_a_measure_without_a_dark_side_finds_nothing_dark():
    ssim = {"kind": "residual", "measure": "ssim"}
    with pytest.raises(ConfigError, match="no dark side"):
        validate(Scoring, {"side": "dark", "map": {"kind": "sum", "of": [ssim, {"kind": "intensity"}]}})
    validate(Scoring, {"side": "dark", "map": {**ssim, "place": {}}})


def test_statistics_of_another_map_are_refused():
    with pytest.raises(ArtifactError, match="do not fit"):
        load_map(Scoring(rarity="all"), 1, {})
