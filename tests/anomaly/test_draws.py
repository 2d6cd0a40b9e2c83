"""Several reconstructions: mean and deviation by hand, nothing but what is asked for varies, the same draws every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medae.anomaly.draws import DrawsConfig
from medae.anomaly.maps.registry import build_map
from medae.anomaly.maps.residual import FLOOR, ResidualConfig
from medae.config import validate
from medae.errors import ConfigError
from medae.models.autoencoder import AutoencoderConfig
from medae.models.networks import build_network
from medae.models.output import Output
from medae.models.vae import VAEConfig
from tests.anomaly.conftest import PLAN

ENCODER = {"spatial_dims": 2, "widths": [4, 6], "strides": [[1, 1], [2, 2]], "kernels": [[3, 3], [3, 3]]}
IMAGE = np.where(np.indices((1, 12, 10, 3))[1] > 2, 1.5, 0.0)


class Identity(nn.Module):
    """Gives back what it sees, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append(image.clone())
        return Output((image,))


def draws(**content) -> DrawsConfig:
    return validate(DrawsConfig, content)


def test_mean_and_deviation_are_those_of_the_draws(scan_of):
    model = Identity()
    mean, deviation = scan_of(IMAGE, model=model).drawn(draws(number=4, noise=0.5, cell=4))
    made = torch.stack([torch.cat(model.seen[place : place + 1]) for place in range(len(model.seen))])
    slices = made.reshape(4, 3, 1, *made.shape[-2:])  # four draws of three slices, in the middle of the window
    top, left = (24 - 12) // 2, (20 - 10) // 2
    stack = slices[..., top : top + 12, left : left + 10].permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(mean, stack.mean(dim=0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(deviation, stack.std(dim=0), atol=1e-5, rtol=1e-4)
    inside = torch.from_numpy(IMAGE > 0)
    assert (deviation[~inside] == 0).all(), "noise is inside the mask"
    assert float(deviation[inside].mean()) == pytest.approx(0.5, rel=0.5)
    assert not torch.equal(stack[0, ..., 0] - stack[1, ..., 0], stack[0, ..., 1] - stack[1, ..., 1])


def test_the_same_scan_has_the_same_draws_and_random_state_is_left_alone(scan_of):
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    network = build_network(validate(AutoencoderConfig, {"encoder": {**ENCODER, "dropout": 0.5}})).eval()
    torch.random.set_rng_state(state)
    first = scan_of(IMAGE, model=network).drawn(draws(dropout=True))
    assert torch.equal(torch.random.get_rng_state(), state)
    second = scan_of(IMAGE, model=network).drawn(draws(dropout=True))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert float(first[1].max()) > 0
    assert not any(module.training for module in network.modules())


def test_only_what_is_asked_for_varies(scan_of):
    vae = build_network(validate(VAEConfig, {"encoder": {**ENCODER, "dropout": 0.5}})).eval()
    plain = scan_of(IMAGE, model=vae).reconstruction
    by_latent, by_dropout = (scan_of(IMAGE, model=vae).drawn(draws(**{kind: True}))[0] for kind in ("latent", "dropout"))
    assert not torch.equal(by_latent, plain)
    assert not torch.equal(by_dropout, plain)
    assert not torch.equal(by_dropout, by_latent)
    for module in vae.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.0
    _, deviation = scan_of(IMAGE, model=vae).drawn(draws(dropout=True))
    assert float(deviation.abs().max()) == 0


def test_mahalanobis_by_hand(scan_of):
    config = validate(ResidualConfig, {"draws": {"number": 3, "noise": 0.5}, "mahalanobis": True})
    scan = scan_of(IMAGE, model=Identity())
    mean, deviation = scan.drawn(config.draws)
    found = build_map(config, "absolute", 1)(scan)
    by_hand = (scan.image - mean).abs() / (deviation**2 + FLOOR**2).sqrt()
    torch.testing.assert_close(found, torch.where(scan.mask, by_hand, 0.0))
    plain = build_map(config.model_copy(update={"mahalanobis": False}), "absolute", 1)(scan)
    torch.testing.assert_close(plain, torch.where(scan.mask, (scan.image - mean).abs(), 0.0))


def test_draws_are_made_once_and_kept(scan_of, tmp_path):
    model = Identity()
    scan = scan_of(IMAGE, model=model)
    scan.kept = tmp_path / "scan.reconstruction.npy"
    first = scan.drawn(draws(noise=0.5))
    calls = len(model.seen)
    again = scan_of(IMAGE, model=model)
    again.kept = scan.kept
    assert all(torch.equal(a, b) for a, b in zip(first, again.drawn(draws(noise=0.5)), strict=True))
    assert len(model.seen) == calls
    again.drawn(draws(noise=0.25))
    assert len(model.seen) == 2 * calls


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"draws": {}}, "something that varies"),
        ({"mahalanobis": True}, "give draws"),
        ({"draws": {"noise": 1.0}, "mahalanobis": True, "measure": "ssim"}, "no other measure"),
    ],
)
def test_what_contradicts_itself_is_refused(content, words):
    with pytest.raises(ConfigError, match=words):
        validate(ResidualConfig, content)


def test_draws_that_a_network_cannot_make_are_refused():
    plain = validate(AutoencoderConfig, {"encoder": ENCODER})
    draws(noise=0.5).check(plain)
    draws(latent=True).check(validate(VAEConfig, {"encoder": ENCODER}))
    with pytest.raises(ConfigError, match="is not drawn"):
        draws(latent=True).check(plain)
    with pytest.raises(ConfigError, match="no dropout"):
        draws(dropout=True).check(plain)


def test_a_detection_is_refused_before_it_trains():
    from pipelines import detect
    from pipelines.configs import read_config

    for changes in ('{"latent": true}', '{"dropout": true}'):
        with pytest.raises(ConfigError, match=r"draws\.(latent|dropout)"):
            validate(detect.Config, read_config("phantoms", "detect", [f"scoring.map={{kind: residual, draws: {changes}}}"]))


def test_slices_that_are_seen_together_share_their_noise(scan_of):
    plan = PLAN.model_copy(update={"space": PLAN.space.model_copy(update={"slices": 3})})

    class Middle(Identity):
        def forward(self, image):
            return Output((super().forward(image).finest[:, 1:2],))

    model = Middle()
    flat = np.where(np.indices((1, 12, 10, 3))[1] > 2, 1.0, 0.0)
    mean, _ = scan_of(flat, model=model, plan=plan).drawn(draws(number=2, noise=0.5, cell=4))
    assert mean.shape == (1, 12, 10, 3)
    below, own, above = torch.cat(model.seen)[1]  # the middle one of three slices, which are alike but for noise
    assert own.std() > 0.1
    assert torch.equal(below, own) and torch.equal(above, own)
    first, _, _ = torch.cat(model.seen)[0]
    assert not first.any(), "there is nothing below the first slice, no noise either"
