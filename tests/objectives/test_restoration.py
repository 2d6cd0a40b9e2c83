"""What restoration does to a scan, each distortion alone, and that the network is asked for the scan as it was."""

import pytest
import torch
from encoders import encoder_with
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from medae.models.output import Output
from medae.objectives.distortion import foreground_range, nonlinear, paint, random_windows, shuffle
from medae.objectives.restoration import RestorationConfig, RestorationObjective
from medae.preprocessing.batch import Batch
from medae.seeding import Draw

SIZES = [(24, 30), (20, 12, 16), (16, 16, 1)]
ALL = torch.tensor([True, True])


def scan(size: tuple[int, ...], channels: int = 1, seed: int = 0) -> Batch:
    """Two samples with zeros and a false mask along a border; the last channel of the second sample is absent if it is not
    the only one."""
    image = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(2, 1, *size, dtype=torch.bool)
    mask[:, :, :3] = False
    present = torch.ones(2, channels, dtype=torch.bool)
    present[1, -1] = channels == 1
    return Batch(image * mask * present.reshape(2, channels, *[1] * len(size)), present, mask)


def inside_of(batch: Batch) -> Tensor:
    return batch.mask & batch.present.reshape(*batch.present.shape, *[1] * (batch.image.ndim - 2))


class Echo(nn.Module):
    """Returns what it is told and keeps what it saw."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer, self.seen = answer, torch.empty(0)

    def forward(self, image: Tensor) -> Output:
        self.seen = image
        return Output((self.answer,))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from(SIZES))
def test_intensities_go_through_a_monotone_curve_that_keeps_their_range(seed: int, size: tuple[int, ...]):
    batch = scan(size, channels=2, seed=seed)
    inside = inside_of(batch)
    changed = nonlinear(batch.image, inside, ALL, Draw(seed, 0))
    for b, c in ((0, 0), (0, 1), (1, 0)):
        before, after = batch.image[b, c][inside[b, c]], changed[b, c][inside[b, c]]
        steps = after[before.argsort()].diff()
        assert (steps >= -1e-5).all() or (steps <= 1e-5).all()
        torch.testing.assert_close(after.aminmax(), before.aminmax())
        assert (after - before).abs().max() > 1e-3
    assert torch.equal(changed[~inside], batch.image[~inside])


def test_half_of_the_curves_turn_bright_into_dark_and_every_channel_has_its_own():
    image = torch.linspace(-1, 2, 50).expand(64, 2, 1, 50).contiguous()
    chosen = torch.ones(64, dtype=torch.bool)
    changed = nonlinear(image, torch.ones_like(image, dtype=torch.bool), chosen, Draw(0, 0))
    falling = changed[..., 0, -1] < changed[..., 0, 0]
    assert 0.35 < falling.float().mean() < 0.65
    assert not torch.equal(changed[:, 0], changed[:, 1])
    curved = (changed - image).abs()[~falling].amax(-1)
    assert (curved > 0.1).float().mean() > 0.7, "a curve, not the identity"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from(SIZES), share=st.sampled_from([0.1, 0.3]))
def test_shuffling_moves_voxels_within_small_windows_of_the_foreground(seed: int, size: tuple[int, ...], share: float):
    batch = scan(size)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    places = torch.stack(axes).expand(2, -1, *size)  # every voxel's value is where it comes from
    inside = batch.mask.expand_as(places)
    moved = shuffle(places, inside, ALL, Draw(seed, 0), share)
    distance = (moved - places).abs()
    limits = torch.tensor([max(1, -int(-share * n // 1)) for n in size]).reshape(1, -1, *[1] * len(size))
    assert (distance < limits).all()
    assert distance.max() > 0
    assert torch.equal(moved[~inside], places[~inside])
    number = sum(value * 1000**axis for axis, value in enumerate(moved.unbind(1)))
    expected = sum(value * 1000**axis for axis, value in enumerate(places.unbind(1)))
    for b in range(2):  # a permutation, the channels together, of the foreground
        within = batch.mask[b, 0]
        assert torch.equal(number[b][within].sort().values, expected[b][within].sort().values)


@pytest.mark.parametrize("size", [(60,) * 2, (30, 42, 36)])
def test_windows_have_the_stated_edges(size: tuple[int, ...]):
    found = random_windows(Draw(0, 0), 40, size, 1, (1 / 6, 1 / 3), torch.device("cpu"))
    assert found.shape == (40, 1, *size)
    for axis, n in enumerate(size):
        others = tuple(a for a in range(1, 2 + len(size)) if a != axis + 2)
        edges = found.any(others).sum(1)
        assert edges.min() >= n // 6 and edges.max() <= n // 3
        assert edges.unique().numel() > 3
        starts = found.any(others).int().argmax(1)
        assert starts.min() <= n // 10 and starts.max() >= n // 2
    boxes = found.flatten(1).sum(1)
    union = random_windows(Draw(0, 0), 40, size, 5, (1 / 6, 1 / 3), torch.device("cpu")).flatten(1).sum(1)
    assert union.float().mean() > 2.5 * boxes.float().mean()


@pytest.mark.parametrize("size", [(60, 60), (30, 42, 36)])
def test_in_painting_covers_little_and_out_painting_much(size: tuple[int, ...]):
    image = torch.randn(20, 1, *size, generator=torch.Generator().manual_seed(0))
    inside, chosen = torch.ones_like(image, dtype=torch.bool), torch.ones(20, dtype=torch.bool)
    shares = {}
    for outside in (0.0, 1.0):
        painted = paint(image, inside, chosen, Draw(0, 0), outside)
        shares[outside] = (painted != image).flatten(1).float().mean(1)
        lowest, highest = foreground_range(image, inside)
        assert ((painted >= lowest) & (painted <= highest)).all()
        deviation = painted[painted != image].std() / (highest - lowest).mean()
        assert deviation == pytest.approx(12**-0.5, rel=0.05), "even over the range, unlike the scan"
    assert shares[0.0].min() > 0.004 and shares[0.0].max() < 0.5
    assert shares[1.0].min() > 0.15 and shares[1.0].max() < 0.95
    assert shares[1.0].mean() > 1.3 * shares[0.0].mean()
    mixed = paint(image, inside, chosen, Draw(0, 0), 0.8)
    assert 12 <= (((mixed != image).flatten(1).float().mean(1) - shares[1.0]).abs() < 1e-6).sum() <= 19


def objective(**changes: float) -> RestorationObjective:
    still = {"nonlinear": 0.0, "shuffling": 0.0, "painting": 0.0, "flip": 0.0}
    built = RestorationConfig(**(still | changes)).build(encoder_with(4, 4))
    assert isinstance(built, RestorationObjective)
    return built


@pytest.mark.parametrize("size", SIZES)
def test_input_and_target_are_mirrored_alike(size: tuple[int, ...]):
    batch = scan(size)
    goal = objective(flip=1.0, nonlinear=1e-9)
    met = set()
    for step in range(12):
        clean, distorted = goal.distort(batch, Draw(0, step))
        assert torch.equal(clean.image, distorted)
        for b in range(2):
            axes = [a for a in range(1, batch.image.ndim - 1) if torch.equal(clean.image[b], batch.image[b].flip(a))]
            assert axes, "mirrored along one axis"
            assert torch.equal(clean.mask[b], batch.mask[b].flip(axes[0]))
            met |= set(axes)
        (loss,) = goal(Echo(clean.image), batch, Draw(0, step))
        assert loss.total == 0, "the target is mirrored too"
    assert met >= {a + 1 for a, n in enumerate(size) if n > 1}


def test_a_figure_shows_mirrored_samples_turned_back():
    batch = scan((24, 30))
    goal = objective(flip=1.0, nonlinear=1e-9)
    clean, _ = goal.distort(batch, Draw(0, 0))
    shown = goal.example(Echo(clean.image), batch, Draw(0, 0))
    assert not torch.equal(clean.image, batch.image)
    assert all(torch.equal(value, batch.image) for value in shown.values())


@pytest.mark.parametrize("size", SIZES)
def test_padding_and_absent_channels_stay_as_they_are_and_the_rest_does_not(size: tuple[int, ...]):
    batch = scan(size, channels=2)
    for name in ("nonlinear", "shuffling", "painting"):
        clean, distorted = objective(**{name: 1.0}).distort(batch, Draw(3, 0))
        inside = inside_of(batch)
        assert torch.equal(clean.image, batch.image)
        assert torch.equal(distorted[~inside], batch.image[~inside]), name
        assert all((distorted[b] != batch.image[b]).any() for b in range(2)), name


def test_the_network_sees_the_distorted_scan_and_is_compared_with_the_clean_one():
    batch = scan((24, 30))
    goal = RestorationConfig().build(encoder_with(4, 4))
    model = Echo(batch.image + 2)
    (loss,) = objective(nonlinear=1.0, painting=1.0)(model, batch, Draw(0, 0))
    assert loss.total == pytest.approx(4.0)
    assert (model.seen != batch.image).float().mean() > 0.5
    seen = []
    for step in range(40):
        goal(model, batch, Draw(0, step))
        seen.append((model.seen == batch.image)[batch.mask.expand_as(batch.image)].float().mean())
    assert 0 <= sum(share == 1 for share in seen) <= 4, "rarely left alone: 0.1 x 0.5 x 0.1 a sample"


@pytest.mark.parametrize("size", SIZES)
def test_a_sample_is_distorted_alike_whatever_batch_it_is_in(size: tuple[int, ...]):
    batch = scan(size)
    alone = Batch(batch.image[1:], batch.present[1:], batch.mask[1:])
    goal = objective(nonlinear=1.0, shuffling=1.0, painting=1.0, flip=0.5)
    for step in range(4):
        _, both = goal.distort(batch, Draw(0, step))
        _, one = goal.distort(alone, Draw(0, step, first=1))
        assert torch.equal(both[1:], one)
        _, channels_last = goal.distort(
            Batch(batch.image.movedim(1, -1).contiguous().movedim(-1, 1), batch.present, batch.mask), Draw(0, step)
        )
        assert torch.equal(both, channels_last)


def test_a_patch_without_foreground_or_of_one_value_is_no_obstacle():
    image = torch.zeros(2, 1, 8, 8)
    image[1] = 3.0
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[1] = True
    batch = Batch(image, torch.ones(2, 1, dtype=torch.bool), mask)
    _, distorted = objective(nonlinear=1.0, shuffling=1.0, painting=1.0).distort(batch, Draw(0, 0))
    assert torch.equal(distorted, image)


def test_a_restoration_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="nonlinear, shuffling and painting"):
        RestorationConfig(nonlinear=0, shuffling=0, painting=0)
