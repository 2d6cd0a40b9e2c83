from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from medae.errors import ConfigError, TrainingError
from medae.models.output import Output
from medae.objectives.base import Loss, Objective
from medae.preprocessing.batch import Batch
from medae.seeding import Draw
from medae.training.config import FitConfig
from medae.training.determinism import deterministic
from medae.training.ema import Ema
from medae.training.learner import Learner
from medae.training.precision import MixedPrecision, resolve_precision

CPU = torch.device("cpu")


class Scale(nn.Module):
    """y = weight * x, and an unused part."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(1, 1, bias=False)
        self.head = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.encoder.weight, 2.0)
        nn.init.constant_(self.head.weight, 3.0)

    def forward(self, image):
        return Output((self.head(self.encoder(image)),))


class Rivals(Objective):
    """The critic pulls its own weight up; the model's loss depends on it and must not move it."""

    def __init__(self, group="critic"):
        super().__init__()
        self.group = group
        self.critic = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.critic.weight, 1.0)
        self.token = nn.Parameter(torch.tensor(0.0))

    def parameter_groups(self):
        return {"critic": self.critic}

    def forward(self, model, batch, draw):
        made = model(batch.image).finest
        judged = self.critic(made)
        return [
            Loss(judged.mean() + self.token, {"judged": judged.mean()}),
            Loss(-self.critic(made.detach()).mean(), {}, self.group),
        ]


def batch(value=1.0):
    image = torch.full((2, 1), value)
    return Batch(image, torch.ones(2, 1, dtype=torch.bool), torch.ones_like(image, dtype=torch.bool))


def learner(objective=None, tuning=None, **changes):
    settings = {"steps": 1, "optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip": None}
    settings |= {"precision": "fp32", "channels_last": False} | changes
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    return Learner(Scale(), objective or Rivals(), FitConfig(**settings), accelerator, tuning)


def test_each_loss_trains_its_own_group_and_nothing_else():
    """d judged / d encoder = critic * head * x = 3, / d head = 2; the critic sees only its own loss: slope -6."""
    found = learner()
    row = found.step(batch(), Draw(0, 0), rate=0.1)
    assert found.model.encoder.weight.item() == pytest.approx(2 - 0.1 * 3)
    assert found.model.head.weight.item() == pytest.approx(3 - 0.1 * 2)
    assert found.objective.critic.weight.item() == pytest.approx(1 + 0.1 * 6)
    assert found.objective.token.item() == pytest.approx(-0.1)
    assert row["loss"].item() == row["loss/judged"].item() == pytest.approx(6)
    assert row["loss@critic"].item() == pytest.approx(-6)
    assert row["gradient_norm"].item() == pytest.approx((9 + 4 + 1) ** 0.5)
    assert row["gradient_norm@critic"].item() == pytest.approx(6)


def test_clipping_is_by_group():
    found = learner(clip=1.0)
    found.step(batch(), Draw(0, 0), rate=0.1)
    assert found.model.encoder.weight.item() == pytest.approx(2 - 0.1 * 3 / 14**0.5, abs=1e-6)
    assert found.objective.critic.weight.item() == pytest.approx(1.1, abs=1e-6)


def test_a_loss_for_an_unknown_group_is_refused():
    with pytest.raises(TrainingError, match=r"'teacher'.*\n.*Rivals\n.*model, critic"):
        learner(Rivals("teacher")).step(batch(), Draw(0, 0), rate=0.1)


def test_weight_decay_spares_norms_and_biases():
    class Net(Scale):
        def __init__(self):
            super().__init__()
            self.unused = nn.BatchNorm1d(1)

    config = FitConfig(steps=1, weight_decay=0.5, precision="fp32", channels_last=False)
    found = Learner(Net(), Rivals(), config, Accelerator(mixed_precision="no", cpu=True), None)
    decays = {id(p): group["weight_decay"] for group in found.optimisers["model"].param_groups for p in group["params"]}
    assert decays[id(found.model.encoder.weight)] == 0.5
    assert decays[id(found.model.unused.weight)] == 0.0


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_restored_learner_goes_on_in_the_same_bits(optimiser):
    settings = {"optimiser": optimiser, "momentum": 0.9, "ema": 0.9}
    one, other = learner(**settings), learner(**settings)
    for step in range(3):
        one.step(batch(float(step)), Draw(0, step), rate=0.1)
    saved = {name: value.clone() for name, value in one.tensors().items()}
    other.load(saved, one.scaler_facts())
    for found in (one, other):
        found.step(batch(3.0), Draw(0, 3), rate=0.1)
    expected = one.tensors()
    assert any(name.startswith("optimiser critic/") for name in expected)
    assert expected.keys() == other.tensors().keys()
    assert all(torch.equal(value, expected[name]) for name, value in other.tensors().items())


def test_moments_come_back_in_their_weights_layout():
    net = nn.Conv2d(3, 4, 3)
    config = FitConfig(steps=1, precision="fp32")

    class Fit(Objective):
        def forward(self, model, batch, draw):
            return [Loss(model(batch.image).finest.square().mean())]

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = net

        def forward(self, image):
            return Output((self.encoder(image),))

    image = torch.randn(2, 3, 8, 8)
    filled = Batch(image, torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 1, 8, 8, dtype=torch.bool))
    found = Learner(Wrapped(), Fit(), config, Accelerator(mixed_precision="no", cpu=True), None)
    found.step(filled, Draw(0, 0), rate=0.1)
    moment = found.optimisers["model"].state[net.weight]["exp_avg"]
    assert moment.is_contiguous(memory_format=torch.channels_last)
    found.load({name: value.contiguous().clone() for name, value in found.tensors().items()}, {})
    again = found.optimisers["model"].state[net.weight]["exp_avg"]
    assert again is not moment
    assert again.stride() == moment.stride() == net.weight.stride()


def test_ema_by_hand():
    """Step 0: decay min(0.5, 1/10); step 9: min(0.5, 10/19) = 0.5."""
    model = Scale()
    average = Ema(model, 0.5)
    nn.init.constant_(model.encoder.weight, 4.0)
    average.update(model, 0)
    assert average.model.encoder.weight.item() == pytest.approx(0.1 * 2 + 0.9 * 4)
    average.update(model, 9)
    assert average.model.encoder.weight.item() == pytest.approx(0.5 * 3.8 + 0.5 * 4)
    assert model.encoder.weight.requires_grad
    assert not average.model.encoder.weight.requires_grad


def test_ema_copies_buffers():
    model = nn.BatchNorm1d(2)
    average = Ema(model, 0.9)
    model(torch.randn(8, 2))
    average.update(model, 0)
    assert torch.equal(average.model.running_mean, model.running_mean)
    assert average.model.num_batches_tracked == 1


def test_mixed_precision_computes_in_16_bits_and_answers_in_32():
    model, seen = Scale(), []
    model.head.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    assert MixedPrecision(model, torch.bfloat16, CPU)(torch.ones(1, 1)).finest.dtype == torch.float32
    assert MixedPrecision(model, torch.float32, CPU)(torch.ones(1, 1)).finest.dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32]


def test_precision_by_device(monkeypatch):
    assert resolve_precision("bf16", CPU) == torch.bfloat16
    assert resolve_precision("fp32", CPU) == torch.float32
    for supported, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=supported: {"avx512_bf16": known})
        assert resolve_precision("auto", CPU) == expected
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        resolve_precision("fp16", CPU)


def test_deterministic_settings_are_put_back():
    before = torch.are_deterministic_algorithms_enabled()
    with deterministic(True, CPU):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.are_deterministic_algorithms_enabled() == before
    assert torch.utils.deterministic.fill_uninitialized_memory
    with deterministic(False, CPU):
        assert torch.are_deterministic_algorithms_enabled() == before


@pytest.mark.filterwarnings("error")
def test_operations_without_a_deterministic_form_are_named():
    """As on an accelerator, where they are allowed; max_unpool has none on the CPU either."""
    with deterministic(True, torch.device("cuda")) as found:
        nn.functional.max_unpool2d(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, dtype=torch.int64), 2)
    assert len(found) == 1
    assert "max_unpool" in found.pop()
