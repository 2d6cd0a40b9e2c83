import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medae.errors import GeometryError
from medae.inference.predict import predict_maps
from medae.models.ensemble import EnsembleConfig
from medae.models.networks import build_network
from medae.models.output import Output
from medae.plan import NetworkPlan, Plan, SamplingPlan, SpacePlan
from medae.preprocessing.prepare import Prepared
from medae.volume import NativeGrid

ROWS = tuple(tuple(float(i == j) for j in range(4)) for i in range(4))


class Identity(nn.Module):
    def forward(self, x: torch.Tensor) -> Output:
        return Output((x,))


class Recording(Identity):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], bool, bool]] = []

    def forward(self, x: torch.Tensor) -> Output:
        self.seen.append((tuple(x.shape), self.training, torch.is_inference_mode_enabled()))
        return Output((x,))


class Ramp(nn.Module):
    """Adds the position along the last axis: not symmetric, so flips show."""

    def forward(self, x: torch.Tensor) -> Output:
        return Output((x + torch.arange(x.shape[-1], dtype=x.dtype),))


def plan_of(patch: tuple[int, ...], slice_axis: int | None = None) -> Plan:
    dims = len(patch)
    return Plan(
        space=SpacePlan(spatial_dims=dims, slice_axis=slice_axis),
        network=NetworkPlan(widths=(4,), strides=((1,) * dims,), kernels=((3,) * dims,)),
        sampling=SamplingPlan(patch=patch),
    )


def scan(shape: tuple[int, ...], channels: int = 2, seed: int = 0) -> Prepared:
    image = torch.randn(channels, *shape, generator=torch.Generator().manual_seed(seed))
    native = NativeGrid(shape=shape, affine=ROWS)
    ones = torch.ones(1, *shape, dtype=torch.bool)
    return Prepared("scan", image, torch.ones(channels, dtype=torch.bool), ones, {}, native, np.eye(4))


@pytest.mark.parametrize("mirrored", [(), (0, 1, 2)])
@pytest.mark.parametrize("shape", [(7, 5, 9), (16, 12, 8), (1, 1, 1), (13, 12, 1)])
def test_identity_is_exact_where_one_window_suffices(shape, mirrored):
    prepared = scan(shape)
    maps = predict_maps(
        Identity(), prepared, plan_of((16, 12, 9)), device="cpu", mirrored=mirrored, activation="none", batch=1
    )
    assert torch.equal(maps, prepared.image)
    assert maps.dtype == torch.float32


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("mirrored", [(), (0, 1)])
def test_identity_of_slices_is_exact(axis, mirrored):
    prepared = scan((7, 5, 9))
    maps = predict_maps(Identity(), prepared, plan_of((9, 9), axis), device="cpu", mirrored=mirrored, activation="none")
    assert torch.equal(maps, prepared.image)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    patch=st.tuples(*[st.integers(2, 12)] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5]),
    axis=st.sampled_from([None, 0, 1, 2]),
    mirrored=st.sampled_from([(), (0,), (0, 1)]),
    batch=st.integers(1, 5),
)
def test_identity_under_blending_is_within_rounding(shape, patch, overlap, axis, mirrored, batch):
    prepared = scan(shape)
    plan = plan_of(patch if axis is None else patch[:2], axis)
    maps = predict_maps(
        Identity(), prepared, plan, device="cpu", mirrored=mirrored, activation="none", overlap=overlap, batch=batch
    )
    assert maps.shape == prepared.image.shape
    assert (maps - prepared.image).abs().max() <= 1e-5


def test_windows_have_the_plans_size_and_pass_in_batches():
    model = Recording()
    predict_maps(model, scan((16, 16, 16)), plan_of((8, 8, 8)), device="cpu", activation="none", overlap=0.0, batch=3)
    assert [shape for shape, _, _ in model.seen] == [(3, 2, 8, 8, 8), (3, 2, 8, 8, 8), (2, 2, 8, 8, 8)]


def test_window_can_be_given():
    model = Recording()
    predict_maps(model, scan((16, 16, 16)), plan_of((8, 8, 8)), device="cpu", activation="none", patch=(16, 16, 20))
    assert [shape for shape, _, _ in model.seen] == [(1, 2, 16, 16, 20)]


def test_small_scans_are_padded_with_zeros_on_both_sides():
    class Seen(Identity):
        def forward(self, x: torch.Tensor) -> Output:
            self.image = x.clone()
            return Output((x,))

    model, prepared = Seen(), scan((5, 8, 8), channels=1)
    predict_maps(model, prepared, plan_of((8, 8, 8)), device="cpu", activation="none")
    assert (model.image[:, :, 0] == 0).all() and (model.image[:, :, 6:] == 0).all()
    assert torch.equal(model.image[0, :, 1:6], prepared.image)


def test_flips_average_over_mirror_images_and_turn_the_maps_back():
    prepared = scan((4, 4, 6), channels=1)
    plain = predict_maps(Ramp(), prepared, plan_of((4, 4, 6)), device="cpu", activation="none")
    assert torch.allclose(plain - prepared.image, torch.arange(6.0).expand(1, 4, 4, 6), atol=1e-5)
    flipped = predict_maps(Ramp(), prepared, plan_of((4, 4, 6)), device="cpu", mirrored=(0, 1, 2), activation="none")
    assert torch.allclose(flipped - prepared.image, torch.full((1, 4, 4, 6), 2.5), atol=1e-5)


@pytest.mark.parametrize("slice_axis", [None, 0, 1, 2])
@pytest.mark.parametrize("mirrored", [(), (0,), (1,), (0, 1)])
def test_mirror_images_are_along_the_named_axes_alone(slice_axis, mirrored):
    """Adds the position along every axis: along a mirrored one the mean is left, along the others the position."""

    class Position(nn.Module):
        def forward(self, x: torch.Tensor) -> Output:
            ramps = torch.meshgrid(*[torch.arange(float(n)) for n in x.shape[2:]], indexing="ij")
            return Output((torch.stack([*ramps]).expand(len(x), -1, *x.shape[2:]),))

    prepared = scan((4, 6, 8), channels=1)
    axes = [axis for axis in range(3) if axis != slice_axis]
    plan = plan_of(tuple((4, 6, 8)[axis] for axis in axes), slice_axis)
    maps = predict_maps(Position(), prepared, plan, device="cpu", mirrored=mirrored, activation="none")
    for place in range(len(axes)):
        assert (maps[place].std() == 0) == (place in mirrored)


def test_an_ensemble_averages_probabilities_over_all_windows():
    torch.manual_seed(0)
    shape = {"widths": [4, 6], "strides": [[1, 1, 1], [2, 2, 2]], "kernels": [[3, 3, 3]] * 2}
    member = {"kind": "unet", "encoder": shape | {"norm": "none"}, "classes": 3}
    ensemble = build_network(EnsembleConfig.model_validate({"member": member, "members": 2}))
    prepared, plan = scan((12, 9, 10), channels=1), plan_of((8, 8, 8))
    each = [predict_maps(one, prepared, plan, device="cpu", mirrored=(0, 1, 2)) for one in ensemble.members]
    together = predict_maps(ensemble, prepared, plan, device="cpu", mirrored=(0, 1, 2))
    assert torch.allclose(together, (each[0] + each[1]) / 2, atol=1e-6)
    assert not torch.allclose(each[0], each[1], atol=1e-3)


def test_the_finest_map_alone_is_predicted():
    class Deep(nn.Module):
        def forward(self, x: torch.Tensor) -> Output:
            return Output((x, 100 + x[:, :, ::2, ::2, ::2]))

    prepared = scan((8, 8, 8))
    assert torch.equal(predict_maps(Deep(), prepared, plan_of((8, 8, 8)), device="cpu", activation="none"), prepared.image)


def test_flips_are_averaged_after_the_activation():
    class Sided(nn.Module):
        """Sure of class 1 in the first column, of class 0 elsewhere."""

        def forward(self, x: torch.Tensor) -> Output:
            logits = torch.zeros(x.shape[0], 2, *x.shape[2:])
            logits[:, 0], logits[:, 1, ..., 0], logits[:, 0, ..., 0] = 100.0, 100.0, 0.0
            return Output((logits,))

    maps = predict_maps(Sided(), scan((4, 4, 4), channels=1), plan_of((4, 4, 4)), device="cpu", mirrored=(0, 1, 2))
    # sure of both at the two ends: a probability of a half there, as only the last axis matters
    expected = torch.tensor([0.5, 0.0, 0.0, 0.5]).expand(4, 4, 4)
    assert torch.allclose(maps[1], expected, atol=1e-6)


def test_softmax_gives_probabilities():
    prepared = scan((20, 9, 9), channels=3)
    maps = predict_maps(Identity(), prepared, plan_of((8, 8, 8)), device="cpu")
    assert torch.allclose(maps.sum(0), torch.ones(20, 9, 9), atol=1e-5)
    assert torch.allclose(maps, prepared.image.softmax(0), atol=1e-5)


def test_model_is_in_evaluation_mode_without_gradients_and_its_modes_come_back():
    model = nn.Sequential(Recording(), nn.Identity())
    model.train()
    model[1].eval()
    recorder = model[0]
    predict_maps(recorder, scan((4, 4, 4)), plan_of((4, 4, 4)), device="cpu", activation="none")
    assert recorder.seen[0][1:] == (False, True)
    assert recorder.training
    predict_maps(First(model), scan((4, 4, 4)), plan_of((4, 4, 4)), device="cpu", activation="none")
    assert model.training and recorder.training and not model[1].training


class First(nn.Module):
    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Output:
        return self.inner[0](x)


def test_bf16_runs_the_network_in_bfloat16_and_returns_float32():
    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv3d(2, 3, 3, padding=1)
            self.types: list[torch.dtype] = []

        def forward(self, x: torch.Tensor) -> Output:
            y = self.layer(x)
            self.types.append(y.dtype)
            return Output((y,))

    model, prepared = Convolution(), scan((8, 8, 8))
    full = predict_maps(model, prepared, plan_of((8, 8, 8)), device="cpu")
    half = predict_maps(model, prepared, plan_of((8, 8, 8)), device="cpu", precision="bf16")
    assert model.types == [torch.float32, torch.bfloat16]
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().max() < 0.02


def test_window_of_the_wrong_dimension_is_an_error():
    with pytest.raises(GeometryError, match="does not fit 3 spatial dimensions"):
        predict_maps(Identity(), scan((4, 4, 4)), plan_of((4, 4, 4)), device="cpu", patch=(4, 4))


class OneOf(nn.Module):
    """Answers with the channels of one of the slices that it sees."""

    def __init__(self, slices: int, place: int) -> None:
        super().__init__()
        self.slices, self.place = slices, place

    def forward(self, x: torch.Tensor) -> Output:
        return Output((x.chunk(self.slices, dim=1)[self.place],))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_network_of_several_slices_sees_the_neighbours_in_their_order(axis):
    case = scan((5, 6, 7))
    plan = plan_of((8, 8), axis)
    plan = plan.model_copy(update={"space": plan.space.model_copy(update={"slices": 3, "channels": ("a", "b")})})
    assert plan.space.inputs == ("a -1", "b -1", "a", "b", "a +1", "b +1")
    for place, shift in ((0, 1), (1, 0), (2, -1)):
        made = predict_maps(OneOf(3, place), case, plan, device="cpu", activation="none")
        expected = torch.roll(case.image, shift, dims=1 + axis)
        if shift:
            expected.select(1 + axis, 0 if shift > 0 else -1).zero_()
        assert torch.equal(made, expected)
