"""Anomaly maps by hand: baselines, sums, rarity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medae.anomaly.maps.base import AnomalyMap
from medae.anomaly.maps.blur import BlurConfig
from medae.anomaly.maps.intensity import IntensityConfig, equalised
from medae.anomaly.maps.rarity import RarityMap
from medae.anomaly.maps.registry import SumConfig, baselines, build_map, build_maps, learn_maps, needs_model
from medae.anomaly.maps.residual import ResidualConfig
from medae.anomaly.place import PlaceConfig
from medae.anomaly.scan import Scan
from medae.config import validate
from medae.errors import ConfigError, DataError
from medae.models.output import Output


class Constant(torch.nn.Module):
    """Reconstructs every scan as one number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, image, visible=None):
        self.calls += 1
        return Output((torch.full_like(image, self.value),))


class Given(AnomalyMap):
    """A map whose values are those of the image."""

    def forward(self, scan: Scan) -> torch.Tensor:
        return scan.image[:1].clamp(min=0)


def test_the_intensity_is_its_own_baseline(scan_of):
    scan = scan_of([[[[3.0, -1.0]], [[2.0, 0.0]]]])
    assert build_map(IntensityConfig(), "bright", 1)(scan).flatten().tolist() == [3, 0, 2, 0]
    assert build_map(IntensityConfig(), "dark", 1)(scan).flatten().tolist() == [0, 1, 0, 0]
    assert build_map(IntensityConfig(), "absolute", 1)(scan).flatten().tolist() == [3, 1, 2, 0]


def test_an_equalised_intensity_is_the_rank_in_the_scan(scan_of):
    scan = scan_of([[[[5.0, 1.0]], [[1.0, 0.0]]]])
    assert equalised(scan.image, scan.mask).flatten().tolist() == pytest.approx([1 / 3, -1 / 6, -1 / 6, 0])
    stretched = scan_of([[[[500.0, -7.0]], [[-7.0, 0.0]]]])
    assert torch.equal(equalised(stretched.image, stretched.mask), equalised(scan.image, scan.mask))
    found = build_map(IntensityConfig(equalise=True), "bright", 1)(scan)
    assert found.flatten().tolist() == pytest.approx([1 / 3, 0, 0, 0])


def test_the_reconstruction_is_made_once_for_all_maps_and_only_if_one_asks(scan_of):
    model = Constant(1.0)
    scan = scan_of(np.full((1, 24, 20, 2), 4.0), model=model)
    assert not build_map(IntensityConfig(), "bright", 1)(scan)[~scan.mask].any()
    assert model.calls == 0
    for measure in ("difference", "gradient", "ssim"):
        build_map(ResidualConfig(measure=measure), "bright", 1)(scan)
    assert model.calls == 1
    assert build_map(ResidualConfig(), "bright", 1)(scan).unique().tolist() == [3.0]
    with pytest.raises(ConfigError, match="there is no model"):
        build_map(ResidualConfig(), "bright", 1)(scan_of(np.ones((1, 4, 4, 2))))


def test_a_blurred_copy_finds_a_spot_and_nothing_in_an_even_scan(scan_of):
    even = np.full((1, 12, 12, 3), 2.0)
    anomaly = build_map(BlurConfig(sigma=2.0), "bright", 1)
    assert anomaly(scan_of(even)).max() < 1e-5
    spot = even.copy()
    spot[0, 6, 6, 1] = 9.0
    found = anomaly(scan_of(spot))[0]
    assert found.argmax() == found[6, 6, 1].new_tensor(np.ravel_multi_index((6, 6, 1), (12, 12, 3)))
    assert found[..., 0].max() < 1e-5, "the other slices are even"


def test_a_sum_weighs_maps_in_units_of_normal_voxels(scan_of):
    config = SumConfig(of=(IntensityConfig(), ResidualConfig()), weights=(3.0, 1.0))
    anomaly = build_map(config, "bright", 1)
    normal = scan_of(np.full((1, 24, 20, 2), 4.0), model=Constant(2.0))
    anomaly.scale(lambda: [normal])
    scan = scan_of(np.full((1, 24, 20, 2), 8.0), model=Constant(2.0))
    expected = (3 * 8 / 4 + 6 / 2) / 4
    assert anomaly(scan).unique().tolist() == pytest.approx([expected])


def test_a_part_that_is_nought_in_all_normal_voxels_has_no_unit(scan_of):
    anomaly = build_map(SumConfig(of=(IntensityConfig(), ResidualConfig())), "bright", 1)
    with pytest.raises(DataError, match="no unit"):
        anomaly.scale(lambda: [scan_of(np.full((1, 24, 20, 2), 4.0), model=Constant(5.0))])


def test_weights_are_one_a_map():
    with pytest.raises(ConfigError, match="2 numbers above 0"):
        validate(SumConfig, {"of": [{"kind": "intensity"}, {"kind": "blur"}], "weights": [1.0]})


@pytest.fixture
def rarity(scan_of) -> RarityMap:
    """Calibrated on 10,000 voxels that have the values 1 to 10,000."""
    values = np.random.default_rng(0).permutation(np.arange(1.0, 10001.0)).reshape(1, 100, 50, 2)
    found = RarityMap(Given(), by_intensity=False)
    found.scale(lambda: [scan_of(values)])
    return found


def test_rarity_is_the_share_of_normal_voxels_that_score_as_high(rarity, scan_of):
    found = rarity(scan_of([[[[9001.0, 9901.0]], [[5001.0, 1.0]]]])).flatten()
    assert found.tolist() == pytest.approx([1.0, 2.0, 0.30103, 0.0], abs=0.02)


def test_rarity_beyond_all_normal_voxels_still_ranks(rarity, scan_of):
    found = rarity(scan_of([[[[10000.0, 12000.0]], [[20000.0, 40000.0]]]])).flatten().tolist()
    assert found == sorted(found)
    assert len(set(found)) == 4
    assert found[0] > 2


def test_a_value_that_every_normal_voxel_reaches_is_not_rare_at_all(scan_of):
    values = np.random.default_rng(0).normal(0, 1, (1, 100, 50, 2))
    scan = scan_of(values, mask=np.ones((1, 100, 50, 2), bool))
    found = build_map(IntensityConfig(), "bright", 1, "all")
    found.scale(lambda: [scan])
    assert found(scan)[values <= 0].unique().tolist() == [0.0], "on the bright side half of the voxels are 0"
    assert found(scan)[values > 2.4].min() > 1.9


def test_a_value_that_many_normal_voxels_share_is_as_rare_as_they_are(scan_of):
    """As at the end of a CT window; what is beyond it is rarer than all, and not without bound."""
    values = np.random.default_rng(0).uniform(0, 1.9, (1, 100, 50, 2))
    values[values > 1.85] = 8 / 3
    scan = scan_of(values)
    share = np.mean(values > 1.85)
    rare = RarityMap(Given(), by_intensity=False)
    rare.scale(lambda: [scan])
    assert rare(scan)[values > 1.85].unique().numpy() == pytest.approx([-np.log10(share)], abs=0.06)
    beyond = rare(scan_of(np.full((1, 4, 4, 2), 4.0)))
    assert 2 < beyond.min() <= beyond.max() < 8


def test_rarity_never_falls_where_the_map_rises(rarity, scan_of):
    rising = np.sort(np.random.default_rng(1).uniform(0, 15000, 500)).reshape(1, 500, 1, 1)
    assert (np.diff(rarity(scan_of(rising)).flatten()) >= 0).all()


def test_rarity_by_intensity_forgives_a_tissue_that_is_always_reconstructed_badly(scan_of):
    rng = np.random.default_rng(0)
    tissue = np.repeat([1.0, 20.0], 5000).reshape(1, 100, 50, 2) + rng.uniform(0, 0.1, (1, 100, 50, 2))

    class Badly(torch.nn.Module):
        """Misses the bright tissue by 5, the dark one by 0.1, give or take."""

        def forward(self, image, visible=None):
            noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
            return Output((image - torch.where(image > 10, 5.0, 0.1) * (1 + noise),))

    normal = scan_of(tissue, model=Badly())
    lesion = scan_of(tissue, model=Badly())
    lesion.reconstruction[0, 10, 10] -= 0.5  # of the dark tissue: small beside the bright one's error
    plain, by_intensity = (build_map(ResidualConfig(), "bright", 1, kind) for kind in ("all", "intensity"))
    for each in (plain, by_intensity):
        each.scale(lambda: [normal])
    assert plain(lesion)[0, 10, 10].max() < 0.4
    assert by_intensity(lesion)[0, 10, 10].min() > 2


def test_a_map_without_a_model_is_not_compared_with_itself(scan_of):
    """Among voxels of its own intensity, an intensity keeps its rank in a bin, and nothing else."""
    maps = build_maps({"detector": ResidualConfig(), **baselines(PlaceConfig())}, "bright", 1, "intensity")
    by_intensity = {name for name, each in maps.items() if isinstance(each, RarityMap) and each.by_intensity}
    assert by_intensity == {"detector"}


def test_too_few_normal_voxels_say_nothing_of_what_is_rare(scan_of):
    with pytest.raises(DataError, match="too few"):
        RarityMap(Given(), by_intensity=False).scale(lambda: [scan_of(np.ones((1, 10, 10, 2)))])


def test_an_intensity_that_few_normal_voxels_have_is_judged_among_all(scan_of):
    """Most voxels have one intensity, as after clipping, so that bins of equal numbers are empty."""
    values = np.full((1, 60, 50, 2), 3.0)
    values[0, :20] = np.random.default_rng(0).uniform(1, 2, (20, 50, 2))
    scan = scan_of(values, model=Constant(0.0))
    found = build_map(ResidualConfig(), "bright", 1, "intensity")
    found.scale(lambda: [scan])
    assert torch.isfinite(found(scan)).all()
    assert found(scan_of(np.full((1, 24, 20, 2), 9.0), model=Constant(0.0))).min() > 2


def test_only_normal_voxels_are_learnt_from(scan_of):
    values = np.ones((1, 40, 40, 2))
    values[..., 1] = 50.0
    normal = torch.ones(1, 40, 40, 2, dtype=torch.bool)
    normal[..., 1] = False
    scan = scan_of(values, normal=normal, model=Constant(0.0))
    total = build_map(SumConfig(of=(IntensityConfig(), ResidualConfig())), "bright", 1)
    total.scale(lambda: [scan])
    assert total.unit.tolist() == [1.0, 1.0]
    rare = RarityMap(Given(), by_intensity=False)
    rare.scale(lambda: [scan])
    assert rare(scan)[0, ..., 1].min() > 3


def test_what_was_learnt_travels_in_the_state(scan_of):
    config = SumConfig(of=(IntensityConfig(place=PlaceConfig(grid=(8, 8, 8))), IntensityConfig()))
    rng = np.random.default_rng(0)
    scans = [scan_of(rng.uniform(1, 3, (1, 30, 30, 4))) for _ in range(3)]
    taught, fresh = (build_map(config, "bright", 1, "all") for _ in range(2))
    learn_maps([taught], lambda: scans, lambda: scans)
    fresh.load_state_dict(taught.state_dict())
    assert torch.equal(fresh(scans[0]), taught(scans[0]))


def test_equal_parts_learn_once(scan_of, monkeypatch):
    others = baselines(PlaceConfig())
    maps = build_maps({"detector": SumConfig(of=(others["voxelwise"], BlurConfig())), **others}, "bright", 1)
    passes = []
    scans = [scan_of(np.random.default_rng(0).uniform(1, 3, (1, 20, 20, 4)))]

    def training():
        passes.append("training")
        return scans

    learn_maps(maps.values(), training, lambda: scans)
    assert passes == ["training"] * 2, "the size of the box, then the moments: once for both rows"


def test_what_needs_a_model_is_known_before():
    assert needs_model(ResidualConfig())
    assert needs_model(SumConfig(of=(IntensityConfig(), ResidualConfig())))
    assert not any(needs_model(each) for each in baselines(PlaceConfig()).values())
