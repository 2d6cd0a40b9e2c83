"""The perceptual distance: by hand from the encoder's features, 0 between equal images, nothing outside the mask."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from medae.anomaly.detector import Scoring
from medae.anomaly.maps.perceptual import PerceptualConfig
from medae.anomaly.maps.registry import build_map, needs_model
from medae.config import validate
from medae.errors import ConfigError
from medae.inference.predict import by_slice
from medae.models.autoencoder import AutoencoderConfig
from medae.models.networks import build_network
from tests.anomaly.conftest import ENCODER, PLAN, SCAN


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_network(validate(AutoencoderConfig, {"encoder": ENCODER})).eval()


def distance(network, one, other, level):
    features = [network.encoder(image).levels[level] for image in (one, other)]
    first, second = (found / found.norm(dim=1, keepdim=True).clamp_min(1e-6) for found in features)
    apart = (first - second).square().sum(dim=1, keepdim=True)
    return functional.interpolate(apart, size=one.shape[2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("levels", [(0,), (1,), (0, 1)])
def test_the_distance_by_hand(scan_of, network, levels):
    scan = scan_of(SCAN, model=network)
    found = build_map(PerceptualConfig(levels=levels), "absolute", 1)(scan)
    with torch.no_grad():
        made = torch.where(scan.mask, scan.reconstruction, scan.image)
        slices = [each.movedim(3, 0) for each in (scan.image, made)]
        by_hand = torch.stack([distance(network, *slices, level) for level in levels]).mean(dim=0).movedim(0, 3)
    torch.testing.assert_close(found, torch.where(scan.mask, by_hand, 0.0), atol=1e-5, rtol=1e-3)
    assert float(found.max()) > 0.01


def test_a_scan_that_is_reconstructed_has_no_distance(scan_of, network):
    scan = scan_of(SCAN, model=network)
    scan.reconstruction = scan.image.clone()
    assert float(build_map(PerceptualConfig(), "absolute", 1)(scan).max()) == 0


def test_it_needs_a_model_with_such_levels_and_has_no_dark_side(scan_of, network):
    assert needs_model(PerceptualConfig())
    with pytest.raises(ConfigError, match="there is no model"):
        build_map(PerceptualConfig(), "absolute", 1)(scan_of(SCAN))
    scoring = validate(Scoring, {"map": {"kind": "perceptual", "levels": [2]}})
    with pytest.raises(ConfigError, match="levels 0 to 1"):
        scoring.check(network.config)
    with pytest.raises(ConfigError, match="no dark side"):
        validate(Scoring, {"side": "dark", "map": {"kind": "perceptual"}})
    with pytest.raises(ConfigError, match="levels"):
        validate(Scoring, {"map": {"kind": "perceptual", "levels": [-1]}})


def test_it_can_be_added_to_other_maps(scan_of, network):
    scoring = validate(Scoring, {"map": {"kind": "sum", "of": [{"kind": "perceptual"}, {"kind": "residual"}]}})
    scan = scan_of(SCAN, model=network)
    anomaly = build_map(scoring.map, "absolute", 1)
    anomaly.scale(lambda: [scan])
    assert anomaly(scan).shape == scan.mask.shape


def test_of_several_slices_each_is_compared_with_its_own_reconstruction(scan_of):
    plan = PLAN.model_copy(update={"space": PLAN.space.model_copy(update={"slices": 3})})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(validate(AutoencoderConfig, {"encoder": {**ENCODER, "in_channels": 3, "slices": 3}})).eval()
    scan = scan_of(SCAN, model=network, plan=plan)
    found = build_map(PerceptualConfig(levels=(0,)), "absolute", 1)(scan)
    with torch.no_grad():
        made = torch.where(scan.mask, scan.reconstruction, scan.image)
        by_hand = distance(network, *(by_slice(each, 2, 3) for each in (scan.image, made)), 0).movedim(0, 3)
    torch.testing.assert_close(found, torch.where(scan.mask, by_hand, 0.0), atol=1e-5, rtol=1e-3)
    assert float(found.max()) > 0.01
