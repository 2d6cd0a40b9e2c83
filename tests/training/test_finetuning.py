"""Schedules of fine-tuning: the shares by hand, and that a still encoder is still in every respect."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from encoders import encoder_with
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import nn

from medae.errors import TrainingError
from medae.models.networks import build_network
from medae.models.segnet import SegNetConfig
from medae.models.unet import UNetConfig
from medae.objectives.segmentation import SegmentationConfig
from medae.preprocessing.batch import Batch
from medae.seeding import Draw
from medae.training.config import FitConfig
from medae.training.finetuning import DecoderFirst, Frozen, Gentle, Layerwise, Together, TuningConfig, in_steps
from medae.training.learner import Learner

KINDS = [Together(encoder=0.5), Gentle(), DecoderFirst(), Layerwise(), Frozen()]


def factors(tuning, depth, steps, over=None):
    return [tuning.factor(depth, step, steps) for step in range(over or steps)]


# --- the shares ---


def test_a_length_is_steps_or_a_share():
    assert in_steps(7, 1000) == 7
    assert in_steps(0.1, 60) == 6
    assert in_steps(1, 60) == 1


@pytest.mark.parametrize("length", [-1, 1.0, 1.5, -0.1, "long"])
def test_a_length_that_is_neither_is_refused(length):
    with pytest.raises(ValidationError):
        DecoderFirst(lasts=length)


def test_together_is_a_share_for_the_encoder_alone():
    assert Together(encoder=0.1).factor(0, 0, 10) == 1.0
    assert Together(encoder=0.1).factor(3, 9, 10) == 0.1


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_gentle_by_hand(depth):
    """A tenth for two steps, then up in three: 0.1 + 0.9 / 3, 0.1 + 1.8 / 3, 1."""
    assert factors(Gentle(share=0.1, lasts=2, warmup=3), depth, 6) == pytest.approx([0.1, 0.1, 0.4, 0.7, 1.0, 1.0])


def test_decoder_first_by_hand():
    tuning = DecoderFirst(lasts=0.2, warmup=0.2, encoder=0.5)
    assert factors(tuning, 0, 10, 6) == [1.0] * 6
    assert factors(tuning, 2, 10, 6) == pytest.approx([0.0, 0.0, 0.25, 0.5, 0.5, 0.5])


def test_without_a_warm_up_the_stage_begins_at_once():
    assert factors(DecoderFirst(lasts=1, warmup=0), 1, 3) == [0.0, 1.0, 1.0]


def test_layerwise_by_hand():
    assert [Layerwise(decay=0.5).factor(depth, 0, 10) for depth in range(4)] == [1.0, 0.5, 0.25, 0.125]


def test_frozen_stays_frozen():
    assert factors(Frozen(), 1, 5) == [0.0] * 5
    assert factors(Frozen(), 0, 5) == [1.0] * 5


@given(tuning=st.sampled_from(KINDS), depth=st.integers(0, 6), steps=st.integers(1, 400))
def test_every_share_is_within_0_and_1_never_falls_and_depends_on_the_step_alone(tuning, depth, steps):
    forward = factors(tuning, depth, steps)
    backward = [tuning.factor(depth, step, steps) for step in reversed(range(steps))]
    assert all(0 <= share <= 1 for share in forward)
    assert forward == sorted(forward) == backward[::-1]
    assert tuning.describe(steps)


@pytest.mark.parametrize("tuning", KINDS, ids=lambda tuning: tuning.kind)
def test_a_schedule_survives_json(tuning):
    adapter = TypeAdapter(TuningConfig)
    assert adapter.validate_json(adapter.dump_json(tuning)) == tuning


# --- a learner under them ---


def network(dims=2, norm="instance", kind="unet"):
    torch.manual_seed(0)
    encoder = {"spatial_dims": dims, "widths": [4, 6, 8], "strides": [[1] * dims, [2] * dims, [2] * dims]}
    encoder |= {"kernels": [[3] * dims] * 3, "norm": norm, "downsampling": "maxpool" if kind == "segnet" else "strided"}
    config = UNetConfig if kind == "unet" else SegNetConfig
    return build_network(config.model_validate({"encoder": encoder, "classes": 2}))


def batch(step, dims=2):
    generator = torch.Generator().manual_seed(step)
    image = torch.randn(2, 1, *[8] * dims, generator=generator)
    target = (image > 0).to(torch.int16)
    ones = torch.ones_like(image, dtype=torch.bool)
    return Batch(image, torch.ones(2, 1, dtype=torch.bool), ones, {"label": target})


def learner(tuning, model=None, **changes):
    settings = {"steps": 20, "rate": 0.01, "weight_decay": 0.5, "ema": 0.9, "precision": "fp32"} | changes
    objective = SegmentationConfig().build(encoder_with(4, 4))
    return Learner(model or network(), objective, FitConfig(**settings), Accelerator(mixed_precision="no", cpu=True), tuning)


def advance(found, steps, dims=2):
    for step in steps:
        found.step(batch(step, dims), Draw(0, step), rate=0.01)


def encoder_state(model):
    return {name: value.clone() for name, value in model.encoder.state_dict().items()}


def same(one, other):
    return [name for name, value in one.items() if torch.equal(value, other[name])]


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize(("dims", "norm", "kind"), [(2, "batch", "unet"), (3, "instance", "unet"), (2, "batch", "segnet")])
def test_a_frozen_encoder_keeps_every_weight_norm_and_average(dims, norm, kind, optimiser):
    model = network(dims, norm, kind)
    found = learner(Frozen(), model, optimiser=optimiser)
    before, decoder = encoder_state(model), model.decoder.state_dict()["levels.0.blocks.0.conv.weight"].clone()
    advance(found, range(2), dims)
    found.train()  # as after every epoch
    advance(found, range(2, 4), dims)
    for kept in (model, found.ema.model):
        assert same(before, encoder_state(kept)) == list(before), "weight decay, statistics of batch norm, moving average"
    assert not torch.equal(decoder, model.decoder.state_dict()["levels.0.blocks.0.conv.weight"])
    states = [name for name in found.tensors() if name.startswith("optimiser") and "encoder" in name]
    assert not states, "no moment gathers while it is still"
    found.restore()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_decoder_first_lets_the_encoder_go_at_its_step_and_not_before():
    model = network(norm="batch")
    found = learner(DecoderFirst(lasts=3, warmup=0), model)
    before = encoder_state(model)
    advance(found, range(3))
    assert same(before, encoder_state(model)) == list(before)
    advance(found, [3])
    moved = set(before) - set(same(before, encoder_state(model)))
    assert {name for name in before if name.endswith(("conv.weight", "norm.weight", "running_mean"))} <= moved
    steps = {name: value for name, value in found.tensors().items() if name.endswith("|step")}
    assert {int(value) for name, value in steps.items() if "encoder" in name} == {1}
    assert {int(value) for name, value in steps.items() if "encoder" not in name} == {4}


def test_after_its_stillness_the_encoder_starts_softly():
    """AdamW's first step is as large as the rate whatever the gradient: the warm-up is what keeps it small."""
    moved = []
    for warmup in (0, 10):
        model = network()
        found = learner(DecoderFirst(lasts=2, warmup=warmup), model, weight_decay=0.0)
        advance(found, range(2))
        before = model.encoder.levels[0][0].conv.weight.detach().clone()
        advance(found, [2])
        moved.append(float((model.encoder.levels[0][0].conv.weight.detach() - before).abs().max()))
    assert moved[0] == pytest.approx(0.01, rel=1e-3)
    assert moved[1] == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_layerwise_moves_each_level_by_its_share(dims):
    """The first step of AdamW is the rate of a weight, so that each level's shows: the coarsest has the most."""
    model = network(dims)
    before = encoder_state(model)
    advance(learner(Layerwise(decay=0.5), model, weight_decay=0.0), [0], dims)
    after = encoder_state(model)
    steps = [float((after[f"levels.{k}.0.conv.weight"] - before[f"levels.{k}.0.conv.weight"]).abs().max()) for k in range(3)]
    assert steps == pytest.approx([0.01 / 8, 0.01 / 4, 0.01 / 2], rel=1e-3)


def test_gentle_slows_the_decoder_too():
    model = network()
    before = model.head[0].weight.detach().clone()
    advance(learner(Gentle(share=0.1, lasts=5), model, weight_decay=0.0), [0])
    assert float((model.head[0].weight.detach() - before).abs().max()) == pytest.approx(0.001, rel=1e-3)


def test_without_a_schedule_all_weights_have_one_rate():
    found = learner(None)
    assert [group["depth"] for group in found.optimisers["model"].param_groups] == [0, 0]


@pytest.mark.parametrize("tuning", KINDS, ids=lambda tuning: tuning.kind)
def test_a_restored_learner_goes_on_in_the_same_bits(tuning):
    """Saved at step 1, in the first stage; the second one begins at step 2 (a tenth of 20)."""
    one, other = learner(tuning), learner(tuning)
    advance(one, range(1))
    saved = {name: value.clone() for name, value in one.tensors().items()}
    other.load(saved, one.scaler_facts())
    for found in (one, other):
        advance(found, range(1, 5))
    expected = one.tensors()
    assert expected.keys() == other.tensors().keys()
    assert all(torch.equal(value, expected[name]) for name, value in other.tensors().items())


def test_a_network_without_an_encoder_is_refused():
    with pytest.raises(TrainingError, match="without an encoder"):
        learner(Frozen(), nn.Conv2d(1, 2, 1))
