"""The mean of probabilities, and the disagreement of networks, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from medae.inference.combine import Segmenter, segment
from medae.models.output import Output
from medae.plan import NetworkPlan, Plan, SamplingPlan, SpacePlan
from medae.preprocessing.prepare import Prepared
from medae.volume import NativeGrid

CPU = torch.device("cpu")


class Says(nn.Module):
    """The same probabilities everywhere."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = torch.log(torch.tensor(probabilities))

    def forward(self, x: torch.Tensor) -> Output:
        return Output((self.logits.view(1, -1, 1, 1, 1).expand(len(x), -1, *x.shape[2:]),))


def plan_of(spacing: float = 1.0) -> Plan:
    ones = ((1, 1, 1),)
    return Plan(
        space=SpacePlan(spacing=(spacing,) * 3),
        network=NetworkPlan(widths=(2,), strides=ones, kernels=ones),
        sampling=SamplingPlan(patch=(8, 8, 8)),
    )


def scan(spacing: float = 1.0, crop=None) -> Prepared:
    size = 4 if spacing == 2.0 else 8
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (spacing - 1) / 2
    native = NativeGrid(shape=(8, 8, 8), affine=tuple(map(tuple, np.eye(4).tolist())), crop=crop)
    ones = torch.ones(1, size, size, size)
    return Prepared("scan", ones, torch.ones(1, dtype=torch.bool), ones > 0, {}, native, affine)


def of(*rows: tuple[float, ...]) -> list[Segmenter]:
    return [Segmenter(Says(*row), plan_of(), CPU) for row in rows]


def test_one_network_alone():
    found = segment(of((0.2, 0.8)), [scan()])
    assert found.labels.shape == (8, 8, 8) and (found.labels == 1).all() and found.labels.dtype == np.int16
    assert found.disagreement is None and (found.on_plan == 1).all()


def test_the_mean_decides_and_the_mutual_information_is_the_disagreement():
    one = scan()
    found = segment(of((0.9, 0.1), (0.3, 0.7), (0.4, 0.6)), [one, one, one])
    assert (found.labels == 0).all(), "0.533 to 0.467, although two of three say 1"

    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    by_hand = (entropy(1.6 / 3) - (entropy(0.9) + entropy(0.3) + entropy(0.4)) / 3) / math.log(2)
    assert found.disagreement == pytest.approx(np.full((8, 8, 8), by_hand), abs=1e-5)


@pytest.mark.parametrize(("rows", "expected"), [(((0.5, 0.5), (0.5, 0.5)), 0.0), (((1.0, 0.0), (0.0, 1.0)), 1.0)])
def test_the_ends_of_the_scale(rows, expected):
    one = scan()
    assert segment(of(*rows), [one, one]).disagreement == pytest.approx(np.full((8, 8, 8), expected), abs=1e-5)


def test_networks_of_different_spaces_meet_on_the_voxels_of_the_file():
    fine, coarse = scan(), scan(2.0)
    pair = [Segmenter(Says(0.9, 0.1), plan_of(), CPU), Segmenter(Says(0.0, 1.0), plan_of(2.0), CPU)]
    found = segment(pair, [fine, coarse])
    assert found.on_plan is None and (found.labels == 1).all() and found.labels.shape == (8, 8, 8)


def test_outside_the_crop_there_is_background():
    cropped = scan(crop=((0, 8), (0, 8), (0, 4)))
    half = Prepared("scan", cropped.image[..., :4], cropped.present, cropped.mask[..., :4], {}, cropped.native, np.eye(4))
    pair = [Segmenter(Says(0.4, 0.6), plan_of(), CPU), Segmenter(Says(0.4, 0.6), plan_of(), CPU)]
    apart = segment(pair, [half, scan()])
    assert (apart.labels[..., :4] == 1).all() and (apart.labels[..., 4:] == 0).all(), "0.7 for background there"


def test_the_confidence_is_the_mean_probability_of_the_label():
    one = scan()
    found = segment(of((0.9, 0.1), (0.3, 0.7)), [one, one], confidence=True)
    assert found.confidence == pytest.approx(np.full((8, 8, 8), 0.6), abs=1e-5)
    assert segment(of((0.9, 0.1)), [one]).confidence is None
    pair = [Segmenter(Says(0.9, 0.1), plan_of(), CPU), Segmenter(Says(0.0, 1.0), plan_of(2.0), CPU)]
    assert segment(pair, [one, scan(2.0)], confidence=True).confidence == pytest.approx(np.full((8, 8, 8), 0.55), abs=1e-5)
    cropped = scan(crop=((0, 8), (0, 8), (0, 4)))
    half = Prepared("scan", cropped.image[..., :4], cropped.present, cropped.mask[..., :4], {}, cropped.native, np.eye(4))
    outside = segment(of((0.4, 0.6)), [half], confidence=True).confidence
    assert (outside[..., 4:] == 1).all() and outside[..., :4] == pytest.approx(np.full((8, 8, 4), 0.6), abs=1e-5)
