"""What a lesion head finds, as a map: by hand from the network's logits, beside the reconstruction of the same pass."""

from __future__ import annotations

import pytest
import torch

from medae.anomaly.detector import Scoring
from medae.anomaly.maps.lesion import LesionHeadConfig
from medae.anomaly.maps.registry import build_map, needs_model
from medae.config import validate
from medae.errors import ConfigError
from medae.models.autoencoder import LESION, AutoencoderConfig
from medae.models.networks import build_network
from tests.anomaly.conftest import ENCODER, SCAN


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_network(validate(AutoencoderConfig, {"encoder": ENCODER, "lesion_head": True})).eval()


def test_the_map_is_how_surprising_it_would_be_if_a_voxel_were_normal(scan_of, network):
    scan = scan_of(SCAN, model=network)
    found = build_map(LesionHeadConfig(), "bright", 1)(scan)
    with torch.no_grad():
        output = network(scan.image.movedim(3, 0))
    surprise = -torch.log(1 - output.extras[LESION].sigmoid()).movedim(0, 3)
    assert found.shape == scan.mask.shape and float(found.max()) > 0.3
    torch.testing.assert_close(found, torch.where(scan.mask, surprise, 0.0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scan.reconstruction, output.finest.movedim(0, 3), atol=1e-5, rtol=1e-4)
    assert scan.reconstruction.shape == scan.image.shape


def test_scan_and_network_are_asked_once_for_both_maps(scan_of, network):
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    scan = scan_of(SCAN, model=network)
    build_map(LesionHeadConfig(), "bright", 1)(scan)
    once = len(calls)
    assert float(scan.reconstruction.abs().max()) > 0 and len(calls) == once


def test_it_needs_a_model_with_a_lesion_head(scan_of):
    assert needs_model(LesionHeadConfig())
    with pytest.raises(ConfigError, match="there is no model"):
        build_map(LesionHeadConfig(), "bright", 1)(scan_of(SCAN))
    scoring = validate(Scoring, {"map": {"kind": "sum", "of": [{"kind": "residual"}, {"kind": "lesion_head"}]}})
    scoring.check(validate(AutoencoderConfig, {"encoder": ENCODER, "lesion_head": True}))
    with pytest.raises(ConfigError, match="asks for a lesion head, which the network does not have"):
        scoring.check(validate(AutoencoderConfig, {"encoder": ENCODER}))
