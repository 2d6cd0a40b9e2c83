"""What augmenting a batch costs: medae's, MONAI's dictionary transforms, and batchgeneratorsv2 (nnU-Net's own).

    python benchmarks/augmentation.py                      measure medae and MONAI
    python benchmarks/augmentation.py --other PYTHON       and batchgeneratorsv2, by an interpreter that has it and torch
    python benchmarks/augmentation.py --table              the table of what has been measured, as Markdown

A cell is one library, one shape of batch, one number of threads, and either one transformation that happens to every
sample, or ``strong``: the strong preset for MR with its own probabilities, flips of one half along each axis added. All
get the same batches in memory, the same probabilities, one channel, a label map, and no margin, and the same ranges
where they mean the same. Parameters of their own have MONAI's 3D elastic deformation and its bias field, and
batchgeneratorsv2's elastic deformation and its brightness, which is a factor in the place of a shift; it has no bias
field. Nothing else of loading is counted. The peers are called a sample at a time, as they are made to be, in the
process that waits: their usual place is a loading process beside the training. MONAI's metadata are switched off, which
is faster. A run is the mean over a cell's batches, after one that does not count. A line is added to
``results/augmentation.jsonl`` for each run. There is no GPU figure: none was at hand.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from platform import machine, python_version
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results" / "augmentation.jsonl"
SHAPES = {
    "2x64x64x64": (2, 64, 64, 64),
    "2x96x96x96": (2, 96, 96, 96),
    "8x40x56x40": (8, 40, 56, 40),
    "16x192x192": (16, 192, 192),
}
SINGLE = ("2x64x64x64", "16x192x192")
"""Shapes for which each transformation is timed alone, on one thread."""

PARTS = (
    *("flip", "rotation", "scale", "elastic", "bias_field", "blur", "low_resolution", "gamma", "inverted_gamma"),
    *("contrast", "brightness", "noise"),
)
SYSTEMS = ("medae", "monai", "batchgeneratorsv2")
RUNS, BATCHES = 5, {"strong": 6}
Augment = Callable[[torch.Tensor, torch.Tensor, int], object]


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", help="interpreter that has batchgeneratorsv2")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    parser.add_argument("--measure", nargs=2, metavar=("SYSTEM", "THREADS"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.table:
        print(table())
    elif chosen.measure:
        for line in measured(chosen.measure[0], int(chosen.measure[1])):
            print(json.dumps(line), flush=True)
    else:
        for system in SYSTEMS if chosen.other else SYSTEMS[:2]:
            for threads in (1, 2):
                python = chosen.other if system == "batchgeneratorsv2" else sys.executable
                environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
                command = [python, __file__, "--measure", system, str(threads)]
                found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(found.stdout)
                print(system, threads, len(found.stdout.splitlines()), "runs", flush=True)


def measured(system: str, threads: int) -> Iterator[dict[str, Any]]:
    """The runs of all cells of a library."""
    torch.set_num_threads(threads)
    for name, shape in SHAPES.items():
        image = torch.randn(shape[0], 1, *shape[1:], generator=torch.Generator().manual_seed(0))
        labels = (image > 1).long()
        parts = PARTS if name in SINGLE and threads == 1 else ()
        for part in (*parts, "strong"):
            augment = BUILD[system](part, shape[1:])
            if augment is None:
                continue
            batches = BATCHES.get(part, 1)
            augment(image, labels, 0)
            for run in range(RUNS):
                start, busy = time.perf_counter(), time.process_time()
                for step in range(batches):
                    augment(image, labels, 1 + run * batches + step)
                seconds, busy = (time.perf_counter() - start) / batches, (time.process_time() - busy) / batches
                yield {
                    "system": system,
                    "part": part,
                    "batch": name,
                    "threads": threads,
                    "seconds": round(seconds, 5),
                    "cpu_seconds": round(busy, 5),
                    "batches": batches,
                    "version": _version(system),
                    "torch": torch.__version__,
                    "python": python_version(),
                    "machine": machine(),
                    "cores": os.cpu_count(),
                    "load": round(os.getloadavg()[0], 2),
                }


def _version(system: str) -> str:
    from importlib.metadata import version

    return version(system)


def _medae(part: str, shape: tuple[int, ...]) -> Augment:
    from medae.augmentation.augment import Augmentation, AugmentationConfig
    from medae.augmentation.presets import STRONG_MR
    from medae.config import to_dict
    from medae.preprocessing.batch import Batch
    from medae.seeding import Draw

    dims = len(shape)
    if part == "strong":
        config = AugmentationConfig(preset="strong", margin=0, flip=(0.5,) * dims)
    elif part == "flip":
        config = AugmentationConfig(preset="none", flip=(1.0,) * dims)
    else:
        own = to_dict(getattr(STRONG_MR, part)) | {"probability": 1.0}
        config = AugmentationConfig.model_validate({"preset": "none", part: own})
    augmentation = Augmentation(config, dims, patch=shape)

    def augment(image: torch.Tensor, labels: torch.Tensor, step: int) -> object:
        mask = torch.ones_like(labels, dtype=torch.bool)
        batch = Batch(image, torch.ones(len(image), 1, dtype=torch.bool), mask, {"label": labels})
        return augmentation(batch, Draw(0, step))

    return augment


def _monai(part: str, shape: tuple[int, ...]) -> Augment:
    from monai import transforms as t
    from monai.data import set_track_meta

    set_track_meta(False)
    dims, both, image = len(shape), ["image", "label"], ["image"]
    modes = {"mode": ["bilinear", "nearest"], "padding_mode": "zeros"}
    turn = [math.radians(30)] * (3 if dims == 3 else 1)
    stretch = [(-0.3, 0.4)] + [(0.0, 0.0)] * (dims - 1)

    def elastic(p: float) -> t.Transform:
        if dims == 2:
            return t.Rand2DElasticd(both, spacing=(20, 20), magnitude_range=(0, 4), prob=p, **modes)
        return t.Rand3DElasticd(both, sigma_range=(6, 8), magnitude_range=(50, 100), prob=p, **modes)

    build: dict[str, Callable[[float], Any]] = {
        "flip": lambda p: t.Compose([t.RandFlipd(both, prob=p, spatial_axis=axis) for axis in range(dims)]),
        "rotation": lambda p: t.RandAffined(both, prob=p, rotate_range=turn, **modes),
        "scale": lambda p: t.RandAffined(both, prob=p, scale_range=stretch, **modes),
        "elastic": elastic,
        "bias_field": lambda p: t.RandBiasFieldd(image, prob=p),
        "blur": lambda p: t.RandGaussianSmoothd(image, (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=p),
        "low_resolution": lambda p: t.RandSimulateLowResolutiond(
            image, prob=p, zoom_range=(0.5, 1.0), upsample_mode="trilinear" if dims == 3 else "bilinear"
        ),
        "gamma": lambda p: t.RandAdjustContrastd(image, prob=p, gamma=(0.7, 1.5), retain_stats=True),
        "inverted_gamma": lambda p: t.RandAdjustContrastd(
            image, prob=p, gamma=(0.7, 1.5), retain_stats=True, invert_image=True
        ),
        "contrast": lambda p: t.RandScaleIntensityFixedMeand(image, factors=0.3, preserve_range=True, prob=p),
        "brightness": lambda p: t.RandShiftIntensityd(image, offsets=0.3, prob=p),
        "noise": lambda p: t.RandGaussianNoised(image, prob=p, std=0.3),
    }
    chosen = _probabilities() if part == "strong" else {part: 1.0}
    if part == "strong":  # one resampling for both, which MONAI can do; it happens as often as either
        either = 1 - (1 - chosen.pop("rotation")) * (1 - chosen.pop("scale"))
        first = [t.RandAffined(both, prob=either, rotate_range=turn, scale_range=stretch, **modes)]
    compose = t.Compose([*(first if part == "strong" else []), *(build[name](p) for name, p in chosen.items())])
    compose.set_random_state(0)

    def augment(images: torch.Tensor, labels: torch.Tensor, _step: int) -> object:
        done = [compose({"image": image, "label": label}) for image, label in zip(images, labels, strict=True)]
        return torch.stack([one["image"] for one in done]), torch.stack([one["label"] for one in done])

    return augment


def _batchgeneratorsv2(part: str, shape: tuple[int, ...]) -> Augment | None:
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    turn = math.radians(30)

    def spatial(rotation: float = 0, scale: float = 0, elastic: float = 0) -> Any:
        return SpatialTransform(
            shape,
            patch_center_dist_from_border=0,
            random_crop=False,
            p_elastic_deform=elastic,
            p_rotation=rotation,
            rotation=(-turn, turn),
            p_scaling=scale,
            scaling=(0.7, 1.4),
            p_synchronize_scaling_across_axes=1,
            mode_seg="nearest",
        )

    gamma = {"gamma": (0.7, 1.5), "synchronize_channels": False, "p_per_channel": 1, "p_retain_stats": 1}
    build: dict[str, Any] = {
        "blur": GaussianBlurTransform((0.5, 1.0), synchronize_channels=False, synchronize_axes=True, p_per_channel=1),
        "low_resolution": SimulateLowResolutionTransform(
            (0.5, 1.0), synchronize_channels=False, synchronize_axes=True, ignore_axes=()
        ),
        "gamma": GammaTransform(p_invert_image=0, **gamma),
        "inverted_gamma": GammaTransform(p_invert_image=1, **gamma),
        "contrast": ContrastTransform((0.7, 1.3), preserve_range=True, synchronize_channels=False),
        "brightness": MultiplicativeBrightnessTransform((0.7, 1.3), synchronize_channels=False),
        "noise": GaussianNoiseTransform((0, 0.09)),
    }
    mirror = MirrorTransform(allowed_axes=tuple(range(len(shape))))
    chosen = _probabilities() if part == "strong" else {part: 1.0}
    transforms = [RandomTransform(build[name], p) for name, p in chosen.items() if name in build]
    if moves := {name: chosen[name] for name in ("rotation", "scale", "elastic") if name in chosen}:
        transforms.insert(0, spatial(**moves))
    if "flip" in chosen:
        transforms.append(mirror)
    if not transforms:
        return None
    compose = ComposeTransforms(transforms)

    def augment(images: torch.Tensor, labels: torch.Tensor, _step: int) -> object:
        done = [compose(image=i.clone(), segmentation=s.clone()) for i, s in zip(images, labels, strict=True)]
        return torch.stack([one["image"] for one in done]), torch.stack([one["segmentation"] for one in done])

    return augment


def _probabilities() -> dict[str, float]:
    from medae.augmentation.presets import STRONG_MR

    return {"flip": 0.5} | {name: getattr(STRONG_MR, name).probability for name in PARTS if name != "flip"}


BUILD: dict[str, Callable[[str, tuple[int, ...]], Augment | None]] = {
    "medae": _medae,
    "monai": _monai,
    "batchgeneratorsv2": _batchgeneratorsv2,
}


def table() -> str:
    """Milliseconds a batch: median and range of the runs."""
    runs: dict[tuple[str, str, int], dict[str, list[float]]] = {}
    if not RESULTS.is_file():
        return f"Nothing has been measured yet: there is no {RESULTS}."
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        cell = json.loads(line)
        key = (cell["part"], cell["batch"], cell["threads"])
        runs.setdefault(key, {}).setdefault(cell["system"], []).append(1000 * cell["seconds"])
    rows = ["| what | batch | threads | medae | MONAI | batchgeneratorsv2 |", "|---|---|---|---|---|---|"]
    for part, batch, threads in sorted(runs, key=lambda key: (key[0] != "strong", key[2], *key[:2])):
        cells = [_cell(runs[part, batch, threads].get(system, [])) for system in SYSTEMS]
        rows.append(f"| {part.replace('_', ' ')} | {batch} | {threads} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})"


if __name__ == "__main__":
    main()
