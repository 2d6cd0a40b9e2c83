"""Features of a perceptual distance: of another model, and of VGG-16 by a file; both travel with a detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medae.anomaly.detector import Scoring, load_map
from medae.anomaly.features import VGG_WIDTHS, EncoderFeatures, VGGExtractor, VGGFeatures, extractor_of
from medae.anomaly.maps.perceptual import PerceptualConfig
from medae.anomaly.maps.registry import build_map
from medae.artifact import ArtifactMeta, save_artifact
from medae.config import to_dict, validate
from medae.errors import ArtifactError, ConfigError
from medae.models.autoencoder import AutoencoderConfig
from medae.models.networks import build_network
from medae.models.output import Output
from tests.anomaly.conftest import PLAN

ENCODER = {"spatial_dims": 2, "widths": [4, 4], "strides": [[1, 1], [2, 2]], "kernels": [[3, 3], [3, 3]]}
SCAN = np.where(np.indices((1, 24, 20, 2))[1] > 4, 1.0, 0.0) * np.random.default_rng(0).uniform(0.5, 2, (1, 24, 20, 2))


class Blurred(nn.Module):
    def forward(self, image: torch.Tensor) -> Output:
        return Output((nn.functional.avg_pool2d(image, 3, 1, 1),))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """A trained autoencoder of slices."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build_network(validate(AutoencoderConfig, {"encoder": ENCODER}))
    folder = tmp_path_factory.mktemp("features") / "other"
    save_artifact(folder, network, ArtifactMeta(kind="autoencoder", network=network.config, plan=PLAN))
    return folder


@pytest.fixture(scope="module")
def vgg(tmp_path_factory) -> Path:
    """Random weights of VGG-16, with the classifier that comes along in published ones."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        tensors = VGGExtractor().state_dict()
    file = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file({**tensors, "classifier.0.weight": torch.zeros(3, 3)}, file)
    return file


def test_another_models_encoder_compares(scan_of, other: Path) -> None:
    found = build_map(PerceptualConfig(features=str(other)), "bright", 1)(scan_of(SCAN, model=Blurred()))
    own = extractor_of(str(other)).encoder
    model = build_network(validate(AutoencoderConfig, {"encoder": ENCODER})).eval()
    model.encoder.load_state_dict(own.state_dict())
    scan = scan_of(SCAN, model=model)
    scan.reconstruction = scan_of(SCAN, model=Blurred()).reconstruction
    expected = build_map(PerceptualConfig(), "bright", 1)(scan)
    torch.testing.assert_close(found, expected)
    assert float(found.max()) > 0


def test_vgg_by_hand(vgg: Path) -> None:
    extractor = extractor_of(str(vgg))
    image = torch.rand(2, 1, 32, 48) * 4 - 2
    with torch.no_grad():
        found = extractor(image)
        grey = (image + 3) / 6
        scales = zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
        colour = torch.cat([(grey - mean) / std for mean, std in scales], dim=1)
        layers = extractor.features
        first = layers[3](layers[2](layers[1](layers[0](colour))))
    assert [level.shape[1] for level in found] == [64, 128, 256, 512, 512]
    assert [tuple(level.shape[2:]) for level in found] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    torch.testing.assert_close(found[0], first)
    names = [name for name in extractor.state_dict() if name.endswith("weight")]
    assert names[:3] == ["features.0.weight", "features.2.weight", "features.5.weight"] and names[-1] == "features.28.weight"
    assert len(names) == 13 == sum(width > 0 for width in VGG_WIDTHS)


def test_channels_stand_side_by_side_in_vgg(vgg: Path) -> None:
    extractor = extractor_of(str(vgg))
    image = torch.rand(1, 2, 16, 16)
    with torch.no_grad():
        both, first = extractor(image)[0], extractor(image[:, :1])[0]
    assert both.shape[1] == 128
    torch.testing.assert_close(both[:, :64], first)


@pytest.mark.parametrize("which", ["other", "vgg"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_detector_holds_what_it_compares_by(scan_of, request, which: str, alone: bool) -> None:
    address = str(request.getfixturevalue(which))
    perceptual = {"kind": "perceptual", "features": address, "levels": [0, 1]}
    config = perceptual if alone else {"kind": "sum", "of": [{"kind": "residual"}, perceptual]}
    scoring = validate(Scoring, {"map": config, "compare": {"again": perceptual, "plain": {"kind": "perceptual"}}})
    assert scoring.features() == ([address] if which == "other" else [])
    made = build_map(scoring.map, "bright", 1)
    kept = scoring.stored(made)
    assert address not in str(to_dict(kept)), "no path of the machine that it was made on"
    assert list(kept.compare) == ["plain"]
    again = load_map(validate(Scoring, to_dict(kept)), 1, {name: value.clone() for name, value in made.state_dict().items()})
    scan = scan_of(SCAN, model=Blurred())
    torch.testing.assert_close(again(scan), made(scan))


def test_features_of_other_images_are_refused(scan_of, other: Path, tmp_path: Path) -> None:
    deep = EncoderFeatures.model_validate({"encoder": {**ENCODER, "in_channels": 2}})
    with pytest.raises(ConfigError, match="features are of images"):
        build_map(PerceptualConfig(features=deep), "bright", 1)(scan_of(SCAN, model=Blurred()))
    with pytest.raises(ConfigError, match="levels 0 to 1"):
        build_map(PerceptualConfig(features=str(other), levels=(2,)), "bright", 1)
    with pytest.raises(ConfigError, match="levels 0 to 4"):
        build_map(PerceptualConfig(features=VGGFeatures(), levels=(5,)), "bright", 1)
    with pytest.raises(ArtifactError, match="cannot be read"):
        extractor_of(str(tmp_path / "missing.safetensors"))
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.safetensors")
    with pytest.raises(ArtifactError, match="does not hold VGG-16"):
        extractor_of(str(tmp_path / "part.safetensors"))
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ArtifactError, match="does not hold VGG-16"):
        extractor_of(str(tmp_path / "text.safetensors"))
