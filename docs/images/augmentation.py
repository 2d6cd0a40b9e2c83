"""Draws ``augmentation.png``: each transformation of the strong preset on real scans, labels outlined.

    python docs/images/augmentation.py DATA

DATA is the folder with the data sets ``hippocampus``, ``ixi_t1`` and ``lidc``. Strengths are those of the strong
preset, the probability is 1, so that it happens; of the first draws the one that changes most is shown.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor

from medae.augmentation.augment import Augmentation, AugmentationConfig
from medae.augmentation.presets import NONE, transforms_of
from medae.config import to_dict
from medae.plan import CTWindow, NetworkPlan, Plan, RobustZ, SamplingPlan, SpacePlan, ZScore
from medae.preprocessing.batch import Batch
from medae.preprocessing.sampling import PatchSampler, SamplerConfig
from medae.preprocessing.store import build_store
from medae.report import canvas
from medae.report.colours import LABELS
from medae.report.figures_augmentation import image_slice, middle_cut, patch_panel
from medae.report.mosaic import Mosaic, Panel, Row, draw, window
from medae.report.planes import CONVENTION
from medae.seeding import Draw
from pipelines.data import open_folder

OUTPUT = Path(__file__).with_suffix(".png")
COLUMNS, WIDTH, DRAWS = 7, 900, 8
GREYS = 36
TARGET = "label"

SETS: dict[str, dict[str, Any]] = {
    "Hippocampus MR, 3D": {
        "folder": "hippocampus",
        "space": SpacePlan(intensity=ZScore(), foreground="all"),
        "patch": (40, 56, 40),
    },
    "Brain T1, 3D, all regions together": {
        "folder": "ixi_t1",
        "merged": True,
        "space": SpacePlan(spacing=(2.0, 2.0, 2.0), intensity=RobustZ(), foreground="head"),
        "patch": (80, 96, 64),
    },
    "Lung nodule CT, 3D, slices of 1.25 mm": {
        "folder": "lidc",
        "format": "folder",
        "keys": {"images": "image", "labels": "nodule_mask", "subject": "^.{14}", "modality": "CT"},
        "space": SpacePlan(spacing=(0.7, 0.7, 1.25), intensity=CTWindow(), foreground="all"),
        "patch": (48, 48, 6),
    },
}


def main(data: Path) -> None:
    """Draw the page and make the file small."""
    rows = [row for title, choice in SETS.items() for row in rows_of(title, data, choice)]
    note = f"Strong preset, of {DRAWS} draws the one that changes most. {CONVENTION} Without marks: may be mirrored."
    with tempfile.TemporaryDirectory() as folder:
        path = draw(Mosaic(rows, note=note), Path(folder) / "page.png")
        with Image.open(path) as page:
            height = round(page.height * WIDTH / page.width)
            small = page.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
            small.quantize(palette=_palette(), dither=Image.Dither.NONE).save(OUTPUT, optimize=True)


def _palette() -> Image.Image:
    """Greys and the colours of two labels, pure and half covered: a palette of the picture's own would lose these."""
    greys = [(level, level, level) for level in (round(255 * n / (GREYS - 1)) for n in range(GREYS))]
    pure = [ImageColor.getrgb(colour)[:3] for colour in (*LABELS[:2], canvas.DARK)]
    half = [(red // 2 + 50, green // 2 + 50, blue // 2 + 50) for red, green, blue in pure[:2]]
    palette = Image.new("P", (1, 1))
    palette.putpalette([level for colour in (*greys, *pure, *half) for level in colour])
    return palette


def rows_of(title: str, data: Path, choice: dict[str, Any]) -> list[Row]:
    """A data set's patch as it was read, each transformation alone, and the whole preset."""
    manifest = open_folder(data / choice["folder"], choice.get("format", "auto"), choice.get("keys"))
    manifest = manifest.model_copy(update={"cases": manifest.cases[:6]})
    patch, space = choice["patch"], choice["space"].model_copy(update={"channels": manifest.channels[:1]})
    ones = (1,) * len(patch)
    network = NetworkPlan(widths=(8,), strides=(ones,), kernels=(ones,))
    plan = Plan(space=space, network=network, sampling=SamplingPlan(patch=patch, batch=1))
    strong = AugmentationConfig(preset="strong", flip=(0.5, *[0.0] * (len(patch) - 1)))
    margin = Augmentation.of_plan(strong, plan).margin
    with tempfile.TemporaryDirectory() as folder:
        store = build_store(manifest, space, Path(folder), (TARGET,))
        config = SamplerConfig(patch=patch, batch=1, foreground=1.0)
        sampler = PatchSampler(store, store.case_ids, space, config, 0, target=TARGET, margin=margin)
        batch = sampler.batch(0)

    still = Augmentation.of_plan(AugmentationConfig(preset="none"), plan)(batch, Draw(0, 0))
    cut = middle_cut(still.image[0, 0].numpy(), _known(space.spacing), space.slice_axis)
    limits = window(image_slice(still.image[0, 0].numpy(), cut))

    def panel(name: str, shown: Batch) -> Panel:
        labels = shown.target[TARGET][0, 0].numpy()
        labels = (labels > 0).astype(int) if choice.get("merged") else labels
        marked = name not in ("flip", "strong preset")  # where left is left for certain
        return patch_panel(shown.image[0, 0].numpy(), labels, cut, limits, name, marked=marked)

    panels = [panel("as read", still)]
    for name, config in alone(space.intensity.kind == "ct_window", len(patch)).items():
        draws = [Augmentation.of_plan(config, plan)(batch, Draw(0, step)) for step in range(DRAWS)]
        most = max(draws, key=lambda drawn: float((drawn.image - still.image).abs().mean()))
        panels.append(panel(name.replace("_", " "), most))
    step = 0
    while len(panels) % COLUMNS or not step:
        step += 1
        panels.append(panel("strong preset", Augmentation.of_plan(strong, plan)(batch, Draw(0, step))))
    parts = [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    return [Row(part, title="" if n else title) for n, part in enumerate(parts)]


def alone(ct: bool, dims: int) -> dict[str, AugmentationConfig]:
    """Each transformation of the strong preset by itself, certain to happen."""
    found = {"flip": AugmentationConfig(preset="none", flip=(1.0, *[0.0] * (dims - 1)))}
    strong = transforms_of("strong", ct)
    for name, part in vars(strong).items():
        if name in vars(NONE) and name != "margin" and part.probability:
            found[name] = AugmentationConfig.model_validate(
                {"preset": "none", "margin": strong.margin, name: to_dict(part) | {"probability": 1.0}}
            )
    return found


def _known(spacing: tuple[float | None, ...]) -> tuple[float, float, float]:
    first, second, third = (1.0 if step is None else step for step in spacing)
    return first, second, third


if __name__ == "__main__":
    main(Path(sys.argv[1]))
