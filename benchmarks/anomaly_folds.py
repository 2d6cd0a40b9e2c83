"""Every model of the low-grade gliomas in five folds: each patient is scored once, by models that have not seen it.

    medae brainmask $MEDAE_DATA/lgg masks                          one mask a scan, the same for every row
    python benchmarks/anomaly_folds.py --masks masks               every cell that is not there yet, one after the other
    python benchmarks/anomaly_folds.py --masks masks --only lgg_vae --seed 1 --fold 0
    python benchmarks/anomaly_folds.py --masks masks --only lgg_lesions --seed 0 --seed 1 --seed 2 --together
    python benchmarks/anomaly_folds.py --table                     the tables of what has been measured, as Markdown

A cell is a configuration (``configs/detect/NAME.yaml``), a seed and a fold: ``medae detect NAME --set folds=5 --set fold=K
--set fit.seed=S --set data.brain_masks=masks``. A line is added to ``results/anomaly_folds.jsonl`` for each: all that was
measured of each test patient in each row, with the voxels counted by score (in groups of 1/512 of the fold's voxels at the
most; without the filter for all patients of the fold together), so that the figures over all patients come from these lines
alone. Baselines are the same in every configuration and are kept with ``lgg``. With ``--together`` the networks of all seeds
are scored as one model, too, less the rows that several networks cannot have. A lesion voxel outside the mask counts as
missed. Filters, sides and weights are fixed in the configurations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from platform import machine, python_version
from typing import Any

import numpy as np
import torch

from medae.anomaly.detector import Scoring
from medae.anomaly.maps.registry import BASELINES, MapConfig
from medae.artifact import load_artifact, save_artifact
from medae.config import digest, to_dict
from medae.data.brain_masks import BRAIN_MASK
from medae.data.case import Case
from medae.errors import ConfigError
from medae.formats.read import read_array
from medae.metrics.anomaly import AnomalyEvaluation
from medae.metrics.evaluations import load_evaluation, merged, packed, tally_of, tally_text, unpacked
from medae.metrics.pooled import Tally, floors_of, mean_difference, mean_interval, pooled_average_precision
from medae.models.ensemble import AutoencoderEnsemble, AutoencoderEnsembleConfig
from medae.training.precision import resolve_precision
from pipelines import stage
from pipelines.console import Screen
from pipelines.detect import Config
from pipelines.detect_diagnosis import words_of
from pipelines.detect_results import evaluation_file
from pipelines.files import source_digest
from pipelines.stage import open_dataset

RESULTS = Path(__file__).parent / "results" / "anomaly_folds.jsonl"
CONFIGURATIONS = (
    "lgg",
    "lgg_lesions",
    "lgg_neighbours",
    "lgg_vae",
    "lgg_cevae",
    "lgg_dense",
    "lgg_spatial",
    "lgg_anovaegan",
)
FOLDS = 5
WITH_BASELINES = "lgg"
KINDS = ("filtered", "unfiltered")
GROUPS = 512
SETTLED_ON = (
    *("CS_4941", "CS_5393", "CS_5396", "CS_6665", "DU_5851", "DU_5855", "DU_5872", "DU_5874", "DU_6401"),
    *("DU_6407", "DU_6408", "DU_7014", "DU_7019", "DU_8162", "DU_8163", "DU_A5TW", "FG_6688", "HT_7855"),
)
"""Patients, not tested in fold 0, by whose maps there it was settled what ``lgg_lesions`` draws and how long it trains: the
others are shown alone, too."""

Line = dict[str, Any]
Cell = tuple[str, int, int]
"""Configuration, seed, fold."""


@dataclass(frozen=True)
class Row:
    """All folds as one. unfiltered: average precision pooled over the voxels of all patients, without the filter."""

    filtered: AnomalyEvaluation
    unfiltered: float


Rows = dict[tuple[str, str, int], Row]
"""By configuration, row and seed."""


def config_of(name: str, seed: int, fold: int, masks: Path) -> Config:
    """The configuration of a cell."""
    own = [f"data.brain_masks={masks.resolve()}", f"fit.seed={seed}", f"folds={FOLDS}", f"fold={fold}", "registered=false"]
    config: Config = stage.read_stage("detect", name, own, {})
    return config


def recipe(config: Config) -> str:
    """What all seeds and folds of a configuration have in common, whatever is written in its file and what is a default."""
    content = to_dict(config)
    del content["fold"], content["fit"]["seed"], content["data"]["brain_masks"]
    if content["members"] == 1:
        del content["members"]  # lines from before there were several
    return digest(content)


def frozen(config: Config, screen: Screen) -> dict[str, str]:
    """Digests of the data set's files, and of the voxels of the masks: the same mask may be compressed to other bytes."""
    manifest = open_dataset(config, screen).manifest
    files = manifest.model_copy(update={"cases": tuple(map(_without_mask, manifest.cases)), "labels": {}})
    masks = {case.id: _voxels(manifest.paths(case.targets[BRAIN_MASK])) for case in manifest.cases}  # type: ignore[arg-type]
    return {"data": files.digest()[:12], "masks": digest(masks)[:12]}


def _without_mask(case: Case) -> Case:
    targets = {name: target for name, target in case.targets.items() if name != BRAIN_MASK}
    return case.model_copy(update={"targets": targets})


def _voxels(files: Sequence[Path]) -> str:
    array, native = read_array(files, "mask")
    place = f"{array.shape} {(native.matrix().round(3) + 0).tolist()}"
    return sha256(np.packbits(array > 0).tobytes() + place.encode()).hexdigest()


def measured(cell: Cell, config: Config, given: Mapping[str, str], runs: Path, screen: Screen) -> Line:
    """Run a cell and collect what it measured. given: digests of data and masks."""
    start = time.perf_counter()
    name, seed, fold = cell
    folder = runs / name.partition(",")[0]
    own = label(seed, fold) if config.model is None else f"scored-{Path(config.model).name}"
    done = stage.run_stage("detect", config, folder, screen, resume=True, label=own)
    seconds = time.perf_counter() - start
    rows = [row for row in done.result.metrics if name == WITH_BASELINES or row not in BASELINES]
    return {
        "configuration": name,
        "seed": seed,
        "fold": fold,
        **given,
        "seconds": round(seconds, 1),
        "rows": {row: kept(*(load_evaluation(evaluation_file(done.folder, kind, row)) for kind in KINDS)) for row in rows},
        "threads": torch.get_num_threads(),
        "precision": str(resolve_precision(config.fit.precision, torch.device("cpu"))).removeprefix("torch."),
        "torch": torch.__version__.split("+")[0],
        "python": python_version(),
        "machine": machine(),
        "source": source_digest()[:10],
    }


def together(name: str, seeds: Sequence[int], fold: int, masks: Path, runs: Path) -> Config:
    """A configuration that is given the networks of several seeds as one model, less the rows that it cannot have.

    Raises SystemExit unless the run of each seed is there.
    """
    artifacts = []
    for seed in seeds:
        found = [path.parent for path in (runs / name).glob(f"{label(seed, fold)}-*/result.json")]
        if len(found) != 1:
            raise SystemExit(f"{runs / name} has {len(found)} finished runs of {label(seed, fold)}, not one.")
        artifacts.append(load_artifact(found[0] / "model"))
    first = artifacts[0].meta
    if any((each.meta.network, each.meta.plan) != (first.network, first.plan) for each in artifacts):
        raise SystemExit(f"The networks of {name}, fold {fold}, are not of one configuration.")
    network = AutoencoderEnsembleConfig.model_validate({"member": to_dict(first.network), "members": len(artifacts)})
    seen = tuple(sorted({image for each in artifacts for image in each.meta.seen}))
    calibrated = tuple(sorted({image for each in artifacts for image in each.meta.calibrated}))
    about = {"network": network, "seen": seen, "calibrated": calibrated, "calibration": None, "metrics": {}}
    origin = first.provenance | {"run_id": "", "seeds": list(seeds)}
    folder = runs / name / f"together-{'-'.join(map(str, seeds))}-fold-{fold}"
    model = AutoencoderEnsemble(network, [artifact.model() for artifact in artifacts])
    save_artifact(folder, model, first.model_copy(update={**about, "provenance": origin}))
    config = config_of(name, seeds[0], fold, masks)
    rows = {row: each for row, each in config.scoring.compare.items() if fits(each, network)}
    scoring = config.scoring.model_copy(update={"compare": rows})
    return config.model_copy(update={"model": str(folder.resolve()), "scoring": scoring})


def fits(config: MapConfig, network: AutoencoderEnsembleConfig) -> bool:
    """Whether a network can have a map."""
    try:
        Scoring(map=config).check(network)
    except ConfigError:
        return False
    return True


def label(seed: int, fold: int) -> str:
    """Of the folder of a cell's run."""
    return f"seed-{seed}-fold-{fold}"


def kept(filtered: AnomalyEvaluation, unfiltered: AnomalyEvaluation) -> dict[str, Any]:
    """What a line keeps of a row."""
    whole = Tally.of(unfiltered.pooled)
    return {"filtered": packed(filtered, GROUPS), "unfiltered": tally_text(whole.coarse(floors_of(whole, GROUPS)))}


def lines() -> Iterator[Line]:
    """What has been measured."""
    if RESULTS.is_file():
        yield from map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())


def pooled(found: Sequence[Line]) -> Rows:
    """The rows whose folds are all there. Raises SystemExit if the lines do not belong together."""
    for what in ("masks", "data"):
        if len({line[what] for line in found}) > 1:
            raise SystemExit(f"The lines were measured with different {what}: measure all of them with the same.")
    recipes: dict[str, set[str]] = {}
    for line in found:
        recipes.setdefault(line["configuration"], set()).add(line["recipe"])
    if changed := [name for name, own in recipes.items() if len(own) > 1]:
        raise SystemExit(f"{', '.join(changed)} was measured as it is and as it was: take the older lines out.")
    if len({_place(line) for line in found}) < len(found):
        raise SystemExit("A cell is there more than once: take the older line out.")
    parts: dict[tuple[str, str, int], dict[int, Mapping[str, Any]]] = {}
    for line in found:
        for row, kinds in line["rows"].items():
            parts.setdefault((line["configuration"], row, line["seed"]), {})[line["fold"]] = kinds
    return {
        key: Row(
            merged([unpacked(own[fold]["filtered"], key[0]) for fold in sorted(own)]),
            pooled_average_precision([tally_of(own[fold]["unfiltered"]) for fold in sorted(own)]),
        )
        for key, own in parts.items()
        if len(own) == FOLDS
    }


COLUMNS = {
    "average_precision_mean": "mean of patients",
    "auroc_pooled": "AUROC",
    "dice_mean": "Dice",
    "dice_oracle": "Dice, oracle",
    "lesion_recall": "lesions found",
    "lesion_precision": "findings that are lesions",
    "lesion_f1": "F1 of both",
    "false_positive_rate_mean": "false positives",
    "l1_ratio": "L1 ratio",
}


def table(rows: Rows) -> str:
    """One line a row: the headline with its interval, what it is above the best baseline, then everything else.

    Of several seeds the means stand there; their intervals leave a patient out of all seeds at once.
    """
    reference = best_of(rows)
    if reference is None:
        return "No configuration has been measured in all folds with its baselines."
    heads = ["configuration", "row", "seeds", "AUPRC [95 %]", "above the best baseline", "unfiltered", *COLUMNS.values()]
    text = [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 2)}"]
    for name, row, each in listed(rows):
        cells = [name if row not in BASELINES else "–", row, spread(each), headline(each)]
        cells.append("–" if row == reference[0] else difference(each, reference[1]))
        cells.append(shown(mean_of([own.unfiltered for own in each])))
        summaries = [own.filtered.summary() for own in each]
        cells += [shown(mean_of([summary[key] for summary in summaries])) for key in COLUMNS]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join([*text, "", facts(reference[1].filtered), f"The best baseline is {reference[0]}."])


def table_of_intervals(rows: Rows) -> str:
    """Everything else of the first seed, with intervals over patients, and how many lesions of each size were found."""
    heads = ["configuration", "row", *INTERVALS.values(), "lesions found by size"]
    text = [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 2)}"]
    for name, row, (first, *_) in listed(rows):
        summary, intervals = first.filtered.summary(), first.filtered.intervals()
        cells = [name if row not in BASELINES else "–", row]
        for key in INTERVALS:
            low, high = intervals.get(key, (None, None))
            cells.append(f"{shown(summary[key])} [{shown(low)}, {shown(high)}]")
        sizes = [f"{size.found} of {size.lesions}" for size in first.filtered.strata()]
        text.append(f"| {' | '.join([*cells, ', '.join(sizes)])} |")
    sizes = ", ".join(size.label for size in AnomalyEvaluation().strata())
    return "\n".join([*text, "", f"The first seed of each. Sizes are {sizes}."])


INTERVALS = {
    "average_precision_mean": "AUPRC, mean of patients",
    "auroc_pooled": "AUROC",
    "auroc_mean": "AUROC, mean of patients",
    "dice_mean": "Dice",
    "recall_pooled": "recall",
    "precision_pooled": "precision",
    "lesion_recall": "lesions found",
    "lesion_precision": "findings that are lesions",
    "lesion_f1": "F1 of both",
    "false_positive_rate_mean": "false positives",
    "normal_l1": "L1, normal",
    "lesion_l1": "L1, lesion",
    "l1_ratio": "L1 ratio",
}


def best_of(rows: Rows) -> tuple[str, Row] | None:
    """The baseline with the highest headline."""
    found = {row: own for (_, row, seed), own in rows.items() if row in BASELINES and seed == 0}
    best = max(found, key=lambda row: found[row].filtered.pooled.average_precision() or 0, default=None)
    return None if best is None else (best, found[best])


def listed(rows: Rows) -> list[tuple[str, str, list[Row]]]:
    """Configuration, row and the row of each seed, the best first."""
    found = []
    for name, row in dict.fromkeys((name, row) for name, row, _ in rows):
        seeds = sorted(seed for one, other, seed in rows if (one, other) == (name, row))
        found.append((name, row, [rows[name, row, seed] for seed in seeds]))
    return sorted(found, key=lambda entry: -values(entry[2])[0])


def values(each: Sequence[Row]) -> list[float]:
    """The headline: the mean over seeds, the lowest, the highest."""
    found = [own.filtered.pooled.average_precision() or 0.0 for own in each]
    return [statistics.mean(found), min(found), max(found)]


def spread(each: Sequence[Row]) -> str:
    """How many seeds, and from where to where their headlines lie."""
    _, low, high = values(each)
    return str(len(each)) if len(each) == 1 else f"{len(each)} ({low:.3f} to {high:.3f})"


def headline(each: Sequence[Row]) -> str:
    """The mean over seeds with its interval."""
    first = each[0].filtered
    low, high = mean_interval([in_order(own, each[0]) for own in each], first.subjects()) or (None, None)
    return f"{values(each)[0]:.3f} [{shown(low)}, {shown(high)}]"


def in_order(one: Row, other: Row) -> list[Tally]:
    """The tallies of a row, its scans as another row has them."""
    place = {scan.case: tally for scan, tally in zip(one.filtered.scans, one.filtered.tallies, strict=True)}
    return [place[scan.case] for scan in other.filtered.scans]


def table_of_others(rows: Rows) -> str:
    """The headline, of the patients whose maps settled nothing."""
    others = {key: Row(without(own.filtered, SETTLED_ON), own.unfiltered) for key, own in rows.items()}
    reference = best_of(others)
    if reference is None or not reference[1].filtered.scans:
        return ""
    count = len(reference[1].filtered.scans)
    text = [f"| {count} patients | row | AUPRC [95 %] | above the best baseline |", "|---|---|---:|---:|"]
    for name, row, each in listed(others):
        above = "–" if row == reference[0] else difference(each, reference[1])
        text.append(f"| {'–' if row in BASELINES else name} | {row} | {headline(each)} | {above} |")
    return "\n".join(text)


def without(evaluation: AnomalyEvaluation, patients: Collection[str]) -> AnomalyEvaluation:
    """The scans of all others. patients: the middle of their names, as in ``SETTLED_ON``."""
    found = AnomalyEvaluation(evaluation.overlap, evaluation.strata_ml)
    for scan, tally in zip(evaluation.scans, evaluation.tallies, strict=True):
        if not any(patient in scan.case for patient in patients):
            found.include(scan, tally)
    return found


def difference(each: Sequence[Row], other: Row) -> str:
    """Paired over patients; the mean over the seeds of the one."""
    pairs = [(in_order(own, other), other.filtered.tallies) for own in each]
    return words_of(mean_difference(pairs, other.filtered.subjects()))


def facts(evaluation: AnomalyEvaluation) -> str:
    """What the masks permit, in words."""
    shares = [scan.mask_recall for scan in evaluation.scans if scan.mask_recall is not None]
    pooled_share = evaluation.summary()["mask_recall_pooled"]
    inside = [
        (scan.normal_voxels + tally.lesion.sum()) * scan.lesion_ml / (tally.lesion.sum() + tally.missed)
        for scan, tally in zip(evaluation.scans, evaluation.tallies, strict=True)
        if scan.lesion_ml
    ]
    return (
        f"{len(evaluation.scans)} patients. The masks hold {100 * pooled_share:.1f} % of all lesion voxels, "
        f"{100 * statistics.mean(shares):.1f} % of a patient's on average ({100 * min(shares):.1f} % of the worst), and "
        f"{statistics.mean(inside):.0f} ml ({min(inside):.0f} to {max(inside):.0f})."
    )


def _place(line: Line) -> Cell:
    return line["configuration"], line["seed"], line["fold"]


def mean_of(values: Sequence[float | int | None]) -> float | None:
    """Of those that are there."""
    present = [value for value in values if value is not None]
    return statistics.mean(present) if present else None


def shown(value: float | None) -> str:
    """Three digits."""
    return "–" if value is None else f"{value:.3f}"


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=Path, help="folder of the brain masks")
    parser.add_argument("--only", action="append", choices=CONFIGURATIONS, help="configurations, by default all")
    parser.add_argument("--seed", type=int, action="append", help="by default 0")
    parser.add_argument("--fold", type=int, action="append", choices=range(FOLDS), help="by default all")
    parser.add_argument("--together", action="store_true", help="the networks of all seeds as one model, too")
    parser.add_argument("--runs", type=Path, default=Path("runs/anomaly-folds"), help="where the runs are written")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    chosen = parser.parse_args()
    if chosen.table:
        found = list(lines())
        rows = pooled(found)
        print(table(rows), table_of_others(rows), table_of_intervals(rows), sep="\n\n")
        if len(states := {line["source"] for line in found}) > 1:
            print(f"Measured with {len(states)} states of the code: {', '.join(sorted(states))}.")
        return
    if chosen.masks is None:
        parser.error("--masks is needed, to measure")
    screen, given, seeds = Screen(), dict[str, str](), chosen.seed or [0]
    if len(set(seeds)) < len(seeds) or (chosen.together and len(seeds) < 2):
        parser.error("a seed is named once, and --together needs several")
    folds = chosen.fold if chosen.fold is not None else range(FOLDS)

    def measure(cell: Cell, config: Config, recorded: str) -> None:
        nonlocal given
        given = given or frozen(config, screen)
        if any({what: line[what] for what in given} != given for line in lines()):
            raise SystemExit(
                "The lines that are there were measured with other masks or data: use those, or begin a new file."
            )
        line = {**measured(cell, config, given, chosen.runs, screen), "recipe": recorded}
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{cell[0]}, seed {cell[1]}, fold {cell[2]}: {line['seconds']:.0f} s", flush=True)

    for name, fold in product(chosen.only or CONFIGURATIONS, folds):
        for seed in seeds:
            config = config_of(name, seed, fold, chosen.masks)
            if not is_there((name, seed, fold), recipe(config)):
                measure((name, seed, fold), config, recipe(config))
        cell, recorded = (f"{name}, seeds {'+'.join(map(str, seeds))} together", 0, fold), recipe(config)
        if chosen.together and not is_there(cell, recorded):
            measure(cell, together(name, seeds, fold, chosen.masks, chosen.runs), recorded)


def is_there(cell: Cell, recorded: str) -> bool:
    """Whether the line of a cell was written, by the same recipe."""
    return any(_place(line) == cell and line["recipe"] == recorded for line in lines())


if __name__ == "__main__":
    main()
