"""What a detector of drawn lesions finds in the validation patients of its fold, whose labels may choose a recipe.

    medae detect lgg_lesions --set folds=5 --set fold=0 --set data.brain_masks=masks --set augmentation.preset=strong
    python benchmarks/anomaly_validation.py runs/lgg-lesions/detect-0123abcd --masks masks [--flips] [--gain 1.4]
    python benchmarks/anomaly_validation.py RUN RUN --masks masks          the networks of several runs as one model

Prints the average precision of the residual, of the lesion head and of their plain sum after the runs' filter, pooled over
the voxels of all validation patients, and the mean of patients. Test patients are not looked at. The detector's own sum
scales its parts by what normal calibration scans have; here both have the weight 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medae.anomaly.detector import scan_mask, slice_axis
from medae.anomaly.postprocessing import eroded, process_map
from medae.anomaly.residual import residual_map
from medae.anomaly.scan import Scan
from medae.artifact import load_artifact
from medae.config import read_yaml, validate
from medae.inference.brainmask import extraction_of
from medae.inference.native import maps_to_native
from medae.metrics.pooled import Tally, pooled_average_precision
from medae.metrics.voxelscores import VoxelScores
from medae.models.ensemble import AutoencoderEnsemble, AutoencoderEnsembleConfig
from medae.preprocessing.prepare import prepare_case
from pipelines.console import Screen
from pipelines.detect import Config
from pipelines.segmenting import reference
from pipelines.stage import open_dataset

ROWS = ("residual", "lesion_head", "sum")


def scans(config: Config, runs: list[Path], gain: float, flips: bool) -> Iterator[tuple[Scan, np.ndarray]]:
    """The validation patients by the runs' networks, each with its lesion. gain: factor of the normalised intensities."""
    artifacts = [load_artifact(run / "model") for run in runs]
    meta = artifacts[0].meta
    networks = [artifact.model() for artifact in artifacts]
    model = networks[0]
    if len(networks) > 1:
        members = AutoencoderEnsembleConfig.model_validate({"member": meta.network.model_dump(), "members": len(networks)})
        model = AutoencoderEnsemble(members, networks).eval()
    dataset = open_dataset(config, Screen(as_json=True))
    cohort, brain = dataset.subset(dataset.split.validation), extraction_of(meta.plan.space)
    for case in cohort.cases:
        prepared = prepare_case(cohort, case, meta.plan.space, brain=brain)
        prepared = replace(prepared, image=gain * prepared.image)
        mirrored = meta.provenance.get("mirrored", ()) if flips else ()
        lesion = reference(cohort, case, config.target or "", prepared.native.matrix())[0] > 0
        yield Scan(prepared, meta.plan, model, mirrored=mirrored), lesion


def tallies(scan: Scan, lesion: np.ndarray, config: Config) -> dict[str, Tally]:
    """The voxels of a patient by score, by row."""
    with torch.inference_mode():
        residual = residual_map(scan.image, scan.reconstruction, scan.mask, config.scoring.side, scan.prepared.present)
        head = torch.where(scan.mask, scan.surprise, 0.0)
    found = {}
    mask = eroded(scan_mask(scan), config.scoring.postprocessing.erode, slice_axis(scan))
    for row, values in zip(ROWS, (residual, head, residual + head), strict=True):
        raw = maps_to_native(values, scan.prepared)[0]
        scores = VoxelScores()
        scores.add(process_map(raw, mask, config.scoring.postprocessing, slice_axis(scan)), mask, lesion)
        found[row] = Tally.of(scores)
    return found


def configuration(runs: list[Path], masks: Path) -> Config:
    """That of the first run. Raises SystemExit for runs of several folds: one may have learnt from the other's patients."""
    found = []
    for run in runs:
        content = read_yaml(run / "config.yaml")
        content["data"]["brain_masks"] = str(masks.resolve())
        found.append(validate(Config, content, where=run))
    if len({(config.folds, config.fold, config.split) for config in found}) > 1:
        raise SystemExit("The runs are of different folds or splits: give those of one.")
    return found[0]


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs of medae detect")
    parser.add_argument("--masks", type=Path, required=True, help="folder of the brain masks")
    parser.add_argument("--gain", type=float, default=1.0, help="factor of the normalised intensities")
    parser.add_argument("--flips", action="store_true", help="average over mirror images")
    chosen = parser.parse_args()
    config = configuration(chosen.runs, chosen.masks)
    each = [tallies(scan, lesion, config) for scan, lesion in scans(config, chosen.runs, chosen.gain, chosen.flips)]
    for row in ROWS:
        own = [found[row] for found in each]
        single = [pooled_average_precision([tally]) for tally in own if tally.lesion.sum() + tally.missed]
        print(f"{row}: {pooled_average_precision(own):.3f} pooled, {np.mean(single):.3f} mean of {len(single)} patients")


if __name__ == "__main__":
    main()
