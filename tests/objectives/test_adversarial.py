"""Adversarial training: each network learns from its own loss only, the discriminator tells scans from reconstructions."""

from __future__ import annotations

import pytest
import torch
from encoders import encoder_with
from torch import Tensor, nn

from medae.config import validate
from medae.errors import ConfigError
from medae.models.autoencoder import AutoencoderConfig
from medae.models.output import Output
from medae.objectives.adversarial import AdversarialConfig, AdversarialObjective
from medae.objectives.registry import build_objective, parts_of
from medae.preprocessing.batch import Batch
from medae.seeding import Draw

PLAIN = {"kind": "reconstruction"}


def batch(seed: int = 0) -> Batch:
    image = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(4, 1, 16, 16, dtype=torch.bool)
    mask[..., :4] = False
    return Batch(image, torch.ones(4, 1, dtype=torch.bool), mask)


class Scaled(nn.Module):
    """Answers with its input times a number that it learns."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        return Output((image * self.factor,))


class Blurred(nn.Module):
    """Answers with a mixture of its input, of a share that it learns, and of its blurred input."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        blurred = nn.functional.avg_pool2d(image, 3, stride=1, padding=1)
        return Output((self.share * image + (1 - self.share) * blurred,))


def objective(**changes: object) -> AdversarialObjective:
    torch.manual_seed(0)
    config = validate(AdversarialConfig, {"of": PLAIN, "discriminator": {"widths": [8, 8]}, **changes})
    built = config.build(encoder_with(4, 4))
    assert isinstance(built, AdversarialObjective)
    return built


def test_each_network_learns_from_its_own_loss_only():
    model, adversarial = Scaled(0.5), objective()
    of_model, of_discriminator = adversarial(model, batch(), Draw(0, 0))
    assert (of_model.parameters, of_discriminator.parameters) == ("model", "discriminator")
    judges = list(adversarial.discriminator.parameters())
    through = torch.autograd.grad(of_discriminator.total, [model.factor, *judges], allow_unused=True, retain_graph=True)
    assert through[0] is None, "the network is not trained to be found out"
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in through[1:3])
    assert set(adversarial.parameter_groups()) == {"discriminator"}


def test_the_wish_is_weighed_and_the_other_loss_is_whole():
    model = Scaled(0.5)
    with torch.no_grad():
        (light, _), (heavy, _) = (objective(weight=weight)(model, batch(), Draw(0, 0)) for weight in (0.5, 2.0))
    assert float(light.terms["l1"]) == pytest.approx(float((0.5 * batch().image).abs().mean()))
    assert float(light.total) == pytest.approx(float(light.terms["l1"] + 0.5 * light.terms["adversarial"]))
    assert float(heavy.total) == pytest.approx(float(light.terms["l1"] + 2.0 * light.terms["adversarial"]))


def test_losses_by_hand():
    adversarial = objective()
    _, own = adversarial(Scaled(0.5), batch(), Draw(0, 0))
    inside = batch().mask.float()
    real, fake = (adversarial.discriminator(factor * batch().image * inside).finest for factor in (1.0, 0.5))
    by_hand = -(torch.sigmoid(real).log().mean() + torch.sigmoid(-fake).log().mean()) / 2
    assert float(own.total) == pytest.approx(float(by_hand), rel=1e-5)


def test_what_lies_outside_the_foreground_is_not_judged():
    adversarial, changed = objective(), batch()
    changed.image[..., :4] += 100.0
    before = adversarial(Scaled(0.5), batch(), Draw(0, 0))[1].total
    assert float(adversarial(Scaled(0.5), changed, Draw(0, 0))[1].total) == pytest.approx(float(before), rel=1e-6)


def test_a_discriminator_learns_to_tell_and_the_network_to_be_taken_for_a_scan():
    model, adversarial = Blurred(0.1), objective(weight=1.0, of={"kind": "reconstruction", "l1": 1e-9})
    judges = list(adversarial.discriminator.parameters())
    of_model, of_judge = torch.optim.Adam([model.share], lr=0.02), torch.optim.Adam(judges, lr=0.01)
    told = []
    for step in range(140):
        wish, own = adversarial(model, batch(step), Draw(0, step))
        own.total.backward(inputs=judges, retain_graph=True)
        wish.total.backward(inputs=[model.share])
        told.append(float(own.total.detach()))
        of_judge.step()
        of_judge.zero_grad()
        if step >= 60:  # until then the discriminator learns alone
            of_model.step()
        of_model.zero_grad()
    assert told[0] == pytest.approx(float(torch.tensor(2.0).log()), abs=0.02), "at first it cannot tell"
    assert min(told[40:60]) < 0.4
    assert float(model.share.detach()) > 0.4  # from 0.1 towards the scan itself, 1


def test_every_reconstruction_of_a_combination_is_judged():
    parts = [{"objective": PLAIN}, {"objective": {"kind": "denoising", "noise": "white", "sigma": [3.0, 3.0]}}]
    adversarial = objective(of={"kind": "combined", "parts": parts})
    loss, own = adversarial(Scaled(1.0), batch(), Draw(0, 0))
    plain = objective()(Scaled(1.0), batch(), Draw(0, 0))
    assert {"reconstruction/l1", "denoising/l2", "adversarial"} <= set(loss.terms)
    assert float(own.terms["reconstruction"]) != pytest.approx(float(plain[1].terms["reconstruction"]), rel=1e-6)


def test_the_rules_of_the_other_objective_hold():
    encoder = {"spatial_dims": 2, "widths": [4, 6], "strides": [[1, 1], [2, 2]], "kernels": [[3, 3], [3, 3]]}
    skips = validate(AutoencoderConfig, {"encoder": encoder, "decoder": {"skips": "concat"}})
    with pytest.raises(ConfigError, match="learns to copy its input"):
        build_objective(validate(AdversarialConfig, {"of": PLAIN}), skips)
    with pytest.raises(ConfigError, match="does not fit a network of kind 'autoencoder'"):
        build_objective(validate(AdversarialConfig, {"of": {"kind": "variational"}}), skips)
    build_objective(validate(AdversarialConfig, {"of": {"kind": "denoising"}}), skips)
    assert [part.kind for part in parts_of(validate(AdversarialConfig, {"of": {"kind": "masked"}}))] == ["masked"]
