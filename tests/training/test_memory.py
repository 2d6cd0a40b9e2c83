"""The memory of a training step: counted by hand where that can be done, and against a real step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from medae.models.autoencoder import AutoencoderConfig
from medae.models.encoder import EncoderConfig
from medae.models.unet import UNetConfig
from medae.objectives.masked import MaskedConfig
from medae.objectives.restoration import RestorationConfig
from medae.objectives.segmentation import SegmentationConfig
from medae.planning.memory import WORK_SPACE
from medae.training.config import FitConfig
from medae.training.memory import peak_bytes, step_memory

ROOT = Path(__file__).resolve().parents[2]


def encoder(widths=(2, 3), **changes) -> EncoderConfig:
    strides = ((1, 1), *((2, 2),) * (len(widths) - 1))
    shape = {"spatial_dims": 2, "widths": widths, "strides": strides, "kernels": ((3, 3),) * len(widths), "norm": "none"}
    return EncoderConfig(**(shape | changes))


def fit(**changes) -> FitConfig:
    return FitConfig(steps=1, **{"precision": "fp32", **changes})


def test_tensors_count_from_when_they_are_made_to_when_they_are_let_go():
    def step():
        a = torch.ones(100)  # 400 bytes
        b = a * 2  # 800
        b += 1  # in place
        del a  # 400
        c = b.view(10, 10)[:, :5]  # a view
        return torch.cat([c, c])  # 800

    assert peak_bytes(step) == 800


def test_what_is_saved_for_the_backward_pass_is_held():
    weight = torch.ones(1000, requires_grad=True)  # made before: not counted

    def forward():
        x = torch.ones(1000)  # saved by the product, 4000 bytes
        return (weight * x).exp()  # the product is let go when its exponential (saved) is there: 4000 each

    assert peak_bytes(forward) == 12_000
    with torch.no_grad():
        assert peak_bytes(lambda: (weight * 2).exp().exp()) == 8_000


def test_a_convolution_copies_what_does_not_lie_as_its_weights_do():
    first, last = torch.contiguous_format, torch.channels_last
    image, weight = torch.ones(1, 20, 8, 8), torch.ones(4, 20, 3, 3)

    def peak(image_layout, weight_layout) -> int:
        x, w = image.contiguous(memory_format=image_layout), weight.contiguous(memory_format=weight_layout)
        return peak_bytes(lambda: functional.conv2d(x, w, padding=1)) // (4 * 64)

    assert peak(last, last) == 4, "the result"
    assert peak(first, last) == 4 + 20, "and a copy of the image"
    assert peak(first, first) == 4 + 32 + 16, "and both in blocks of 16 channels"


def test_the_backward_pass_of_a_convolution_copies_the_gradient_too():
    image = torch.ones(1, 20, 8, 8, requires_grad=True)
    weight = torch.ones(4, 20, 3, 3).contiguous(memory_format=torch.channels_last)
    made = functional.conv2d(image, weight, padding=1)  # channels last, as the weights
    gradient = torch.ones(1, 4, 8, 8)

    def backward():
        return torch.autograd.grad(made, image, gradient)

    assert peak_bytes(backward) // (4 * 64) == 20 + 20 + 4, "the result, copies of the image and of the gradient"


def test_a_first_convolution_makes_no_gradient_of_its_image_and_copies_none():
    weight = torch.ones(4, 20, 3, 3, requires_grad=True)
    made = functional.conv2d(torch.ones(1, 20, 8, 8), weight, padding=1)
    gradient = torch.ones(1, 4, 8, 8)
    of_weights = 4 * 20 * 9 / 64
    assert peak_bytes(lambda: torch.autograd.grad(made, weight, gradient)) / (4 * 64) == of_weights + 16 + 32


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_and_grouped_convolutions_are_counted_in_any_dimension(dims):
    up = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}[dims]
    image = torch.ones(1, 4, *(2,) * dims, requires_grad=True)
    weight = torch.ones(4, 3, *(2,) * dims, requires_grad=True)

    def step():
        made = up(image, weight, stride=2)
        return torch.autograd.grad(made.sum(), (image, weight))

    voxels = 2**dims
    assert peak_bytes(step) >= 4 * voxels * (3 * 2**dims + 4), "the result and the image's gradient"


def test_weights_and_states_of_a_small_network():
    unet = UNetConfig(encoder=encoder(), classes=2)
    # encoder 1x2x9 + 2 and 2x3x9 + 3; way up 3x2 + 2; decoder 4x2x9 + 2; head 2x2 + 2
    weights = 4 * (20 + 57 + 8 + 74 + 6)
    memory = step_memory(unet, SegmentationConfig(), (8, 8), 1, fit())
    assert memory.weights == weights
    assert memory.states == 2 * weights
    assert step_memory(unet, SegmentationConfig(), (8, 8), 1, fit(ema=0.9)).states == 3 * weights
    assert step_memory(unet, SegmentationConfig(), (8, 8), 1, fit(optimiser="sgd")).states == weights
    assert memory.total == memory.weights + memory.states + memory.working


def test_activations_of_a_small_network():
    unet = UNetConfig(encoder=encoder(widths=(8, 8)), classes=2)
    voxels = 64 * 64
    # kept for the backward pass, float32: the image, a map of 8 channels at full size, one at a quarter of it, the upsampled
    # and the first joined, what is made of them, two logits; int64 labels
    least = voxels * 4 * (1 + 8 + 2 + 16 + 8 + 2) + voxels * 8
    working = step_memory(unet, SegmentationConfig(), (64, 64), 1, fit()).working
    copied = voxels * 4 * 16  # what is joined lies channels first after the norm, and the weights want it last
    assert least <= working - copied <= 1.6 * least  # and what lives for a moment only


@pytest.mark.parametrize("objective", [SegmentationConfig(), MaskedConfig(), RestorationConfig()])
def test_working_memory_goes_with_the_batch_and_the_precision(objective):
    kind = UNetConfig if objective.kind == "segmentation" else AutoencoderConfig
    extra = {"classes": 2} if kind is UNetConfig else {}
    network = kind(encoder=encoder(widths=(16, 32, 64)), **extra)
    one, four = (step_memory(network, objective, (128, 128), samples, fit()).working for samples in (1, 4))
    assert 3.5 < four / one < 4.0
    half = step_memory(network, objective, (128, 128), 4, fit(precision="bf16")).working
    assert 0.45 < half / four < 0.75
    assert step_memory(network, objective, (128, 128), 4, fit(precision="auto")).working == four


def test_nothing_is_computed_and_nothing_of_that_size_is_made():
    network = UNetConfig(encoder=encoder(widths=(64, 128, 256)), classes=2)
    state = torch.random.get_rng_state()
    memory = step_memory(network, SegmentationConfig(), (8192, 8192), 64, fit())
    assert memory.total > 2**40, "a tebibyte, which no machine here has"
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_patch_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="single voxel at the coarsest level"):
        step_memory(UNetConfig(encoder=encoder(norm="instance"), classes=2), SegmentationConfig(), (2, 2), 1, fit())


def test_a_real_step_takes_what_was_estimated_and_some_work_space():
    program = ROOT / "benchmarks" / "plan_memory.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, program, "--cell", "2d-128-unet"]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    row = json.loads(run.stdout.splitlines()[-1])
    assert 0.9 * row["estimated"] <= row["measured"] <= row["estimated"] + WORK_SPACE
