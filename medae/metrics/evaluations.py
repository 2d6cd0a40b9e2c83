"""Keeping an evaluation of anomalies on disk, and putting those of several parts together as one.

The parts are of different scans, such as the folds of a cross-validation, whose maps should have one unit: pooled figures
compare their values.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medae.errors import DataError
from medae.metrics.anomaly import AnomalyEvaluation, LesionError, ScanMetrics
from medae.metrics.lesions import LesionMatch
from medae.metrics.pooled import Tally


def save_evaluation(evaluation: AnomalyEvaluation, path: Path) -> None:
    """Write an evaluation as a compressed ``.npz`` of numbers and JSON; nothing in it is pickled."""
    pooled = evaluation.pooled
    bins = np.flatnonzero(pooled.normal + pooled.lesion)
    tallies = evaluation.tallies
    content: dict[str, Any] = {
        "bins": bins,
        "normal": pooled.normal[bins],
        "lesion": pooled.lesion[bins],
        "counts": np.array([pooled.missed, *evaluation.voxels], dtype=np.int64),
        "dice_places": (steps := np.flatnonzero(np.diff(evaluation.dice_curves, prepend=np.nan) != 0)),
        "dice_values": evaluation.dice_curves[steps],
        "lengths": np.array([len(tally.bins) for tally in tallies], dtype=np.int64),
        "missed": np.array([tally.missed for tally in tallies], dtype=np.int64),
        **{
            f"tally_{name}": np.concatenate([getattr(tally, name) for tally in tallies] or [np.arange(0)])
            for name in ("bins", "normal", "lesion")
        },
    }
    record = {
        "overlap": evaluation.overlap,
        "strata_ml": evaluation.strata_ml,
        "scans": [asdict(s) for s in evaluation.scans],
    }
    text = np.frombuffer(json.dumps(record).encode(), dtype=np.uint8)
    np.savez_compressed(path, record=text, **content)


def load_evaluation(path: Path) -> AnomalyEvaluation:
    """Read what ``save_evaluation`` wrote. Raises DataError if it is missing or damaged."""
    try:
        with np.load(path) as content:
            stored = {name: content[name] for name in content.files}
        record = json.loads(stored["record"].tobytes())
        found = AnomalyEvaluation(record["overlap"], record["strata_ml"])
        found.scans = [_scan(row) for row in record["scans"]]
        found.pooled.normal[stored["bins"]], found.pooled.lesion[stored["bins"]] = stored["normal"], stored["lesion"]
        found.pooled.missed, found.voxels = int(stored["counts"][0]), stored["counts"][1:].copy()
        lengths = np.diff(stored["dice_places"], append=len(found.dice_curves))
        found.dice_curves = np.repeat(stored["dice_values"], lengths)
        parts = [
            np.split(stored[f"tally_{name}"], np.cumsum(stored["lengths"])[:-1]) for name in ("bins", "normal", "lesion")
        ]
        found.tallies = [
            Tally(bins, normal, lesion, int(missed))
            for bins, normal, lesion, missed in zip(*parts, stored["missed"], strict=True)
        ]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"An evaluation cannot be read: {error}", where=path, remedy="Score the scans again.") from error
    return found


def merged(parts: Sequence[AnomalyEvaluation]) -> AnomalyEvaluation:
    """The evaluation of all scans of several. Raises DataError if one scan is in two, or the rules differ."""
    names = [scan.case for part in parts for scan in part.scans]
    if len(set(names)) < len(names):
        raise DataError("A scan is in two evaluations.", remedy="Put evaluations of different scans together.")
    if len({(part.overlap, tuple(part.strata_ml)) for part in parts}) > 1:
        raise DataError("The evaluations have different rules for lesions.", remedy="Score all scans by one rule.")
    found = AnomalyEvaluation(parts[0].overlap, parts[0].strata_ml)
    for part in parts:
        found.scans += part.scans
        found.tallies += part.tallies
        found.pooled.merge(part.pooled)
        found.voxels = found.voxels + part.voxels
        found.dice_curves = found.dice_curves + part.dice_curves
    return found


def _scan(row: dict[str, Any]) -> ScanMetrics:
    found = row["lesions"]
    lesions = LesionMatch(tuple(found["volumes_ml"]), tuple(found["found"]), found["findings"], found["true_findings"])
    error = None if row["error"] is None else LesionError(**row["error"])
    return ScanMetrics(**{**row, "lesions": lesions, "error": error})
