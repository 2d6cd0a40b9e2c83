"""Lesions put into healthy T1 heads: what each shipped detector sees of every kind, beside the voxel-wise model.

    python benchmarks/anomaly_diagnosis.py                                 every configuration that has no line yet
    python benchmarks/anomaly_diagnosis.py --only ixi_lesions --seed 1
    python benchmarks/anomaly_diagnosis.py --only ixi_lesions --model runs/ixi-lesions/detect-0123abcd/model
    python benchmarks/anomaly_diagnosis.py --table                         the tables of what has been measured, as Markdown

A cell is a configuration (``configs/detect/NAME.yaml``) and a seed: ``medae detect NAME --set fit.seed=S``; with ``--model``
nothing is trained. A line is added to ``results/anomaly_diagnosis.jsonl`` for each: the average precision of every row and
kind of lesion, the means, what they are above the best baseline with its interval over heads, and whether the threshold kept
its promise in the test heads, all of which are healthy. The figures are those of ``result.json``, the seconds those of what
was not yet there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from platform import machine, python_version
from typing import Any

import torch

from medae.anomaly.calibration import Calibration
from medae.anomaly.detector import DETECTOR
from medae.artifact import load_artifact
from medae.config import digest, to_dict, validate
from medae.metrics.evaluations import load_evaluation
from medae.metrics.pooled import PooledDifference
from pipelines import stage
from pipelines.console import Screen
from pipelines.detect import Config
from pipelines.detect_diagnosis import words_of
from pipelines.detect_results import evaluation_file
from pipelines.files import append_line, read_lines, source_digest
from pipelines.stage import open_dataset

RESULTS = Path(__file__).parent / "results" / "anomaly_diagnosis.jsonl"
CONFIGURATIONS = ("ixi_synthetic", "ixi_synthetic_3d", "ixi_lesions")
VOXELWISE = "voxelwise"

KEPT = ("average_precision", "mean", "mean_unfiltered", "lesions", "best_baseline", "difference")

Line = dict[str, Any]


def config_of(name: str, seed: int) -> Config:
    """The configuration of a cell."""
    config: Config = stage.read_stage("detect", name, [f"fit.seed={seed}", "registered=false"], {})
    return config


def recipe(config: Config) -> str:
    """What all seeds of a configuration have in common."""
    content = to_dict(config)
    del content["fit"]["seed"]
    return digest(content)


def measured(name: str, seed: int, model: Path | None, runs: Path, screen: Screen) -> Line:
    """Run a cell and collect what it measured. model: scored as it is, in the place of a training."""
    start, config = time.perf_counter(), config_of(name, seed)
    given = config if model is None else config.model_copy(update={"model": str(model.resolve())})
    done = stage.run_stage("detect", given, runs / name, screen, resume=True, label=f"seed-{seed}")
    said, promised = done.result.facts, None
    if "diagnosis" not in said:
        raise SystemExit(said["diagnosis_failed"])
    calibration = validate(Calibration, said["calibration"][DETECTOR], where=done.folder)
    reached = load_evaluation(evaluation_file(done.folder, "filtered", DETECTOR)).reached(calibration.threshold)
    if ends := calibration.promise(len(reached)):
        promised = {"reached": statistics.mean(reached.values()), "low": ends[0], "high": ends[1]}
    return {
        "configuration": name,
        "seed": seed,
        "recipe": recipe(config),
        "data": open_dataset(config, screen).manifest.digest()[:12],
        "model": load_artifact(done.folder / done.result.models["detector"]).digest[:12],
        "trained": model is None,
        "seconds": round(time.perf_counter() - start, 1),
        **{key: said["diagnosis"][key] for key in KEPT},
        "promised": promised,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
        "python": python_version(),
        "machine": machine(),
        "source": source_digest()[:10],
    }


def lines() -> Iterator[Line]:
    """What has been measured."""
    yield from map(json.loads, read_lines(RESULTS))


def table_of_means(found: list[Line]) -> str:
    """The means of every row by contrast, before filters, and above the best baseline."""
    contrasts = sorted({_contrast(kind) for line in found for kind in line["lesions"]}, key=float)
    heads = ["configuration", "row", *contrasts, "all", "before filters", "above the best baseline [95 %]"]
    text = [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 2)}"]
    for line in found:
        for row, value in sorted(line["mean"].items(), key=lambda entry: -entry[1]):
            kinds = line["average_precision"][row]
            means = [_mean([own for kind, own in kinds.items() if _contrast(kind) == each]) for each in contrasts]
            cells = [line["configuration"], row, *(f"{mean:.3f}" for mean in (*means, value, line["mean_unfiltered"][row]))]
            text.append(f"| {' | '.join([*cells, _above(line, row)])} |")
    return "\n".join(text)


def table_of_kinds(line: Line) -> str:
    """Every kind of lesion, the detector's average precision and that of the voxel-wise model."""
    contrasts = sorted({_contrast(kind) for kind in line["lesions"]}, key=float)
    text = [f"| {line['configuration']}: size and edge | {' | '.join(contrasts)} |", f"|---|{'---:|' * len(contrasts)}"]
    one, other = (line["average_precision"][row] for row in (DETECTOR, VOXELWISE))
    for rest in dict.fromkeys(kind.partition(", ")[2] for kind in line["lesions"]):
        cells = [f"{one[f'{each}, {rest}']:.3f} / {other[f'{each}, {rest}']:.3f}" for each in contrasts]
        text.append(f"| {rest} | {' | '.join(cells)} |")
    return "\n".join(text)


def promises(found: list[Line]) -> str:
    """Whether thresholds were reached in the healthy test heads as the calibration promised."""
    words = "the threshold was reached in {reached:.2%} of the mask of the test heads; promised were {low:.2%} to {high:.2%}"
    known = [line for line in found if line["promised"] is not None]
    return "\n".join(
        f"- {line['configuration']}, seed {line['seed']}: {words.format(**line['promised'])}." for line in known
    )


def _contrast(kind: str) -> str:
    """Of a kind's name, such as ``+0.2, 5 mm, edge 2 mm``."""
    return kind.partition(",")[0]


def _above(line: Line, row: str) -> str:
    if row == line["best_baseline"]:
        return "–"
    return words_of(validate(PooledDifference, line["difference"][row]))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    """Measure, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CONFIGURATIONS, help="configurations, by default all")
    parser.add_argument("--seed", type=int, action="append", help="by default 0")
    parser.add_argument("--model", type=Path, help="a detector of the one configuration, scored as it is")
    parser.add_argument("--runs", type=Path, default=Path("runs/anomaly-diagnosis"), help="where the runs are written")
    parser.add_argument("--table", action="store_true", help="print the tables of the results")
    chosen = parser.parse_args()
    if chosen.table:
        found = list(lines())
        print(table_of_means(found), *map(table_of_kinds, found), promises(found), sep="\n\n")
        return
    names, seeds = chosen.only or CONFIGURATIONS, chosen.seed or [0]
    if chosen.model is not None and (len(names), len(seeds)) != (1, 1):
        parser.error("--model is of one configuration and seed: name them")
    for name, seed in product(names, seeds):
        known = [line for line in lines() if (line["configuration"], line["seed"]) == (name, seed)]
        if any(line["recipe"] != recipe(config_of(name, seed)) for line in known):
            raise SystemExit(f"{name}, seed {seed} was measured as it was: take the line out.")
        if known:
            continue
        line = measured(name, seed, chosen.model, chosen.runs, Screen())
        append_line(RESULTS, json.dumps(line))
        print(f"{name}, seed {seed}: {line['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
