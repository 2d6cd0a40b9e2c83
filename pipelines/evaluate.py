"""``medae evaluate``: label maps against references, by file name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from medae.config import Config, validate
from medae.errors import DataError, GeometryError
from medae.formats.endings import image_files, stem
from medae.metrics.segmentation import LabelScore, case_dice, case_metrics, summarise
from medae.report.figures_segmentation import dice_strip
from medae.report.html import Report
from medae.volume import spacing_of
from pipelines.console import Screen, shown
from pipelines.files import write_json
from pipelines.segmenting import read_native

AFFINE_TOLERANCE_MM = 1e-2


class Options(Config):
    """tolerance: of the surface Dice, mm."""

    tolerance: float = Field(default=1.0, gt=0)


def run(predictions: Path, labels: Path, options: Mapping[str, Any], out: Path, as_json: bool = False) -> dict[str, Any]:
    """Score every reference; a missing prediction is an error. Labels are all values above 0 of both."""
    screen = Screen(as_json)
    tolerance = validate(Options, options, where="--tolerance").tolerance
    pairs = _pairs(predictions, labels)
    values = {int(value) for pair in pairs.values() for path in pair for value in np.unique(read_native(path, "labels")[0])}
    names = {value: f"label {value}" for value in sorted(values) if value}
    scores: dict[str, dict[str, LabelScore]] = {}
    with screen.progress("Comparing") as report:
        for done, (name, (predicted, reference)) in enumerate(pairs.items(), start=1):
            found, affine = read_native(predicted, "labels")
            truth, expected = read_native(reference, "labels")
            if found.shape != truth.shape or not np.allclose(affine, expected, atol=AFFINE_TOLERANCE_MM):
                raise GeometryError(
                    f"The prediction ({found.shape}) and the reference ({truth.shape}) are not on the same grid.",
                    where=predicted.name,
                    remedy="Write predictions on the scan's own grid, as medae predict does.",
                )
            scores[name] = case_metrics(found, truth, spacing_of(expected), names, tolerance)
            report(done, len(pairs))
    metrics = {"prediction": summarise(scores)}
    result = {"stage": "evaluate", "metrics": metrics, "facts": {"surface_dice_tolerance_mm": tolerance}}
    write_json(out / "result.json", result)
    page = Report("Evaluation", "Label maps against references, in each scan's own space")
    headers = ("dice_mean", "hd95_mean", "surface_dice_mean", "n_test")
    page.table(list(headers), [[metrics["prediction"][name] for name in headers]])
    dice = case_dice(metrics["prediction"])
    if dice:
        page.figure(dice_strip({"prediction": dice}, out / "dice.png"), "Dice of every case.")
    rows = [[case, name, s.dice, s.hd95, s.surface_dice] for case, labels_ in scores.items() for name, s in labels_.items()]
    page.table(["Case", "Label", "Dice", "HD95 (mm)", "Surface Dice"], rows)
    page.write(out / "report.html")
    screen.table("Evaluation", ["", *headers], [["prediction", *(metrics["prediction"][name] for name in headers)]])
    screen.say(f"Report: {shown(out / 'report.html')}")
    screen.json(result)
    return result


def _pairs(predictions: Path, labels: Path) -> dict[str, tuple[Path, Path]]:
    for path in (predictions, labels):
        if not path.exists():
            raise DataError("This does not exist.", where=path, remedy="Check the path.")
    if labels.is_file() != predictions.is_file():
        raise DataError("One is a file, the other a folder.", where=predictions, remedy="Give two files or two folders.")
    if labels.is_file():
        return {stem(labels): (predictions, labels)}
    found = {stem(path): path for path in image_files(predictions)}
    wanted = {stem(path): path for path in image_files(labels)}
    if not wanted:
        raise DataError("There is no image in this folder.", where=labels, remedy="Give the folder of the label maps.")
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise DataError(
            f"{len(missing)} of {len(wanted)} references have no prediction of their name: {', '.join(missing[:5])}.",
            where=predictions,
            remedy="Add them, or give a folder with only the references to compare.",
        )
    return {name: (found[name], path) for name, path in wanted.items()}
