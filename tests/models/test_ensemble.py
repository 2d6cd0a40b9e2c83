"""An ensemble is the mean of probabilities, however sure its members are; of autoencoders, of images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from medae.models.autoencoder import LESION
from medae.models.ensemble import AutoencoderEnsemble, AutoencoderEnsembleConfig, Ensemble, EnsembleConfig
from medae.models.networks import build_network
from medae.models.output import Output


def config(dims: int = 2, members: int = 2, **changes: Any) -> EnsembleConfig:
    encoder = {"spatial_dims": dims, "widths": [4, 6], "strides": [[1] * dims, [2] * dims], "kernels": [[3] * dims] * 2}
    member = {"kind": "unet", "encoder": encoder, "classes": 3} | changes
    return EnsembleConfig.model_validate({"member": member, "members": members})


class Sure(nn.Module):
    """The same logits everywhere."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, image: torch.Tensor, visible: torch.Tensor | None = None) -> Output:
        shape = (len(image), -1, *image.shape[2:])
        return Output((self.logits.view(1, -1, *[1] * (image.dim() - 2)).expand(shape),))


@pytest.mark.parametrize("dims", [2, 3])
def test_its_softmax_is_the_mean_of_the_members_softmax(dims: int) -> None:
    torch.manual_seed(0)
    ensemble = build_network(config(dims, members=3)).eval()
    assert isinstance(ensemble, Ensemble)
    for parameter in ensemble.parameters():
        parameter.data.mul_(3.0)  # far from even odds, where all means would agree
    image = torch.randn(2, 1, *[8] * dims)
    with torch.no_grad():
        expected = torch.stack([member(image).finest.softmax(1) for member in ensemble.members]).mean(0)
        assert torch.allclose(ensemble(image).finest.softmax(1), expected, atol=1e-6)
    logits = torch.stack([member(image).finest for member in ensemble.members]).mean(0)
    assert not torch.allclose(logits.softmax(1), expected, atol=1e-2), "a mean of logits is something else"


def test_by_hand_and_without_overflow() -> None:
    """One is sure of class 0, one of class 1, both against class 2."""
    ensemble = Ensemble(config(), [Sure(200.0, 0.0, -200.0), Sure(0.0, 200.0, -200.0)])  # type: ignore[list-item]
    probabilities = ensemble(torch.zeros(1, 1, 2, 2)).finest.softmax(1)
    assert torch.allclose(probabilities[0, :, 0, 0], torch.tensor([0.5, 0.5, 0.0]))


def test_members_have_weights_and_names_of_their_own() -> None:
    ensemble = build_network(config())
    names = {name.rsplit(".encoder")[0].rsplit(".decoder")[0].rsplit(".head")[0] for name in ensemble.state_dict()}
    assert names == {"members.0", "members.1"}
    state = ensemble.state_dict()
    assert not torch.equal(state["members.0.head.0.weight"], state["members.1.head.0.weight"])
    assert ensemble.config.encoder == ensemble.members[0].config.encoder


def test_coarser_maps_of_its_members_do_not_count() -> None:
    encoder = {"spatial_dims": 2, "widths": [4, 4, 4], "strides": [[1, 1], [2, 2], [2, 2]], "kernels": [[3, 3]] * 3}
    ensemble = build_network(config(deep_supervision=True, encoder=encoder))
    assert len(ensemble.members[0](torch.randn(1, 1, 8, 8)).maps) == 2
    output = ensemble(torch.randn(1, 1, 8, 8))
    assert [tuple(x.shape) for x in output.maps] == [(1, 3, 8, 8)]


@pytest.mark.parametrize("changes", [{"members": 1}, {"member": {"kind": "autoencoder"}}])
def test_one_member_or_an_autoencoder_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EnsembleConfig.model_validate(config().model_dump() | changes)


def autoencoders(dims: int = 2, members: int = 2, **changes: Any) -> AutoencoderEnsembleConfig:
    member = {"kind": "autoencoder", "encoder": config(dims).member.encoder.model_dump()} | changes
    return AutoencoderEnsembleConfig.model_validate({"member": member, "members": members})


@pytest.mark.parametrize("dims", [2, 3])
def test_an_image_and_a_lesions_probability_are_the_members_means(dims: int) -> None:
    torch.manual_seed(0)
    ensemble = build_network(autoencoders(dims, members=3, lesion_head=True)).eval()
    assert isinstance(ensemble, AutoencoderEnsemble)
    for parameter in ensemble.parameters():
        parameter.data.mul_(3.0)  # far from even odds, where all means would agree
    image = torch.randn(2, 1, *[8] * dims)
    with torch.no_grad():
        outputs = [member(image) for member in ensemble.members]
        found = ensemble(image)
    assert torch.allclose(found.finest, torch.stack([output.finest for output in outputs]).mean(0), atol=1e-6)
    expected = torch.stack([output.extras[LESION].sigmoid() for output in outputs]).mean(0)
    assert torch.allclose(found.extras[LESION].sigmoid(), expected, atol=1e-6)
    assert not torch.allclose(
        torch.stack([output.extras[LESION] for output in outputs]).mean(0).sigmoid(), expected, atol=1e-2
    )


class Finds(nn.Module):
    """The same image and the same log-odds of a lesion everywhere."""

    def __init__(self, value: float, logit: float) -> None:
        super().__init__()
        self.value, self.logit = value, logit

    def forward(self, image: torch.Tensor, visible: torch.Tensor | None = None) -> Output:
        return Output((torch.full_like(image, self.value),), extras={LESION: torch.full_like(image, self.logit)})


def test_lesions_by_hand_and_without_overflow() -> None:
    """One is sure of a lesion, one that there is none: even odds. Two that are sure of none stay sure."""
    shape, image = autoencoders(lesion_head=True), torch.zeros(1, 1, 2, 2)
    found = AutoencoderEnsemble(shape, [Finds(1.0, 200.0), Finds(2.0, -200.0)])(image)  # type: ignore[list-item]
    assert torch.allclose(found.finest, torch.full_like(image, 1.5))
    assert torch.allclose(found.extras[LESION], torch.zeros_like(image), atol=1e-5)
    surely = AutoencoderEnsemble(shape, [Finds(0.0, -300.0)] * 2)(image)  # type: ignore[list-item]
    assert torch.allclose(surely.extras[LESION], torch.full_like(image, -300.0))


def test_without_lesion_heads_there_is_an_image_alone() -> None:
    ensemble = build_network(autoencoders())
    assert ensemble(torch.randn(1, 1, 8, 8)).extras == {}
    assert not ensemble.config.lesion_head
    variational = {"kind": "vae", "latent": {"kind": "dense", "size": 4, "input_size": [8, 8]}}
    assert not autoencoders(**variational).lesion_head
    assert build_network(autoencoders(**variational)).eval()(torch.randn(1, 1, 8, 8)).finest.shape == (1, 1, 8, 8)


def test_autoencoders_carry_location_as_their_members_do() -> None:
    shape = autoencoders(decoder={"skips": "concat"})
    assert shape.shortcuts() == shape.member.shortcuts() != ()
    assert shape.encoder == shape.member.encoder


@pytest.mark.parametrize("changes", [{"members": 1}, {"member": {"kind": "unet"}}])
def test_one_autoencoder_or_a_segmenter_is_no_ensemble_of_autoencoders(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AutoencoderEnsembleConfig.model_validate(autoencoders().model_dump() | changes)
