"""Draws docs/images/pretext.png: what a network sees and makes under each pretext objective, in MR (left) and CT (right).

    MEDAE_DATA=... python benchmarks/pretext_figure.py

Trains a small autoencoder for each objective on training subjects of the shipped ``hippocampus`` and ``lidc`` configurations
(``--steps`` each, some minutes on one core) and shows a patch of a validation subject. The networks are far from
finished: the figure shows what is asked of them, not how good they get.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter
from rich.console import Console

from medae.config import validate
from medae.objectives.registry import ObjectiveConfig, build_objective
from medae.plan import Plan
from medae.preprocessing.sampling import PatchSampler
from medae.report.mosaic import Mosaic, Panel, Row, draw, window
from medae.report.planes import Scene
from medae.training.config import FitConfig
from medae.training.loop import fit
from pipelines import pretrain
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.data import open_dataset, preprocess
from pipelines.networks import network_config, seeded_network
from pipelines.training import example

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "pretext.png"
WIDTH = 700
"""Pixels; noise does not compress, and a page is no wider."""

SCANS = {
    "hippocampus": ["plan.widths=[16, 32, 64]"],
    "lidc": ["plan.widths=[16, 32, 64]", "plan.downsampling=strided", "plan.stem=space_to_depth", "plan.batch=4"],
}
SKIPS = {"decoder": {"skips": "concat"}}
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Plain reconstruction: through a narrow bottleneck": (
        {"kind": "reconstruction"},
        {"bottleneck": {"kind": "spatial", "channels": 8}},
    ),
    "Variational: through a drawn bottleneck": (
        {"kind": "variational", "kl": 0.01},
        {"kind": "vae", "latent": {"kind": "spatial", "channels": 8}},
    ),
    "Denoising: coarse noise": ({"kind": "denoising", "sigma": [1.0, 1.0]}, SKIPS),
    "Denoising: white and coarse noise": ({"kind": "denoising", "noise": "both", "sigma": [0.7, 0.7]}, SKIPS),
    "Masked: hidden blocks are seen as a flat grey": ({"kind": "masked"}, {}),
    "Masked, sparse: hidden blocks are not seen at all": ({"kind": "masked", "sparse": True}, {}),
    "Restoration: intensities, shuffled windows, painted windows": ({"kind": "restoration", "flip": 0.0}, SKIPS),
    "Lesions: drawn ones are to be taken out, and found": ({"kind": "lesions", "share": 1.0}, SKIPS | {"lesion_head": True}),
}


class Silent:
    """A tracker that keeps nothing."""

    run_id = ""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Nobody reads the numbers of these trainings."""


@dataclass(frozen=True)
class Scans:
    """A data set in its plan's space: patches to learn from and to show."""

    config: pretrain.Config
    plan: Plan
    training: PatchSampler
    shown: PatchSampler


def open_scans(name: str) -> Scans:
    """The data of a shipped configuration, with smaller networks."""
    config = validate(pretrain.Config, read_config(name, "pretrain", SCANS[name]), where=name)
    screen = Screen()
    dataset = open_dataset(config, screen)
    training, held = (dataset.subset(subjects) for subjects in (dataset.split.train, dataset.split.validation))
    plan = config.plan.make(training, screen)
    store = preprocess(dataset.subset([*dataset.split.train, *dataset.split.validation]), plan.space, (), screen)
    samplers = (
        PatchSampler(store, [case.id for case in part.cases], plan.space, config.drawing.sampler(plan), config.fit.seed)
        for part in (training, held)
    )
    return Scans(config, plan, *samplers)


def panels(scans: Scans, goal: dict[str, Any], network: dict[str, Any], steps: int) -> list[Panel]:
    """Train, and show one patch: the scan, what the network saw, what it made."""
    choice = {"kind": "autoencoder", "encoder": {"block": "residual"}} | network
    built = network_config(choice, scans.plan)
    model = seeded_network(built, seed=0)
    objective = build_objective(TypeAdapter(ObjectiveConfig).validate_python(goal), built)
    settings = FitConfig(steps=steps, rate=3e-3, schedule={"kind": "cosine", "warmup": 20})
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model,
            objective,
            scans.training,
            settings,
            folder=Path(folder),
            tracker=Silent(),
            console=Console(file=io.StringIO()),
        )
    found = example(scans.shown, objective, model, seed=0)
    images = [found["input"][0, 0], found.get("corrupted", found["input"])[0, 0], found["output"][0, 0]]
    spacing = [step or 1.0 for step in scans.plan.space.spacing]
    cut = Scene(np.diag([*spacing, 1.0])).cut(2, images[0].shape[2] // 2)
    slices = [cut.of(image) for image in images]
    limits = window(slices[0])
    return [Panel(each, limits, cut.size_mm(images[0].shape)) for each in slices]


def main() -> None:
    """Train everything, draw, and make the file small."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="optimisation steps of each network")
    steps = parser.parse_args().steps
    data = [open_scans(name) for name in SCANS]
    rows = []
    for title, (goal, network) in ROWS.items():
        shown = [panel for scans in data for panel in panels(scans, goal, network, steps)]
        rows.append(Row(shown, title=title, detail="" if rows else "each: scan, seen, made"))
        print(title, flush=True)
    note = "Axial slices. Scans: Medical Segmentation Decathlon, Task04, CC BY-SA 4.0; LIDC-IDRI, CC BY 3.0."
    draw(Mosaic(rows, note=note), FIGURE)
    with Image.open(FIGURE) as picture:
        height = round(picture.height * WIDTH / picture.width)
        small = picture.convert("L").resize((WIDTH, height), Image.Resampling.LANCZOS).quantize(64)
    small.save(FIGURE, optimize=True)
    print(f"{FIGURE.name}: {FIGURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
