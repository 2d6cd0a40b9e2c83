"""Restoration: what is unlikely changes and the rest stays, by image and by latent; networks stay as they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from medae.anomaly.detector import Scoring
from medae.anomaly.maps.registry import build_map
from medae.anomaly.maps.residual import ResidualConfig
from medae.anomaly.restore import RestoreConfig
from medae.config import validate
from medae.errors import ConfigError
from medae.models.autoencoder import AutoencoderConfig
from medae.models.networks import build_network
from medae.models.output import Output
from medae.models.vae import VAEConfig
from tests.anomaly.conftest import PLAN

ENCODER = {"spatial_dims": 2, "widths": [4, 6], "strides": [[1, 1], [2, 2]], "kernels": [[3, 3], [3, 3]]}
LESION = (slice(None), slice(5, 8), slice(4, 7), slice(1, 2))


class Bounded(nn.Module):
    """Believes in nothing brighter than 1."""

    def forward(self, image: torch.Tensor) -> Output:
        return Output((image.clamp(max=1.0),))


@pytest.fixture
def array() -> np.ndarray:
    image = np.where(np.indices((1, 12, 10, 3))[1] > 2, 0.5, 0.0)
    image[LESION] = 3.0
    return image


def restore(**content) -> RestoreConfig:
    return validate(RestoreConfig, content)


def test_what_the_model_does_not_believe_in_goes_and_all_else_stays(scan_of, array) -> None:
    scan = scan_of(array, model=Bounded())
    found = scan.restored(restore(steps=120, rate=0.1, tv=0.0))
    assert found.shape == scan.image.shape and not found.requires_grad
    assert torch.allclose(found[LESION], torch.ones(1), atol=0.15)
    elsewhere = torch.ones_like(found, dtype=torch.bool)
    elsewhere[LESION] = False
    torch.testing.assert_close(found[elsewhere], scan.image[elsewhere], atol=1e-4, rtol=0)
    heat = build_map(ResidualConfig(restore=restore(steps=120, tv=0.0)), "bright", 1)(scan)
    assert float(heat[LESION].min()) > 1.7 and float(heat[elsewhere].max()) < 1e-3


def test_total_variation_keeps_what_is_small(scan_of, array) -> None:
    scan = scan_of(array, model=Bounded())
    free, stiff = (scan.restored(restore(steps=60, tv=tv)) for tv in (0.0, 50.0))
    assert (stiff - scan.image).abs().sum() < 0.3 * (free - scan.image).abs().sum()


def test_nothing_outside_the_mask_changes_even_where_zero_is_inside(scan_of, array) -> None:
    class Shifted(nn.Module):
        def forward(self, image: torch.Tensor) -> Output:
            return Output((torch.full_like(image, 2.0),))

    mask = np.zeros(array.shape, dtype=bool)
    mask[:, 1:6] = True  # with voxels of the value 0
    scan = scan_of(array, model=Shifted(), mask=mask)
    found = scan.restored(restore(steps=80, tv=0.0))
    assert torch.equal(found[~torch.from_numpy(mask)], scan.image[~torch.from_numpy(mask)])
    assert float(found[:, 1].min()) > 1.5


@pytest.mark.parametrize("kind", [AutoencoderConfig, VAEConfig])
@pytest.mark.parametrize("over", ["image", "latent"])
def test_real_networks_are_followed_and_left_as_they_were(scan_of, array, kind, over) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(validate(kind, {"encoder": ENCODER})).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    scan = scan_of(array, model=network)
    near, far = (scan.restored(restore(over=over, steps=steps, rate=0.05)) for steps in (1, 40))

    def unlike(found: torch.Tensor) -> float:
        if over == "latent":
            return float((found - scan.image).abs().sum())
        with torch.no_grad():
            return float(
                (scan_of(found.numpy(), model=network, mask=scan.mask.numpy()).reconstruction - found).square().sum()
            )

    assert unlike(far) < 0.9 * unlike(near), "the loss falls"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.training


def test_of_several_slices_the_middle_one_is_restored(scan_of, array) -> None:
    class Middle(nn.Module):
        def forward(self, image: torch.Tensor) -> Output:
            return Output((image[:, 1:2].clamp(max=1.0),))

    plan = PLAN.model_copy(update={"space": PLAN.space.model_copy(update={"slices": 3})})
    found = scan_of(array, model=Middle(), plan=plan).restored(restore(steps=120, tv=0.0))
    assert torch.allclose(found[LESION], torch.ones(1), atol=0.15)


def test_an_absent_channel_stays_empty(scan_of, array) -> None:
    class Shifted(nn.Module):
        def forward(self, image: torch.Tensor) -> Output:
            return Output((torch.full_like(image, 2.0),))

    both = np.concatenate([array, np.zeros_like(array)])
    scan = scan_of(both, model=Shifted(), mask=array > 0)
    scan.prepared = replace(scan.prepared, present=torch.tensor([True, False]))
    found = scan.restored(restore(steps=5, tv=0.0))
    assert not found[1].any() and not torch.equal(found[0], scan.image[0])


def test_it_is_made_once_and_kept(scan_of, array, tmp_path) -> None:
    scan = scan_of(array, model=Bounded())
    scan.kept = tmp_path / "scan.npy"
    first = scan.restored(restore(steps=3))
    again = scan_of(array)
    again.kept = scan.kept
    assert torch.equal(again.restored(restore(steps=3)), first)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_is_refused() -> None:
    skips = validate(AutoencoderConfig, {"encoder": ENCODER, "decoder": {"skips": "concat"}})
    scoring = validate(Scoring, {"map": {"kind": "residual", "restore": {"over": "latent"}}})
    with pytest.raises(ConfigError, match="only a part of this network's output"):
        scoring.check(skips)
    scoring.check(validate(VAEConfig, {"encoder": ENCODER}))
    validate(Scoring, {"map": {"kind": "residual", "restore": {}}}).check(skips)
    with pytest.raises(ConfigError, match="not both"):
        validate(ResidualConfig, {"restore": {}, "draws": {"noise": 0.5}})
