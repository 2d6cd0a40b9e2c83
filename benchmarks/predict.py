"""Seconds and memory of ``medae predict``, beside plain MONAI with the same weights, and what overlaps with what.

    python benchmarks/predict.py MODEL SCANS                  a folder of NIfTI files, each cell in a fresh process
    python benchmarks/predict.py MODEL --ct                   one made CT of 512 x 512 x 275 voxels of 0.7 x 0.7 x 1 mm
    python benchmarks/predict.py --figure at.png --of NAME    when each scan of the input NAME was read, computed and written
    python benchmarks/predict.py --table                      the table of what has been measured, as Markdown

MODEL is the folder of an artifact: a segmenter of one channel and volumes, or a detector of one channel, which MONAI has no
counterpart of. ``--masks`` gives a detector's brain masks; without, it makes them if its plan says so. Cells, three runs of
each (``--runs``):

- ``medae``: the command as a user gives it, with all that it does: digests, the look at the scan, files, report.
- ``steps``: the same steps one after the other: the difference is what overlapping is worth.
- ``monai``: MONAI's transforms and sliding window, written down as its tutorials do: load, nearest RAS, spacing, the
  plan's intensities over non-zero voxels, Gaussian windows that overlap by half, argmax, resampled to the grid of the file,
  saved. It writes no report, and its masks are close to medae's, not the same: the share of voxels that agree stands beside.

Seconds are of the wall clock, the imports of medae's and MONAI's programs included; memory is the highest resident set of
the process. A line is added to ``results/predict.jsonl`` for each run. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from platform import machine, python_version
from typing import Any

import nibabel as nib
import numpy as np

RESULTS = Path(__file__).parent / "results" / "predict.jsonl"
WAYS = ("medae", "steps", "monai")
RUNS = 3
CT = (512, 512, 275)


def make_ct(path: Path) -> None:
    """A made CT: a body of water with noise in air."""
    axes = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in CT[:2]), indexing="ij")
    body = np.hypot(axes[0] / 0.8, axes[1] / 0.6) < 1
    rng = np.random.default_rng(0)
    volume = np.full(CT, -1000, dtype=np.int16)
    for place in range(CT[2]):
        volume[:, :, place][body] = rng.normal(40, 60, np.count_nonzero(body)).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, np.diag([0.7, 0.7, 1.0, 1.0])), path)


def by_medae(model: Path, scans: Path, out: Path, overlapped: bool, masks: Path | None) -> list[dict[str, Any]]:
    """Predict a folder; returns when each step of each scan began and ended, in seconds from the start."""
    from pipelines import predict, work

    steps: list[dict[str, Any]] = []
    began = time.perf_counter()

    def timed(name: str) -> None:
        whole = getattr(predict._Predicting, name)

        def step(self: Any, scan: Any, *given: Any) -> Any:
            start = time.perf_counter() - began
            try:
                return whole(self, scan, *given)
            finally:
                steps.append({"scan": scan.name, "step": name, "from": start, "to": time.perf_counter() - began})

        setattr(predict._Predicting, name, step)

    for name in ("read", "make", "write"):
        timed(name)
    if not overlapped:

        def in_turn(items: Any, work: Any, readers: int) -> Any:
            for item in items:
                yield item, work.write(item, work.make(item, work.read(item)))

        work.overlapped = in_turn  # type: ignore[assignment]
    options = {"anyway": True, "device": "cpu", "brain_mask": masks}
    predict.run(str(model), scans, out, options, as_json=True)
    return steps


def by_monai(model: Path, scans: Path, out: Path) -> None:
    """As MONAI's tutorials write inference down, with the network of the artifact and the plan's numbers."""
    import torch
    from monai.data import MetaTensor
    from monai.inferers import sliding_window_inference
    from monai.transforms import Compose, LoadImage, Orientation, ResampleToMatch, Spacing

    from medae.artifact import load_artifact

    artifact = load_artifact(model)
    plan, network = artifact.meta.plan, artifact.model()
    spacing = [step if step is not None else -1.0 for step in plan.space.spacing]
    load = Compose([LoadImage(image_only=True, ensure_channel_first=True), Orientation("RAS")])
    for path in sorted(scans.glob("*.nii.gz")):
        whole = load(path)
        image = Spacing(spacing, mode="bilinear")(whole)
        image = _scaled(image, plan.space)
        with torch.inference_mode():
            logits = sliding_window_inference(
                image[None], plan.sampling.patch, 4, lambda x: network(x).finest, 0.5, "gaussian"
            )
        labels = MetaTensor(torch.as_tensor(logits).argmax(dim=1).float(), affine=image.affine, meta=dict(whole.meta))
        back = ResampleToMatch(mode="nearest", padding_mode="zeros")(labels, whole)
        original = nib.load(path)
        turned = nib.Nifti1Image(back[0].numpy().astype(np.uint8), np.asarray(whole.affine))
        turn = nib.orientations.ornt_transform(nib.io_orientation(turned.affine), nib.io_orientation(original.affine))
        nib.save(turned.as_reoriented(turn), out / path.name)


def _scaled(image: Any, space: Any) -> Any:
    scheme = space.intensity
    if scheme.kind == "ct_window":
        return (image.clip(scheme.lower, scheme.upper) - scheme.mean) / scheme.std
    inside = image[image != 0]
    return (image - inside.mean()) / inside.std().clamp(min=1e-6)


def run_cell(way: str, model: Path, scans: Path, out: Path, masks: Path | None) -> dict[str, Any]:
    """In this process: predict, and say what it took."""
    import torch

    torch.set_num_threads(2)
    if way == "monai":
        out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    steps = by_monai(model, scans, out) if way == "monai" else by_medae(model, scans, out, way == "medae", masks)
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 2),
        "megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "steps": steps or [],
    }


def agreement(one: Path, other: Path) -> float:
    """Share of the voxels that either calls foreground on which two folders of label maps agree."""
    same = union = 0
    for path in sorted(one.glob("*.nii.gz")):
        a, b = (np.asarray(nib.load(folder / path.name).dataobj) for folder in (one, other))
        either = (a > 0) | (b > 0)
        union += int(either.sum())
        same += int((a == b)[either].sum())
    return same / union if union else 1.0


def measure(model: Path, scans: Path, name: str, runs: int, masks: Path | None) -> None:
    """Every way, each run in a fresh process. Of a single scan no steps overlap, and one after the other is no other way."""
    from medae.artifact import load_artifact

    count, artifact = len(list(scans.glob("*.nii.gz"))), load_artifact(model)
    detects = artifact.meta.kind == "detector"
    ways = [way for way in WAYS if (count > 1 or way != "steps") and not (detects and way == "monai")]
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(runs):
            for way in ways:
                out = Path(folder) / f"{way}-{turn}"
                command = [sys.executable, __file__, str(model), str(scans), "--cell", way, "--out", str(out)]
                command += [] if masks is None else ["--masks", str(masks)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                cell = json.loads(done.stdout.splitlines()[-1])
                if way != "medae" and not detects:
                    cell["agreement"] = round(agreement(Path(folder) / f"medae-{turn}", out), 4)
                facts = {
                    "input": name,
                    "scans": count,
                    "way": way,
                    "run": turn,
                    "model": artifact.digest,
                    "kind": artifact.meta.kind,
                    **cell,
                }
                facts |= {"python": python_version(), "machine": machine()}
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(facts) + "\n")
                print(f"{name}, {way}: {cell['seconds']} s, {cell['megabytes']} MB", flush=True)


def figure(path: Path, name: str) -> None:
    """When each scan was read, computed and written, in the last run of ``medae`` on the input of that name."""
    from medae.report import canvas

    lines = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    own = [line for line in lines if line["way"] == "medae" and line.get("kind") != "detector"]
    last = [line for line in own if line["input"] == name][-1]
    names = list(dict.fromkeys(step["scan"] for step in last["steps"]))
    chart = canvas.chart(8.0, 1.2 + 0.3 * len(names))
    axes = chart.add_subplot()
    canvas.tidy(axes, "Reading, computing and writing overlap", x="seconds")
    for place, step in enumerate(("read", "make", "write")):
        own = [each for each in last["steps"] if each["step"] == step]
        rows = [names.index(each["scan"]) for each in own]
        widths = [each["to"] - each["from"] for each in own]
        axes.barh(
            rows,
            widths,
            left=[each["from"] for each in own],
            height=0.6,
            color=canvas.SERIES[place],
            label={"make": "compute"}.get(step, step),
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8)
    canvas.save(chart, path)


def table() -> str:
    """Medians over runs, with the lowest and the highest."""
    lines = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["input"] += ", a detector" if line.get("kind") == "detector" else ""
    text = ["| input | way | seconds a scan | memory (MB) | voxels as medae |", "|---|---|---:|---:|---:|"]
    for name, way in dict.fromkeys((line["input"], line["way"]) for line in lines):
        own = [line for line in lines if (line["input"], line["way"]) == (name, way)]
        seconds = sorted(line["seconds"] / line["scans"] for line in own)
        memory = max(line["megabytes"] for line in own)
        same = own[-1].get("agreement")
        spread = f"{statistics.median(seconds):.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f})"
        text.append(
            f"| {name}, {own[0]['scans']} | {way} | {spread} | {memory} | {'–' if same is None else f'{same:.4f}'} |"
        )
    return "\n".join(text)


def main() -> None:
    """Measure, draw, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("scans", type=Path, nargs="?")
    parser.add_argument("--ct", action="store_true", help="make one CT of 512 x 512 x 275 and measure that")
    parser.add_argument("--masks", type=Path, help="folder of brain masks, for a detector that makes none")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each way")
    parser.add_argument("--figure", type=Path, help="draw the steps of a run, and do nothing else")
    parser.add_argument("--of", help="the input of that run")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    parser.add_argument("--cell", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.table:
        print(table())
        return
    if chosen.figure is not None:
        if chosen.of is None:
            parser.error("--of is needed beside --figure: the name of an input")
        figure(chosen.figure, chosen.of)
        return
    if chosen.cell:
        found = run_cell(chosen.cell, chosen.model, chosen.scans, chosen.out, chosen.masks)
        print(json.dumps(found))
        return
    if chosen.model is None or (chosen.scans is None and not chosen.ct):
        parser.error("MODEL and SCANS are needed, to measure")
    if chosen.ct and chosen.masks is not None:
        parser.error("the CT that is made has no --masks")
    if chosen.ct:
        with tempfile.TemporaryDirectory() as folder:
            make_ct(Path(folder) / "ct.nii.gz")
            measure(chosen.model, Path(folder), "CT 512 x 512 x 275", chosen.runs, None)
    else:
        measure(chosen.model, chosen.scans, chosen.scans.resolve().name, chosen.runs, chosen.masks)


if __name__ == "__main__":
    main()
