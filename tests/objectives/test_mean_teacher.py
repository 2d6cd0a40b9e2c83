"""The teacher: what it sees and says, that it moves and learns nothing by gradients, and what its weight is."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from medae.augmentation.intensity import Brightness, Contrast, Gamma, Noise
from medae.config import to_dict
from medae.models.output import Output
from medae.objectives.base import Trained
from medae.objectives.mean_teacher import MeanTeacherConfig, Perturbation
from medae.preprocessing.batch import Batch
from medae.seeding import Draw
from medae.training.ema import Ema

KINDS = [("unet", 2), ("unet", 3), ("segnet", 2), ("segnet", 3), ("fcn", 2), ("fcn", 3)]


def build(semi, dims=2, steps=10, **keys):
    return MeanTeacherConfig(**keys).build(semi.supervised(), (None,) * dims, steps, ct=False)


def attached(semi, dims=2, kind="unet", **keys):
    """An objective, its student, and a teacher of other weights."""
    student = semi.network(kind, dims, dropout=0.5)
    teacher = semi.network(kind, dims, dropout=0.5)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.3 * torch.ones_like(parameter))
    average = Ema(teacher, 0.9).model
    objective = build(semi, dims, **keys)
    objective.attach(Trained(student, average, lambda module: module))
    return objective, student, average


@pytest.mark.parametrize(
    ("keys", "expected"),
    [({}, (0.7 - 0.5) ** 2 * 2), ({"consistency": "pseudo_labels", "threshold": 0.6}, math.log(2)),
     ({"consistency": "pseudo_labels", "threshold": 0.8}, 0.0)],
)  # fmt: skip
def test_the_disagreement_by_hand(semi, keys, expected):
    """The teacher says 0.7 and 0.3, the student even odds; half of the voxels are outside the mask."""
    taught = torch.tensor([0.7, 0.3]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    logits = torch.zeros(1, 2, 4, 4)
    logits[..., 2:] = torch.tensor([50.0, -50.0]).reshape(1, 2, 1, 1)
    assert build(semi, **keys).disagreement(logits, taught, mask).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_students_view_differs_in_intensity_alone_and_only_in_the_foreground(semi, dims):
    objective, student, average = attached(semi, dims)
    seen = {}
    student.register_forward_hook(lambda _, given, __: seen.setdefault("student", []).append(given[0]))
    average.register_forward_hook(lambda _, given, __: seen.setdefault("teacher", []).append(given[0]))
    batch = semi.Source(dims).batch(0)
    objective(student, batch, Draw(0, 0))
    unlabelled = batch.streams["unlabelled"]
    assert torch.equal(seen["student"][0], batch.image), "the labelled patches come first and are not perturbed"
    assert len(seen["teacher"]) == 1 and torch.equal(seen["teacher"][0], unlabelled.image)
    student_saw = seen["student"][1]
    outside = ~unlabelled.mask
    assert torch.equal(student_saw[outside], unlabelled.image[outside])
    inside = student_saw[unlabelled.mask]
    assert not torch.equal(inside, unlabelled.image[unlabelled.mask])
    # white noise: a patch that was moved by a voxel would not be correlated at all
    assert torch.corrcoef(torch.stack([inside, unlabelled.image[unlabelled.mask]]))[0, 1] > 0.4


def test_a_samples_perturbation_does_not_depend_on_the_batch(semi):
    perturb = Perturbation().augmentation((None, None), ct=False)
    whole = semi.patches(2, 0, 3, "unlabelled")
    last = replace(whole, image=whole.image[2:], present=whole.present[2:], mask=whole.mask[2:])
    assert torch.equal(perturb(whole, Draw(0, 0)).image[2:], perturb(last, Draw(0, 0, first=2)).image)


@pytest.mark.parametrize(("kind", "dims"), KINDS)
def test_no_gradient_reaches_the_teacher_and_it_is_in_evaluation_mode(semi, kind, dims):
    objective, student, average = attached(semi, dims, kind)
    objective.train()
    average.train()  # as if something had put it there: the objective must not rely on others
    for parameter in average.parameters():
        parameter.requires_grad_(True)
    (loss,) = objective(student.train(), semi.Source(dims).batch(0), Draw(0, 9))
    loss.total.backward()
    assert all(parameter.grad is None for parameter in average.parameters())
    assert not average.training, "its dropout would be noise in what is taught"
    image = semi.patches(dims, 0, 2, "unlabelled").image
    assert torch.equal(objective.teach(image), average(image).finest.softmax(dim=1))
    assert loss.terms["consistency"] > 0


@pytest.mark.parametrize("consistency", ["squared", "pseudo_labels"])
def test_the_student_is_pulled_towards_the_teacher(semi, consistency):
    objective, student, _ = attached(semi, consistency=consistency, threshold=0.34)
    unlabelled = semi.patches(2, 0, 3, "unlabelled")
    taught = objective.teach(unlabelled.image)
    student.eval()
    before = objective.disagreement(student(unlabelled.image).finest, taught, unlabelled.mask)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.05)
    for _ in range(5):
        optimiser.zero_grad()
        objective.disagreement(student(unlabelled.image).finest, taught, unlabelled.mask).backward()
        optimiser.step()
    assert objective.disagreement(student(unlabelled.image).finest, taught, unlabelled.mask) < before


def test_the_weight_rises_over_the_ramp_and_is_a_function_of_the_step():
    config = MeanTeacherConfig(weight=2.0, ramp=0.5)
    assert config.weight_at(0, 100) == pytest.approx(2 * math.exp(-5))
    assert config.weight_at(25, 100) == pytest.approx(2 * math.exp(-5 / 4))
    assert config.weight_at(50, 100) == config.weight_at(99, 100) == 2.0
    assert MeanTeacherConfig(ramp=0.0, weight=3.0).weight_at(0, 10) == 3.0
    rising = [config.weight_at(step, 100) for step in range(51)]
    assert rising == sorted(rising)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_teacher_moves_after_every_step_by_the_stated_share(semi, tmp_path, dims):
    """Step s: average += (1 - min(0.9, (1 + s) / (10 + s))) x (weights - average)."""
    model, objective = semi.network(dims=dims), build(semi, dims, steps=3)
    trail = []

    class Watching(type(objective)):
        def forward(self, model, batch, draw):
            trail.append((_flat(self._trained.network), _flat(self._trained.average)))
            return super().forward(model, batch, draw)

    objective.__class__ = Watching
    semi.train(tmp_path, model, objective, dims, steps=3)
    assert len(trail) == 3
    for step, ((_, old), (weights, new)) in enumerate(pairwise(trail)):
        decay = (1 + step) / (10 + step)
        assert not torch.equal(new, old), "the teacher stands still"
        assert torch.allclose(new, decay * old + (1 - decay) * weights, atol=1e-6)
    kept = _flat(model)
    assert torch.equal(kept, _flat(objective._trained.average)), "the teacher is what is kept"


def test_a_weight_of_nothing_is_the_supervised_training_bit_for_bit(semi, tmp_path):
    """The unlabelled stream changes neither the labelled batches nor their dropout nor their augmentation."""
    semi_supervised, twin = (semi.network(dropout=0.3) for _ in range(2))
    semi.train(tmp_path / "a", semi_supervised, build(semi, weight=0.0), 2)
    semi.train(tmp_path / "b", twin, semi.supervised(), 2, unlabelled=False)
    assert torch.equal(_flat(semi_supervised), _flat(twin))
    other = semi.network(dropout=0.3)
    semi.train(tmp_path / "c", other, build(semi, weight=1.0, ramp=0.0), 2)
    assert not torch.equal(_flat(other), _flat(twin))


def test_nothing_of_the_teacher_is_in_the_objective(semi):
    objective, _, _ = attached(semi)
    assert not objective.state_dict() and not list(objective.parameters())


def test_without_a_moving_average_there_is_no_teacher(semi):
    with pytest.raises(TypeError, match="moving average"):
        build(semi).attach(Trained(semi.network(), None, lambda module: module))


def test_a_perturbation_has_no_spatial_part():
    with pytest.raises(ValidationError, match="rotation"):
        Perturbation(rotation={"probability": 1.0})


def test_keys_of_a_perturbation_go_over_its_own_defaults():
    """Not over those of an augmentation, whose noise happens to 15 % of the samples."""
    config = MeanTeacherConfig.model_validate({"perturbation": {"noise": {"std": 0.2}, "contrast": {"upper": 2.0}}})
    transforms = config.perturbation.augmentation((1.0, 1.0), ct=False).transforms
    assert transforms.noise == Noise(probability=0.8, std=0.2)
    assert transforms.contrast == Contrast(probability=0.8, lower=0.6, upper=2.0)
    assert transforms.gamma == Gamma(probability=0.5, lower=0.6, upper=1.7)
    assert MeanTeacherConfig.model_validate(to_dict(config)) == config
    assert Perturbation(noise=Noise()).noise == Noise(), "one that is made already is taken as it is"
    with pytest.raises(ValidationError, match="sdt"):
        Perturbation(noise={"sdt": 0.2})


def test_ct_keeps_its_units_unless_it_is_asked_for():
    transforms = Perturbation().augmentation((1.0, 1.0), ct=True).transforms
    assert transforms.gamma.probability == 0
    assert (transforms.contrast.lower, transforms.contrast.upper, transforms.brightness.shift) == (0.9, 1.1, 0.05)
    assert transforms.noise == Perturbation().augmentation((1.0, 1.0), ct=False).transforms.noise
    asked = Perturbation(gamma={"probability": 0.5, "upper": 1.2}, brightness={"probability": 0.4})
    for perturbation in (asked, Perturbation.model_validate(to_dict(asked))):
        transforms = perturbation.augmentation((1.0, 1.0), ct=True).transforms
        assert transforms.gamma == Gamma(probability=0.5, lower=0.7, upper=1.2)
        assert transforms.brightness == Brightness(probability=0.4, shift=0.05), "a key that is left out is CT's"
        assert perturbation.augmentation((1.0, 1.0), ct=False).transforms.brightness.shift == 0.5


@pytest.mark.parametrize("spacing", [(1.0, 4.0), (1.0, 1.0, 4.0)])
def test_the_students_blur_is_equally_wide_in_millimetres(semi, spacing):
    """A point's variance along the first axis and along the last, whose voxels are four times as long: 9 mm^2 both."""
    nothing = {"probability": 0.0}
    keys = dict.fromkeys(("noise", "brightness", "contrast", "gamma"), nothing)
    blur = {"probability": 1.0, "lower": 3.0, "upper": 3.0}
    objective = MeanTeacherConfig(perturbation={"blur": blur, **keys}).build(semi.supervised(), spacing, 10, ct=False)
    image = torch.zeros(1, 1, *(33 if step == 1 else 17 for step in spacing))
    image[(0, 0, *(size // 2 for size in image.shape[2:]))] = 1.0
    batch = Batch(image, torch.ones(1, 1, dtype=torch.bool), torch.ones_like(image, dtype=torch.bool))
    blurred = objective.perturb(batch, Draw(0, 0)).image[0, 0]
    variances = []
    for axis in (0, blurred.dim() - 1):
        profile = blurred.sum([other for other in range(blurred.dim()) if other != axis])
        places = (torch.arange(len(profile)) - len(profile) // 2) * spacing[axis]
        variances.append(float((profile * places**2).sum() / profile.sum()))
    assert variances == pytest.approx([9.0, 9.0], rel=0.1)


def test_the_example_shows_what_both_saw_and_said(semi):
    objective, student, average = attached(semi)
    batch = semi.Source(2).batch(0)
    shown = objective.example(student.eval(), batch, Draw(0, 0))
    assert list(shown) == ["teacher saw", "student saw", "teacher said", "student said"]
    assert torch.equal(shown["teacher said"], average(batch.streams["unlabelled"].image).finest.softmax(dim=1))
    assert torch.allclose(shown["student said"].sum(dim=1), torch.ones(3, *semi.SIZES[2]))
    assert isinstance(student(shown["student saw"]), Output)


def _flat(model):
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])
