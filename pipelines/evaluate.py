"""``medae evaluate``: label maps against references, by file name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from medae.config import Config, validate
from medae.errors import DataError, GeometryError
from medae.formats.endings import image_files, stem
from medae.formats.header import read_grid
from medae.metrics.segmentation import LabelScore, case_dice, case_metrics, dice_and_volume, summarise
from medae.report.figures_segmentation import dice_by_volume, dice_strip
from medae.report.html import Report
from medae.report.view import View
from medae.report.viewer import MOST
from medae.volume import spacing_of
from pipelines.console import Screen, shown
from pipelines.files import write_json
from pipelines.segmenting import read_native

AFFINE_TOLERANCE_MM = 1e-2
FIRST_CHANNEL = "_0000"
HEADERS = {"dice_mean": "Dice", "hd95_mean": "HD95 (mm)", "surface_dice_mean": "Surface Dice", "n_test": "Cases"}


class Options(Config):
    """tolerance: of the surface Dice, mm."""

    tolerance: float = Field(default=1.0, gt=0)


def run(
    predictions: Path,
    labels: Path,
    options: Mapping[str, Any],
    out: Path,
    images: Path | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Score every reference; a missing prediction is an error. Labels are all values above 0 of both.

    images: the scan, or the folder of scans with the names of the references, to show behind the label maps.
    """
    screen = Screen(as_json)
    tolerance = validate(Options, options, where="--tolerance").tolerance
    pairs = _pairs(predictions, labels)
    scans = _scans(images, labels, pairs)
    for case, (predicted, reference) in pairs.items():
        _refuse_other_grid("prediction", predicted, reference, "Write it on the scan's own grid, as medae predict does.")
        if case in scans:
            _refuse_other_grid("scan", scans[case], reference, "Give the scans that the references were drawn on.")
    names = _names(pairs)
    scores: dict[str, Mapping[str, LabelScore]] = {}
    empty = 0
    with screen.progress("Comparing") as report:
        for done, (case, pair) in enumerate(pairs.items(), start=1):
            found, truth, affine = _together(*pair)
            empty += bool(truth.any() and not found.any())
            scores[case] = case_metrics(found, truth, spacing_of(affine), names, tolerance)
            report(done, len(pairs))
    metrics = {"prediction": summarise(scores)}
    result = {"stage": "evaluate", "metrics": metrics, "facts": {"surface_dice_tolerance_mm": tolerance, "empty": empty}}
    page = _page(metrics["prediction"], out, tolerance)
    if empty:
        are = "is" if empty == 1 else "are"
        screen.warn(said := f"{empty} of {len(pairs)} predictions {are} empty where the reference has labels.")
        page.note(said, "caution")
    worst = sorted(case_dice(metrics["prediction"]).items(), key=lambda entry: (entry[1], entry[0]))
    views = [_view(case, dice, scans[case], _together(*pairs[case]), names) for case, dice in worst[:MOST] if case in scans]
    if views:
        page.section("To look through").text("The worst cases first.").viewer(views)
    page.write(out / "report.html")
    write_json(out / "result.json", result)
    headers = list(HEADERS.values())
    screen.table("Evaluation", ["", *headers], [["prediction", *(metrics["prediction"][name] for name in HEADERS)]])
    screen.say(f"Report: {shown(out / 'report.html')}")
    screen.json(result)
    return result


def _names(pairs: Mapping[str, tuple[Path, Path]]) -> dict[int, str]:
    """Of all values that occur."""
    values = {int(value) for pair in pairs.values() for path in pair for value in np.unique(read_native(path, "labels")[0])}
    return {value: f"label {value}" for value in sorted(values) if value}


def _together(predicted: Path, reference: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label map and reference on the file's own axes, and their affine."""
    found, _ = read_native(predicted, "labels")
    truth, expected = read_native(reference, "labels")
    return found, truth, expected


def _refuse_other_grid(what: str, path: Path, reference: Path, remedy: str) -> None:
    """Raises GeometryError if a file lies on another grid than a reference, saying in what they differ."""
    own, expected = read_grid([path]), read_grid([reference])
    if own.shape != expected.shape:
        differ = f"{_times(own.shape)} voxels, and the reference {_times(expected.shape)}"
    elif not np.allclose(spacing_of(own.matrix()), spacing_of(expected.matrix()), atol=AFFINE_TOLERANCE_MM):
        steps = [_times(f"{step:.4g}" for step in spacing_of(grid.matrix())) for grid in (own, expected)]
        differ = f"voxels of {steps[0]} mm, and the reference of {steps[1]} mm"
    elif not np.allclose(own.matrix(), expected.matrix(), atol=AFFINE_TOLERANCE_MM):
        differ = "another origin or orientation than the reference"
    else:
        return
    text = f"The {what} has {differ}: they are not on the same grid."
    raise GeometryError(text, where=path.name, remedy=remedy)


def _times(values: Iterable[object]) -> str:
    return " x ".join(map(str, values))


def _page(found: Mapping[str, Any], out: Path, tolerance: float) -> Report:
    """Figures and tables, the worst cases first."""
    page = Report("Evaluation", "Label maps against references, in each scan's own space")
    page.card("Dice", found["dice_mean"], f"{found['n_test']} cases")
    page.table(list(HEADERS.values()), [[found[name] for name in HEADERS]])
    labels = [
        [label, score["dice"], score["hd95"], score["surface_dice"], score["n"], score["invented"]]
        for label, score in found["labels"].items()
    ]
    page.table(["Label", "Dice", "HD95 (mm)", "Surface Dice", "Cases with it", "Found in others"], labels)
    dice = case_dice(found)
    if not dice:
        return page
    page.figure(dice_strip({"prediction": dice}, out / "dice.png"), "Dice of every case.", "chart")
    figure = dice_by_volume(dice_and_volume(found["cases"]), out / "dice-volume.png")
    page.figure(figure, "Dice against the volume of the reference.", "chart")
    page.section("Cases")
    rows = [
        [case, dice[case], label, score["dice"], score["hd95"], score["surface_dice"], score["volume_ml_reference"]]
        for case in sorted(dice, key=lambda case: (dice[case], case))
        for label, score in found["cases"][case].items()
    ]
    headers = ["Case", "Its mean Dice", "Label", "Dice", "HD95 (mm)", f"Surface Dice ({tolerance:g} mm)", "Reference (ml)"]
    page.table(headers, rows, caption="The case with the lowest mean first.")
    return page


def _view(
    case: str, dice: float, scan: Path, compared: tuple[np.ndarray, np.ndarray, np.ndarray], names: Mapping[int, str]
) -> View:
    """A scan with reference and prediction over it."""
    found, truth, affine = compared
    image, _ = read_native(scan, "intensity")
    layers = [(title, array, names, (0.0, 1.0)) for title, array in (("reference", truth), ("prediction", found))]
    return View.on_file(case, image, affine, layers, [f"Dice {dice:.3f}"])


def _by_name(folder: Path) -> dict[str, Path]:
    """The images of a folder. Raises DataError for two of one name."""
    found: dict[str, Path] = {}
    for path in image_files(folder):
        if (before := found.setdefault(stem(path), path)) != path:
            raise DataError(f"It has the same name as {before.name}.", where=path.name, remedy="Rename one, or take it out.")
    return found


def _scans(images: Path | None, labels: Path, pairs: Mapping[str, tuple[Path, Path]]) -> dict[str, Path]:
    """The scan of each case. Raises DataError where one is missing; nothing where none were given."""
    if images is None:
        return {}
    if not images.exists():
        raise DataError("This does not exist.", where=images, remedy="Check the path of --images.")
    if images.is_file() != labels.is_file():
        raise DataError("One is a file, the other a folder.", where=images, remedy="Give --images as the labels are given.")
    if images.is_file():
        return dict.fromkeys(pairs, images)
    found = _by_name(images)
    channels = {name[: -len(FIRST_CHANNEL)]: path for name, path in found.items() if name.endswith(FIRST_CHANNEL)}
    found = channels | found
    if missing := sorted(set(pairs) - set(found)):
        raise DataError(
            f"{len(missing)} of {len(pairs)} references have no scan of their name: {', '.join(missing[:5])}.",
            where=images,
            remedy="Give the folder of the scans that the references were drawn on, or leave --images out.",
        )
    return {case: found[case] for case in pairs}


def _pairs(predictions: Path, labels: Path) -> dict[str, tuple[Path, Path]]:
    for path in (predictions, labels):
        if not path.exists():
            raise DataError("This does not exist.", where=path, remedy="Check the path.")
    if labels.is_file() != predictions.is_file():
        raise DataError("One is a file, the other a folder.", where=predictions, remedy="Give two files or two folders.")
    if labels.is_file():
        return {stem(labels): (predictions, labels)}
    found, wanted = _by_name(predictions), _by_name(labels)
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
