"""Tiny segmenters and a labelled batch with an unlabelled one beside it, for the tests of semi-supervised objectives."""

from __future__ import annotations

import io

import torch
from encoders import encoder_with
from rich.console import Console

from medae.models.encoder import EncoderConfig
from medae.models.fcn import FCNConfig
from medae.models.networks import build_network
from medae.models.segnet import SegNetConfig
from medae.models.unet import UNetConfig
from medae.objectives.segmentation import SegmentationConfig
from medae.preprocessing.batch import Batch
from medae.seeding import torch_generator
from medae.tracking.base import NullTracker
from medae.training.config import FitConfig
from medae.training.loop import fit

SIZES = {2: (16, 12), 3: (8, 8, 12)}
NETWORKS = {"unet": UNetConfig, "segnet": SegNetConfig, "fcn": FCNConfig}


def network(kind="unet", dims=2, **encoder):
    """A segmenter of two levels and three classes."""
    shape = {"strides": ((1,) * dims, (2,) * dims), "kernels": ((3,) * dims,) * 2}
    downsampling = "maxpool" if kind == "segnet" else "strided"
    config = EncoderConfig(spatial_dims=dims, widths=(4, 6), downsampling=downsampling, **shape, **encoder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_network(NETWORKS[kind](encoder=config, classes=3))


def patches(dims, step, count, purpose):
    """Random images, half of them foreground; labelled by where they are bright."""
    rows = [torch.randn((1, *SIZES[dims]), generator=torch_generator(1, purpose, step, place)) for place in range(count)]
    image = torch.stack(rows)
    mask = torch.ones_like(image, dtype=torch.bool)
    mask[..., -1] = False
    label = (image > 0).long() + (image > 1).long()
    target = {"label": label} if purpose == "labelled" else {}
    return Batch(image, torch.ones(count, 1, dtype=torch.bool), mask, target, ("case",) * count)


class Source:
    """Two labelled and three unlabelled patches a step."""

    batch_size = 2

    def __init__(self, dims, unlabelled=True):
        self.dims, self.unlabelled = dims, unlabelled

    def batch(self, step):
        streams = {"unlabelled": patches(self.dims, step, 3, "unlabelled")} if self.unlabelled else {}
        labelled = patches(self.dims, step, 2, "labelled")
        return Batch(labelled.image, labelled.present, labelled.mask, labelled.target, labelled.keys, streams)

    def batches(self, start, stop, process=0, processes=1, workers=0):
        return (self.batch(step) for step in range(start, stop))


def supervised():
    return SegmentationConfig().build(encoder_with(2, 2))


def train(folder, model, objective, dims, *, steps=4, unlabelled=True, resume=False, **options):
    """``fit`` with a moving average; options go to its configuration, except those of ``fit`` itself."""
    own = {name: options.pop(name) for name in ("augment", "on_epoch") if name in options}
    settings = {"steps": steps, "epoch_steps": 2, "rate": 1e-2, "ema": 0.9, "precision": "fp32", "schedule": {"warmup": 0}}
    return fit(
        model,
        objective,
        Source(dims, unlabelled),
        FitConfig.model_validate(settings | options),
        folder=folder,
        tracker=NullTracker(),
        resume=resume,
        cpu=True,
        console=Console(file=io.StringIO()),
        **own,
    )
