"""A combination is the weighted sum of its parts, each with its own draws, and keeps the rules of each."""

from typing import Any

import pytest
import torch
from encoders import encoder_with
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from medae.config import validate
from medae.errors import ConfigError
from medae.models.autoencoder import AutoencoderConfig
from medae.models.output import Output
from medae.models.vae import VAEConfig
from medae.objectives.base import Loss, Objective
from medae.objectives.combined import CombinedConfig, CombinedObjective
from medae.objectives.masked import MaskedConfig
from medae.objectives.registry import ObjectiveConfig, build_objective
from medae.preprocessing.batch import Batch
from medae.seeding import Draw

IMAGE = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
BATCH = Batch(IMAGE, torch.ones(2, 1, dtype=torch.bool), torch.ones(2, 1, 16, 16, dtype=torch.bool))
ENCODER = {"spatial_dims": 2, "widths": [4, 6], "strides": [[1, 1], [2, 2]], "kernels": [[3, 3], [3, 3]]}
SKIPS = {"skips": "concat"}


def combined(*kinds: str | dict[str, Any], weights: tuple[float, ...] = (1.0, 1.0, 1.0)) -> CombinedConfig:
    parts = [kind if isinstance(kind, dict) else {"kind": kind} for kind in kinds]
    content = [{"weight": weight, "objective": part} for weight, part in zip(weights, parts, strict=False)]
    return validate(CombinedConfig, {"parts": content})


class Fixed(nn.Module):
    """Answers with the scan and 2 more, and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        self.seen.append(image)
        return Output((IMAGE + 2,))


def test_the_loss_is_the_weighted_sum_and_the_terms_carry_the_names_of_the_parts():
    config = combined({"kind": "masked", "distance": "l2"}, {"kind": "reconstruction", "l1": 1}, weights=(0.5, 3.0))
    (loss,) = config.build(encoder_with(4, 4))(Fixed(), BATCH, Draw(0, 0))
    assert loss.total == pytest.approx(0.5 * 4 + 3 * 2)
    assert {name: float(value) for name, value in loss.terms.items()} == {
        "masked/masked_l2": pytest.approx(4),
        "reconstruction/l1": pytest.approx(2),
    }


def test_every_part_runs_on_its_own_corruption_with_draws_of_its_own():
    model = Fixed()
    config = combined("denoising", "denoising", "masked")
    assert config.names() == ("denoising", "denoising 2", "masked")
    config.build(encoder_with(4, 4))(model, BATCH, Draw(0, 0))
    first, second, masked = model.seen
    assert not torch.equal(first, second)
    assert not torch.equal(first, IMAGE) and not torch.equal(second, IMAGE)
    alone = Fixed()
    MaskedConfig().build(encoder_with(4, 4))(alone, BATCH, Draw(0, 0).scoped("masked"))
    assert torch.equal(masked, alone.seen[0]), "nothing of the other parts is left in it"


def test_what_every_part_saw_and_made_is_shown_and_the_input_once():
    shown = (
        combined("masked", "reconstruction", {"kind": "restoration", "flip": 1})
        .build(encoder_with(4, 4))
        .example(Fixed(), BATCH, Draw(0, 0))
    )
    assert list(shown) == [
        *("input", "masked: corrupted", "masked: output", "reconstruction: output"),
        *("restoration: corrupted", "restoration: output"),
    ]


def test_parts_that_train_other_parameters_keep_a_loss_of_their_own():
    class Two(Objective):
        def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
            one, two = torch.tensor(1.0), torch.tensor(10.0)
            return [Loss(one, {"m": one}), Loss(two, {"c": two}, "critic")]

    losses = CombinedObjective(combined("masked", "denoising", weights=(2.0, 3.0)), [Two(), Two()])(
        Fixed(), BATCH, Draw(0, 0)
    )
    assert [(loss.parameters, float(loss.total)) for loss in losses] == [("model", 5), ("critic", 50)]
    assert list(losses[1].terms) == ["masked/c", "denoising/c"]


@pytest.mark.parametrize(
    ("kinds", "corrupts"), [(("masked", "denoising"), True), (("masked", "restoration", "reconstruction"), False)]
)
def test_it_corrupts_only_if_all_parts_do(kinds: tuple[str, ...], corrupts: bool):
    assert combined(*kinds).corrupts == corrupts


@pytest.mark.parametrize(
    ("network", "kinds", "words"),
    [
        (AutoencoderConfig(encoder=ENCODER), ("masked", "reconstruction"), None),
        (AutoencoderConfig(encoder=ENCODER, decoder=SKIPS), ("masked", "denoising", "restoration"), None),
        (AutoencoderConfig(encoder=ENCODER, decoder=SKIPS), ("masked", "reconstruction"), "learns to copy"),
        (AutoencoderConfig(encoder=ENCODER), ("masked", "variational"), "does not fit"),
        (VAEConfig(encoder=ENCODER), ("masked", "variational"), None),
        (VAEConfig(encoder=ENCODER), ("masked", "denoising"), "does not fit"),
        (VAEConfig(encoder=ENCODER, decoder=SKIPS), ("masked", "variational"), "learns to copy"),
    ],
)
def test_the_rules_hold_for_every_part(network: Any, kinds: tuple[str, ...], words: str | None):
    if words is None:
        assert build_objective(combined(*kinds), network)
    else:
        with pytest.raises(ConfigError, match=words):
            build_objective(combined(*kinds), network)


@pytest.mark.parametrize(
    "parts",
    [
        [{"objective": {"kind": "masked"}}],
        [{"objective": {"kind": "masked"}}, {"objective": {"kind": "segmentation"}}],
        [{"objective": {"kind": "masked"}}, {"objective": {"kind": "combined", "parts": []}}],
        [{"objective": {"kind": "masked"}}, {"weight": 0, "objective": {"kind": "denoising"}}],
    ],
    ids=["one part", "supervised", "nested", "without weight"],
)
def test_what_is_no_combination_is_refused(parts: list[dict[str, Any]]):
    with pytest.raises(ValidationError):
        TypeAdapter(ObjectiveConfig).validate_python({"kind": "combined", "parts": parts})
