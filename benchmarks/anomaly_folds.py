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
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import product
from pathlib import Path
from platform import machine, python_version
from typing import Any

import numpy as np
import torch
from anomaly_tables import FOLDS, Cell, Line, cell_of, tables

from medae.anomaly.detector import Scoring
from medae.anomaly.maps.registry import BASELINES, MapConfig
from medae.artifact import load_artifact, save_artifact
from medae.config import digest, to_dict
from medae.data.brain_masks import BRAIN_MASK
from medae.data.case import Case
from medae.errors import ConfigError
from medae.formats.read import read_array
from medae.metrics.anomaly import AnomalyEvaluation
from medae.metrics.evaluations import load_evaluation, packed, tally_text
from medae.metrics.pooled import Tally, floors_of
from medae.models.ensemble import AutoencoderEnsemble, AutoencoderEnsembleConfig
from medae.training.precision import resolve_precision
from pipelines import stage
from pipelines.console import Screen
from pipelines.detect import Config
from pipelines.detect_results import evaluation_file
from pipelines.files import append_line, read_lines, source_digest
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
WITH_BASELINES = "lgg"
KINDS = ("filtered", "unfiltered")
GROUPS = 512


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
    yield from map(json.loads, read_lines(RESULTS))


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
        print(tables(list(lines())))
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
        append_line(RESULTS, json.dumps(line))
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
    return any(cell_of(line) == cell and line["recipe"] == recorded for line in lines())


if __name__ == "__main__":
    main()
