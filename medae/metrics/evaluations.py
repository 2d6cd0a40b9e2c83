"""Keeping an evaluation of anomalies as JSON, and putting those of several parts together as one.

The parts are of different scans, such as the folds of a cross-validation, whose maps should have one unit: pooled figures
compare their values.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medae.errors import DataError
from medae.metrics.anomaly import AnomalyEvaluation, LesionError, ScanMetrics
from medae.metrics.lesions import LesionMatch
from medae.metrics.pooled import Tally, floors_of


def packed(evaluation: AnomalyEvaluation, groups: int | None = None) -> dict[str, Any]:
    """In plain JSON types. groups: of scores that are told apart, see ``floors_of``; rows of scans stay exact."""
    tallies = evaluation.tallies
    if groups is not None:
        floors = floors_of(Tally.of(evaluation.pooled), groups)
        tallies = [tally.coarse(floors) for tally in tallies]
    return {
        "overlap": evaluation.overlap,
        "strata_ml": list(evaluation.strata_ml),
        "scans": [
            asdict(scan) | {"tally": tally_text(tally)} for scan, tally in zip(evaluation.scans, tallies, strict=True)
        ],
    }


def unpacked(content: Mapping[str, Any], where: str | Path) -> AnomalyEvaluation:
    """The evaluation that was packed. where: how an error names it. Raises DataError if it is damaged."""
    try:
        found = AnomalyEvaluation(content["overlap"], content["strata_ml"])
        for row in content["scans"]:
            found.include(_scan(row), tally_of(row["tally"]))
    except (ValueError, KeyError, TypeError, IndexError, binascii.Error, zlib.error) as error:
        problem = f"An evaluation cannot be read: {error}"
        raise DataError(problem, where=where, remedy="Score the scans again.") from error
    return found


def save_evaluation(evaluation: AnomalyEvaluation, path: Path) -> None:
    """Write an evaluation to a JSON file."""
    path.write_text(json.dumps(packed(evaluation)), encoding="utf-8")


def load_evaluation(path: Path) -> AnomalyEvaluation:
    """Read what ``save_evaluation`` wrote. Raises DataError if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = f"An evaluation cannot be read: {error}"
        raise DataError(problem, where=path, remedy="Score the scans again.") from error
    return unpacked(content, path)


def merged(parts: Sequence[AnomalyEvaluation]) -> AnomalyEvaluation:
    """The evaluation of all scans of several. Raises DataError if one scan is in two, or the rules differ."""
    names = [scan.case for part in parts for scan in part.scans]
    if len(set(names)) < len(names):
        raise DataError("A scan is in two evaluations.", remedy="Put evaluations of different scans together.")
    if len({(part.overlap, tuple(part.strata_ml)) for part in parts}) > 1:
        raise DataError("The evaluations have different rules for lesions.", remedy="Score all scans by one rule.")
    found = AnomalyEvaluation(parts[0].overlap, parts[0].strata_ml)
    for part in parts:
        for scan, tally in zip(part.scans, part.tallies, strict=True):
            found.include(scan, tally)
    return found


def tally_text(tally: Tally) -> str:
    """A tally in letters: bins as steps from one to the next, then counts, compressed."""
    numbers = [np.array([tally.missed]), np.diff(tally.bins, prepend=0), tally.normal, tally.lesion]
    data = np.concatenate(numbers).astype("<i4").tobytes()
    return base64.b64encode(zlib.compress(data)).decode("ascii")


def tally_of(text: str) -> Tally:
    """The tally that ``tally_text`` wrote. Raises ValueError or zlib.error if it is damaged."""
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype="<i4")
    steps, normal, lesion = np.split(numbers[1:], 3)
    return Tally(np.cumsum(steps).astype(np.int32), normal, lesion, int(numbers[0]))


def _scan(row: dict[str, Any]) -> ScanMetrics:
    found = row["lesions"]
    lesions = LesionMatch(tuple(found["volumes_ml"]), tuple(found["found"]), found["findings"], found["true_findings"])
    error = None if row["error"] is None else LesionError(**row["error"])
    kept = {key: value for key, value in row.items() if key != "tally"}
    return ScanMetrics(**{**kept, "lesions": lesions, "error": error})
