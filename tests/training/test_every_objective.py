"""Whatever is learnt: a training that dies between two checkpoints and is resumed ends in the same bits, in 2D and 3D."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from rich.console import Console

from medae.models.networks import Network, NetworkConfig, build_network
from medae.objectives.registry import ObjectiveConfig, build_objective
from medae.preprocessing.batch import Batch
from medae.seeding import numpy_generator
from medae.training.config import FitConfig
from medae.training.loop import fit

OBJECTIVES: dict[str, dict[str, Any]] = {
    "reconstruction": {"kind": "reconstruction", "ssim": 0.5},
    "variational": {"kind": "variational"},
    "coarse noise": {"kind": "denoising"},
    "white and coarse noise": {"kind": "denoising", "noise": "both", "sigma": [0.2, 0.6]},
    "masked": {"kind": "masked"},
    "sparse": {"kind": "masked", "sparse": True},
    "restoration": {"kind": "restoration"},
    "lesions": {"kind": "lesions", "shape": {"radius": [1, 4]}},
    "segmentation": {"kind": "segmentation"},
}
PARTS = ("sparse", "restoration", "white and coarse noise", "reconstruction", "variational")
OBJECTIVES["combined"] = {
    "kind": "combined",
    "parts": [{"weight": 0.5, "objective": OBJECTIVES[name]} for name in PARTS],
}
OBJECTIVES["adversarial"] = {"kind": "adversarial", "of": {"kind": "variational"}, "discriminator": {"widths": [4, 4]}}
NETWORK_FOR = {"variational": "vae", "adversarial": "vae", "combined": "vae", "segmentation": "unet"}
SIZES = {2: (16, 12), 3: (12, 8, 8)}


class Killed(Exception):
    """What ends the training at once."""


class Source:
    """Smooth random images with a label, a pure function of the step; dies before step ``last``."""

    batch_size = 2

    def __init__(self, dims: int, last: int | None = None) -> None:
        self.dims, self.last = dims, last

    def batch(self, step: int) -> Batch:
        size = SIZES[self.dims]
        coarse = numpy_generator(1, "scan", step).standard_normal((2, 1, *(n // 4 for n in size))).astype(np.float32)
        image = torch.from_numpy(coarse)
        for axis in range(self.dims):
            image = image.repeat_interleave(4, axis + 2)
        mask = image > -1
        return Batch(image, torch.ones(2, 1, dtype=torch.bool), mask, {"label": (image > 0).long()})

    def batches(self, start: int, stop: int, process: int = 0, processes: int = 1, workers: int = 0) -> Iterator[Batch]:
        for step in range(start, stop):
            if step == self.last:
                raise Killed
            yield self.batch(step)


class Silent:
    """A tracker that keeps nothing."""

    run_id = "run"

    def metrics(self, values: Any, step: int) -> None:
        pass


def train(folder: Path, dims: int, name: str, last: int | None = None, seed: int = 0) -> Network:
    kind = NETWORK_FOR.get(name, "autoencoder")
    levels = {"widths": [4, 6], "strides": [[1] * dims, [2] * dims], "kernels": [[3] * dims] * 2}
    content: dict[str, Any] = {"kind": kind, "encoder": {"spatial_dims": dims, "dropout": 0.2, **levels}}
    if kind == "unet":
        content["classes"] = 2
    if name == "lesions":
        content["lesion_head"] = True
    torch.manual_seed(0)
    network = build_network(TypeAdapter(NetworkConfig).validate_python(content))
    objective = build_objective(TypeAdapter(ObjectiveConfig).validate_python(OBJECTIVES[name]), network.config)
    fit(
        network,
        objective,
        Source(dims, last),
        FitConfig(steps=7, epoch_steps=3, rate=1e-2, ema=0.5, seed=seed),
        folder=folder,
        tracker=Silent(),
        resume=True,
        cpu=True,
        console=Console(file=io.StringIO()),
    )
    return network


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_killed_and_resumed_ends_in_the_same_bits(tmp_path: Path, name: str, dims: int):
    for folder in ("whole", "broken", "other"):
        (tmp_path / folder).mkdir()
    whole = train(tmp_path / "whole", dims, name).state_dict()
    with pytest.raises(Killed):
        train(tmp_path / "broken", dims, name, last=5)
    resumed = train(tmp_path / "broken", dims, name).state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    other = train(tmp_path / "other", dims, name, seed=1).state_dict()
    assert any(not torch.equal(value, other[key]) for key, value in whole.items()), "the seed matters"
