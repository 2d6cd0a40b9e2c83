"""What a training step of a stage takes, for the rules that make a plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from medae.augmentation.augment import Augmentation, AugmentationConfig
from medae.errors import ConfigError
from medae.objectives.registry import ObjectiveConfig
from medae.objectives.segmentation import SegmentationConfig
from medae.plan import Plan
from medae.planning.facts import Fingerprint
from medae.planning.memory import Estimator
from medae.training.config import FitConfig
from medae.training.memory import step_memory
from medae.training.precision import Precision
from pipelines.networks import NetworkChoice, network_config

GIB = 2**30
FEATURES_BYTES = 40
"""A channel's voxel at full resolution, ten times over in fp32: a training step takes more than that."""


def estimator_of(
    network: NetworkChoice,
    objective: ObjectiveConfig,
    fit: FitConfig,
    augmentation: AugmentationConfig,
    classes: int | None = None,
    beside: Callable[[int], int] | None = None,
) -> Estimator:
    """The estimate for a stage's own network, objective and optimisation.

    augmentation: its margin is read around each patch. classes: of a segmenter, background included. beside: from the
    samples of a step to those of a second stream that goes through the network in the same step; they count as if they
    were labelled.
    """

    def size(plan: Plan) -> int:
        config = network_config(network, plan, classes)
        samples = plan.sampling.batch + (beside(plan.sampling.batch) if beside else 0)
        step = step_memory(config, objective, plan.sampling.patch, samples, fit).total
        return step + samples * margin_bytes(plan, augmentation, config.encoder.in_channels, labels=classes is not None)

    precision = "fp32" if fit.precision == "auto" else fit.precision
    labels = "" if classes is None else f" for {classes} classes"
    return Estimator(size, f"a training step of the {network['kind']}{labels} ({precision}, {fit.optimiser})")


def refuse_beyond_memory(plan: Plan, estimator: Estimator, device: torch.device) -> None:
    """Raises ConfigError if a training step cannot fit into the memory of the device: the system would kill the process.

    Estimated, which takes a second, only where a few feature maps at full resolution alone take a quarter of it.
    """
    there = _memory_of(device)
    voxels = math.prod(plan.sampling.patch) * plan.sampling.batch
    if voxels * plan.network.widths[0] * FEATURES_BYTES < there / 4 or (needed := estimator.bytes(plan)) <= there:
        return
    patches = f"{plan.sampling.batch} patches of {'x'.join(map(str, plan.sampling.patch))}"
    whose = "this machine" if device.type == "cpu" else "the accelerator"
    raise ConfigError(
        f"With {patches}, {estimator.subject} is estimated at {needed / GIB:.0f} GiB; {whose} has {there / GIB:.0f}.",
        where="plan.patch, plan.batch",
        remedy=f"Lower them, or leave plan.patch out and say plan.memory: {max(1, int(0.7 * there / GIB))}G: both are made "
        "to fit.",
    )


def _memory_of(device: torch.device) -> int:
    """Bytes of the device, in use or not; of a container or a job no more than it may have."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return min([int(psutil.virtual_memory().total), *_limits()])


def _limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes that control groups of Linux (of Docker, of Slurm) leave to this process, in both of their versions."""
    lines = own.read_text().splitlines() if own.is_file() else []
    places = [root, root / "memory"]
    for _, kinds, path in (line.split(":", 2) for line in lines):
        if kinds in ("", "memory"):
            places.append(root / kinds / path.lstrip("/"))
    files = [place / name for place in places for name in ("memory.max", "memory.limit_in_bytes")]
    texts = [file.read_text().strip() for file in files if file.is_file()]
    return [int(text) for text in texts if text.isdecimal()]


def default_estimator(found: Fingerprint, precision: Precision = "fp32") -> Estimator:
    """For a plan without a stage: a U-Net for the labels of the first label map, or for one if there is none."""
    labels = max((len(structures) for structures in list(found.labels.values())[:1]), default=0)
    fit = FitConfig(steps=1, precision=precision)
    return estimator_of({"kind": "unet"}, SegmentationConfig(), fit, AugmentationConfig(), classes=max(labels, 1) + 1)


def margin_bytes(plan: Plan, augmentation: AugmentationConfig, channels: int, *, labels: bool) -> int:
    """What a sample takes beyond its patch as it is read: image (float32), mask, and the label map (int64) if there is one.

    The batch as it was read may be held through the step.
    """
    patch, margin = plan.sampling.patch, Augmentation.of_plan(augmentation, plan).margin
    beyond = math.prod(size + 2 * more for size, more in zip(patch, margin, strict=True)) - math.prod(patch)
    return beyond * (4 * channels + 1 + 8 * labels)
