"""Probes: a function of the encoder's weights that is high where features tell the label, and low where they do not."""

from __future__ import annotations

import hashlib

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from medae.data.case import Case, ImageRef, Manifest
from medae.models.autoencoder import Autoencoder, AutoencoderConfig
from medae.models.encoder import EncoderConfig, Features
from medae.plan import CTWindow, SpacePlan
from medae.preprocessing.batch import Batch
from medae.preprocessing.sampling import SamplerConfig
from medae.preprocessing.store import build_store
from medae.training.probes.base import dice_of_patches
from medae.training.probes.finetune import FinetuneProbe
from medae.training.probes.linear import (
    LINEAR,
    LinearProbe,
    features_at,
    linear_map,
    logistic_regression,
    voxels_of_each_label,
)
from medae.training.probes.registry import Probe

AS_IS = CTWindow(lower=-1e6, upper=1e6, mean=0.0, std=1.0)
VOLUMES = SpacePlan(spacing=(1.0, 1.0, 1.0), intensity=AS_IS, foreground="all")
SPACES = {3: VOLUMES, 2: VOLUMES.model_copy(update={"spatial_dims": 2, "slice_axis": 2})}
LABELS = {0: "background", 1: "bright", 2: "dark"}
SHAPE = (14, 13, 11)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four noisy scans, a bright and a dark block in each, for volumes and for slices."""
    root = tmp_path_factory.mktemp("scans")
    cases = []
    for number, name in enumerate("abcd"):
        label = np.zeros(SHAPE, np.uint8)
        label[3 : 8 + number % 2, 2:7, 3:9], label[9:13, 7:12, 3:8] = 1, 2
        image = np.random.default_rng(number).normal(size=SHAPE) + np.array([0.0, 8.0, -8.0])[label]
        refs = {}
        for kind, array in (("intensity", image.astype(np.float32)), ("labels", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / f"{name}_{kind}.nii")
            digest = hashlib.sha256(array.tobytes()).hexdigest()
            refs[kind] = ImageRef(files=(f"{name}_{kind}.nii",), sha256=digest, kind=kind)
        cases.append(Case(id=name, subject=name, images={"image": refs["intensity"]}, targets={"label": refs["labels"]}))
    manifest = Manifest(source="test", root=root, channels=("image",), cases=tuple(cases))
    return {dims: build_store(manifest, space, root / "store", ["label"]) for dims, space in SPACES.items()}


def probe_of(config, store, dims):
    drawing = SamplerConfig(patch=(12, 12, 10)[:dims], foreground=0.5)
    return Probe(config, store[dims], ["a", "b"], ["c", "d"], SPACES[dims], drawing, LABELS)


class Telling(nn.Module):
    """Its features are the image, which tells the label, and a coarser one."""

    def __init__(self, telling=True):
        super().__init__()
        self.telling = telling
        self.weight = nn.Parameter(torch.ones(1))
        self.encoder = self.features

    def features(self, image):
        if not self.telling:
            image = torch.randn(image.shape, generator=torch.Generator().manual_seed(int(image.abs().sum() * 1000)))
        pool = functional.avg_pool2d if image.ndim == 4 else functional.avg_pool3d
        return Features((image * self.weight, pool(image, 2)), (None, None), ())


def autoencoder(dims, seed=0):
    torch.manual_seed(seed)
    shape = {"strides": ((1,) * dims, (2,) * dims), "kernels": ((3,) * dims,) * 2}
    return Autoencoder(
        AutoencoderConfig(encoder=EncoderConfig(spatial_dims=dims, widths=(4, 8), norm="batch", **shape))
    ).eval()


@pytest.mark.parametrize("dims", [2, 3])
def test_features_that_tell_the_label_score_high_and_noise_scores_at_chance(store, dims):
    probe = probe_of(LinearProbe(patches=4, voxels=400), store, dims)
    telling, noise = probe(Telling()), probe(Telling(telling=False))
    assert telling["dice"] > 0.97
    assert min(telling["dice/bright"], telling["dice/dark"]) > 0.95
    assert noise["dice"] < 0.1


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("config", [LinearProbe(voxels=200), FinetuneProbe(steps=3, batch=2)])
def test_a_probe_gives_the_same_again_and_leaves_no_trace(store, dims, config):
    probe, network = probe_of(config, store, dims), autoencoder(dims)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(5)
    with torch.no_grad():
        first = probe(network)
        untouched = torch.rand(3)
        second = probe_of(config, store, dims)(network)
    torch.manual_seed(5)
    assert torch.equal(untouched, torch.rand(3)), "the training's random numbers are not used up"
    assert first == second
    assert not network.training and not any(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        assert probe(autoencoder(dims, seed=1)) != first, "another encoder, another value"


@pytest.mark.parametrize("dims", [2, 3])
def test_the_fine_tuning_probe_learns_from_the_labels(store, dims):
    network = autoencoder(dims)
    config = FinetuneProbe(steps=40, rate=2e-2, batch=2)
    with torch.no_grad():
        learnt = probe_of(config, store, dims)(network)["dice"]
        barely = probe_of(config.model_copy(update={"steps": 1, "rate": 1e-6}), store, dims)(network)["dice"]
    assert learnt > 0.8 > barely


def test_the_fine_tuning_probe_starts_from_the_encoder_and_from_the_same_score_layers():
    one, two = (FinetuneProbe()._copy(autoencoder(3, seed), classes=3).state_dict() for seed in (0, 1))
    theirs = autoencoder(3, 0).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in one.items() if name.startswith("encoder."))
    heads = [name for name in one if name.startswith("head.")]
    assert heads and all(torch.equal(one[name], two[name]) for name in heads)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([2, 3]))
def test_features_at_a_voxel_are_those_of_the_enlarged_levels(seed, dims):
    generator = torch.Generator().manual_seed(seed)
    size = tuple(torch.randint(3, 9, (dims,), generator=generator).tolist())
    levels = [torch.randn(1, width, *[-(-n // step) for n in size], generator=generator) for width, step in ((2, 1), (3, 2))]
    features = Features(tuple(levels), (None, None), ())
    enlarged = torch.cat([functional.interpolate(x, size, mode=LINEAR[dims]) for x in levels], dim=1)
    places = torch.stack([torch.randint(0, n, (5,), generator=generator) for n in size], dim=1)
    expected = torch.stack([enlarged[(0, slice(None), *place)] for place in places.tolist()])
    assert torch.allclose(features_at(features, places, size), expected, atol=1e-5)
    matrix, bias = torch.randn(4, 5, generator=generator), torch.randn(4, generator=generator)
    logits = torch.einsum("kc,bc...->bk...", matrix, enlarged) + bias.reshape(1, 4, *[1] * dims)
    assert torch.allclose(linear_map(features, matrix, bias, size), logits, atol=1e-4)


def test_rare_labels_are_seen_and_still_count_by_their_volume():
    truth = torch.zeros(20, 20, dtype=torch.int64)
    truth[:2, :3] = 1
    places, weights = voxels_of_each_label(truth, 100, torch.Generator().manual_seed(0))
    labels = truth[tuple(places.T)]
    assert (labels == 1).sum() == 6 and (labels == 0).sum() == 50
    assert weights[labels == 1].sum() == 6
    assert float(weights[labels == 0].sum()) == pytest.approx(394)
    assert len({tuple(place) for place in places.tolist()}) == len(places)


def test_without_information_the_regression_gives_the_weighted_prior():
    x = torch.zeros(4, 2, dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    matrix, bias = logistic_regression(x, torch.tensor([0, 0, 0, 1]), weights, 2, 1e-3)
    assert bias.softmax(0).tolist() == pytest.approx([0.5, 0.5], abs=1e-5)
    assert not matrix.any()


def test_the_regression_does_not_depend_on_the_scale_of_a_feature():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, dtype=torch.float64, generator=generator)
    answers = (x[:, 0] + 0.5 * x[:, 1] > 0).long()
    scale = torch.tensor([1.0, 100.0, 0.01], dtype=torch.float64)
    plain, scaled = (logistic_regression(y, answers, torch.ones(200).double(), 2, 1e-2) for y in (x, x * scale + 3))
    logits = x @ plain[0].T + plain[1]
    assert torch.allclose(logits, (x * scale + 3) @ scaled[0].T + scaled[1], atol=1e-3)
    assert (logits.argmax(1) == answers).float().mean() > 0.97


def test_dice_counts_the_patches_of_a_case_together():
    truth = {"a": [[1, 1, 0, 0], [1, 0, 0, 0]], "b": [[0, 0, 0, 0], [2, 0, 0, 0]]}
    found = {"a": [[1, 0, 0, 0], [1, 1, 0, 0]], "b": [[0, 0, 0, 0], [0, 0, 0, 0]]}

    def batches():
        for key, rows in truth.items():
            for row, answer in zip(rows, found[key], strict=True):
                image = torch.tensor(answer).reshape(1, 1, 2, 2).float()
                mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
                yield Batch(image, mask[:, :, 0, 0], mask, {"label": torch.tensor(row).reshape(1, 1, 2, 2)}, (key,))

    scores = dice_of_patches(lambda image: image[:, 0].long(), batches(), "label", {0: "back", 1: "one", 2: "two", 3: "no"})
    # case a: label 1 is 3 voxels, 3 are found, 2 of them rightly; case b: label 2 is missed. Case a rightly has no 2, b no 1
    assert scores["dice/one"] == pytest.approx((2 * 2 / 6 + 1) / 2)
    assert scores["dice/two"] == pytest.approx((1 + 0) / 2)
    assert scores["dice/no"] is None
    assert scores["dice"] == pytest.approx((2 / 3 + 1 + 1 + 0) / 4)
