"""Compares the estimated memory of a training step with the measured one.

    python benchmarks/plan_memory.py                 measure every cell, one fresh process after another
    python benchmarks/plan_memory.py --only 3d-64    those whose names begin so
    python benchmarks/plan_memory.py --table         the table of what has been measured, as Markdown

A cell is two real steps (forward, backward, AdamW) of the training loop's own learner. On the CPU (Linux) it is measured by
how far the process' resident memory has risen at its peak above where it stood before the network was built; on CUDA by
the allocator's peak. A line is added to ``results/plan_memory.jsonl`` for each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from platform import machine, python_version, system
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results" / "plan_memory.jsonl"
GIB = 2**30


@dataclass(frozen=True)
class Cell:
    """A network, a patch and a batch. widths: one a level."""

    kind: str
    patch: tuple[int, ...]
    batch: int
    widths: tuple[int, ...]
    stem: Literal["plain", "space_to_depth"] = "plain"
    block: str = "plain"
    precision: str = "fp32"
    spacing: tuple[float, ...] = ()


THREE, FOUR, FIVE = (32, 64, 128), (32, 64, 128, 256), (32, 64, 128, 256, 320)
CELLS = {
    "3d-40x56x40-unet": Cell("unet", (40, 56, 40), 8, FOUR),
    "3d-40x56x40-unet-cells": Cell("unet", (40, 56, 40), 8, THREE, "space_to_depth", "residual"),
    "3d-48x48x6-segnet": Cell("segnet", (48, 48, 6), 16, FOUR, spacing=(0.7, 0.7, 1.25)),
    "3d-64-unet": Cell("unet", (64, 64, 64), 2, FOUR),
    "3d-64-autoencoder": Cell("autoencoder", (64, 64, 64), 4, FOUR),
    "3d-96-unet": Cell("unet", (96, 96, 96), 2, FIVE),
    "3d-96-unet-cells": Cell("unet", (96, 96, 96), 4, FOUR, "space_to_depth", "residual"),
    "3d-112-unet": Cell("unet", (112, 112, 112), 2, FOUR),
    "2d-128-unet": Cell("unet", (128, 128), 8, FOUR),
    "2d-256-unet": Cell("unet", (256, 256), 8, (*FIVE, 320)),
    "2d-256-autoencoder-cells": Cell("autoencoder", (256, 256), 16, FOUR, "space_to_depth"),
    "2d-512-unet": Cell("unet", (512, 512), 4, (*FIVE, 320)),
    "3d-bf16-unet": Cell("unet", (40, 56, 40), 1, FOUR, precision="bf16"),
}


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose names begin so")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.table:
        print(table())
    elif chosen.cell:
        print(json.dumps(measured(chosen.cell)))
    else:
        for name in [name for name in CELLS if name.startswith(chosen.only)]:
            run = subprocess.run([sys.executable, __file__, "--cell", name], check=True, stdout=subprocess.PIPE, text=True)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(run.stdout.splitlines()[-1] + "\n")
            print(run.stdout.splitlines()[-1], flush=True)


def measured(name: str) -> dict[str, Any]:
    """Estimate and peak of one cell, bytes."""
    import psutil
    import torch
    from accelerate import Accelerator

    from medae.models.networks import build_network
    from medae.objectives.registry import build_objective
    from medae.seeding import Draw
    from medae.training.config import FitConfig
    from medae.training.learner import Learner
    from medae.training.memory import step_memory

    cell = CELLS[name]
    cuda = torch.cuda.is_available()
    fit = FitConfig(steps=2, precision=cell.precision, deterministic=False)
    accelerator = Accelerator(mixed_precision="no", cpu=not cuda)
    network, objective = configured(cell)

    def steps(patch: tuple[int, ...], batch: int) -> None:
        learner = Learner(build_network(network), build_objective(objective, network), fit, accelerator, None)
        for step in range(2):
            learner.step(random_batch(patch, batch).to(accelerator.device), Draw(0, step), 1e-3)

    steps(tuple(min(size, 32) if len(cell.patch) == 3 else 64 for size in cell.patch), 2)  # loads what is loaded once
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = psutil.Process().memory_info().rss
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    steps(cell.patch, cell.batch)
    peak = torch.cuda.max_memory_allocated() if cuda else peak_resident()
    estimate = step_memory(network, objective, cell.patch, cell.batch, fit)
    return {
        "cell": name,
        "kind": cell.kind,
        "patch": cell.patch,
        "batch": cell.batch,
        "widths": cell.widths,
        "stem": cell.stem,
        "block": cell.block,
        "precision": cell.precision,
        "estimated": estimate.total,
        "measured": peak - before,
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} thread",
        "torch": torch.__version__,
        "python": python_version(),
        "system": f"{system()} {machine()}",
    }


def peak_resident() -> int:
    """Bytes; of this process alone, unlike ``getrusage``, which also counts the program that it was started from."""
    (line,) = [row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def configured(cell: Cell) -> tuple[Any, Any]:
    """The configurations of the network and of its objective."""
    from pydantic import TypeAdapter

    from medae.models.networks import NetworkConfig
    from medae.objectives.masked import MaskedConfig
    from medae.objectives.segmentation import SegmentationConfig
    from medae.planning.strides import strides_for

    spacing = cell.spacing or (1.0,) * len(cell.patch)
    strides, kernels = strides_for(
        cell.patch, spacing, len(cell.widths), "plain" if cell.stem == "plain" else "space_to_depth"
    )
    encoder: dict[str, Any] = {
        "spatial_dims": len(cell.patch),
        "stem": cell.stem,
        "block": cell.block,
        "widths": cell.widths,
        "strides": strides,
        "kernels": kernels,
        "downsampling": "maxpool" if cell.kind == "segnet" else "strided",
    }
    labels = {} if cell.kind == "autoencoder" else {"classes": 3}
    network: Any = TypeAdapter(NetworkConfig).validate_python({"kind": cell.kind, "encoder": encoder, **labels})
    return network, SegmentationConfig() if labels else MaskedConfig()


def random_batch(patch: tuple[int, ...], batch: int) -> Any:
    """Noise, with labels."""
    import torch

    from medae.preprocessing.batch import Batch

    mask = torch.ones(batch, 1, *patch, dtype=torch.bool)
    label = torch.randint(0, 3, (batch, 1, *patch))
    return Batch(torch.randn(batch, 1, *patch), torch.ones(batch, 1, dtype=torch.bool), mask, {"label": label})


def table() -> str:
    """The latest line of each cell and device."""
    latest = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        latest[row["cell"], row["device"]] = row
    lines = [
        "| network | patch | batch | precision | device | estimated | measured | estimated / measured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in latest.values():
        network = f"{row['kind']}, {row['stem'].replace('_', ' ')}, {row['block']}, {'-'.join(map(str, row['widths']))}"
        sizes = f"{'x'.join(map(str, row['patch']))} | {row['batch']} | {row['precision']} | {row['device']}"
        bytes_ = f"{row['estimated'] / GIB:.2f} GiB | {row['measured'] / GIB:.2f} GiB"
        lines.append(f"| {network} | {sizes} | {bytes_} | {row['estimated'] / row['measured']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
