"""The diagnosis of a detector: lesions put into normal test scans, and what each row finds of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medae.anomaly.calibration import Normals
from medae.anomaly.detector import DETECTOR, Rows
from medae.anomaly.diagnosis import Cell, Diagnosis, DiagnosisConfig, Inserted, Probe, diagnose, no_room
from medae.anomaly.maps.registry import BASELINES
from medae.config import to_dict
from medae.data.case import Case, ImageRef, Manifest
from medae.data.reading import read_array
from medae.errors import DataError
from medae.inference.brainmask import extraction_of
from medae.metrics.pooled import PooledDifference, pooled_difference
from medae.plan import SpacePlan
from medae.preprocessing.brain import BrainExtraction, Once
from medae.preprocessing.prepare import prepare_case
from medae.report.figures_diagnosis import diagnosis_map
from medae.report.html import Report
from medae.volume import from_ras
from pipelines.console import Screen
from pipelines.detect_scoring import lesion_free
from pipelines.detect_titles import title_of
from pipelines.segmenting import reference

GRID_TOLERANCE_MM = 0.1
SECTION = "What it can and cannot see"


def diagnosed(manifest: Manifest, target: str | None, normals: Normals) -> Manifest:
    """The scans that lesions are put into: those without a lesion; of a cohort of slices all, in their lesion-free slices.

    Raises DataError if there is none.
    """
    if target is None or normals == "lesion_free_slices":
        return manifest
    kept = manifest.select(lambda case: not (reference(manifest, case, target)[0] > 0).any())
    if not kept.cases:
        raise DataError(
            "No test scan is without a lesion, so that none can be given a known one.",
            where="diagnosis",
            remedy="Leave diagnosis out, or add normal scans to the test subjects.",
        )
    return kept


def references(manifest: Manifest, config: DiagnosisConfig, channels: Sequence[str] = ()) -> dict[str, list[float] | None]:
    """By case, the median intensity of the healthy tissue in each channel, in the file's units; None where none is named.

    channels: of the plan, in order; all unless given. Raises DataError for a case that does not have the label map or the
    tissue, or whose label map lies on another grid, so that it can be asked before anything is trained.
    """
    return {case.id: _healthy(manifest, case, config, channels) for case in manifest.cases}


def check_lesions(
    manifest: Manifest, space: SpacePlan, reach: int, config: DiagnosisConfig, left_out: str | None, screen: Screen
) -> None:
    """Put the smallest lesions into each scan, so that what keeps a diagnosis from being made is known before a training.

    reach: slices on each side that filters look at. left_out: as in `run_diagnosis`. Raises DataError for a scan whose
    reference intensity is not above 0, and if not one lesion fits anywhere.
    """
    smallest = min(config.cells(), key=lambda cell: cell.radius)
    healthy = references(manifest, config, space.channels)
    fitting = 0
    with screen.progress("Looking where lesions can be put in") as report:
        for done, case in enumerate(manifest.cases, start=1):
            normal = _normal(manifest, case, space, reach, left_out)
            inserted = Inserted(smallest, config, case.id, healthy[case.id], normal)
            prepare_case(manifest, case, space, brain=extraction_of(space), change=inserted)
            fitting += inserted.count
            report(done, len(manifest.cases))
    if not fitting:
        raise no_room()


def run_diagnosis(
    manifest: Manifest, rows: Rows, config: DiagnosisConfig, left_out: str | None, screen: Screen
) -> Diagnosis:
    """Score every scan with the lesions of every cell. left_out: label map whose slices hold none and do not count."""
    space, reach = rows.plan.space, rows.scoring.postprocessing.reach
    healthy = references(manifest, config, space.channels)

    def scans() -> Iterator[tuple[str, Callable[[Cell], Probe]]]:
        with screen.progress("Scoring scans with lesions put in") as report:
            for done, case in enumerate(manifest.cases, start=1):
                normal, extraction = _normal(manifest, case, space, reach, left_out), extraction_of(space)
                brain = None if extraction is None else Once(extraction)  # lesions are put in once the mask is known
                own = partial(_with_lesions, manifest, case, rows, config, healthy[case.id], normal, brain)
                yield case.subject, own
                report(done, len(manifest.cases))

    return diagnose(rows, config, scans())


def _with_lesions(
    manifest: Manifest,
    case: Case,
    rows: Rows,
    config: DiagnosisConfig,
    healthy: Sequence[float] | None,
    normal: np.ndarray | None,
    brain: BrainExtraction | None,
    cell: Cell,
) -> Probe:
    inserted = Inserted(cell, config, case.id, healthy, normal)
    prepared = prepare_case(manifest, case, rows.plan.space, brain=brain, change=inserted)
    affine = prepared.native.matrix()
    counted = None if normal is None else from_ras(normal, affine)[0]
    return Probe(rows.scan(prepared), inserted.truth(affine), counted, inserted.count)


def _healthy(manifest: Manifest, case: Case, config: DiagnosisConfig, channels: Sequence[str]) -> list[float] | None:
    if not config.reference:
        return None
    ref = case.targets.get(config.reference_from)
    if not isinstance(ref, ImageRef):
        raise DataError(
            f"The case has no label map '{config.reference_from}' to take the reference intensity from.",
            where=case.id,
            remedy="Correct diagnosis.reference_from, or leave diagnosis.reference out.",
        )
    labels, grid = read_array(manifest, ref)
    inside = np.isin(labels, config.reference)
    if not inside.any():
        raise DataError(
            f"The label map '{config.reference_from}' has none of the values {list(config.reference)}.",
            where=case.id,
            remedy="Correct diagnosis.reference.",
        )
    found = []
    for name in channels or case.images:
        if name in case.images:
            image, own = read_array(manifest, case.images[name])
            if image.shape != labels.shape or not np.allclose(own.ras()[1], grid.ras()[1], atol=GRID_TOLERANCE_MM):
                raise DataError(
                    f"'{config.reference_from}' and '{name}' lie on different grids.",
                    where=case.id,
                    remedy="Resample the images and label maps of a case onto one grid.",
                )
            found.append(float(np.median(image[inside])))
    return found


def _normal(manifest: Manifest, case: Case, space: SpacePlan, reach: int, left_out: str | None) -> np.ndarray | None:
    """What is normal in a patient, and not seen together with a lesion by network or filter: bool ``[1, I, J, K]`` on
    nearest-RAS axes; None where everything is."""
    ref = case.targets.get(left_out or "")
    if space.slice_axis is None or not isinstance(ref, ImageRef):
        return None
    return lesion_free(read_array(manifest, ref)[0][0], space.slice_axis, space.slices + 2 * reach)[None]


def best_of(found: Diagnosis) -> str | None:
    """The baseline that finds most, as the mean over all cells."""
    known = {row: found.mean(row) or 0.0 for row in BASELINES if row in found.tallies}
    return max(known, key=lambda row: known[row]) if known else None


def facts(found: Diagnosis) -> dict[str, Any]:
    """Average precisions for ``result.json``, and by how much the rows are above the best baseline."""
    rows = {row: {cell.name: found.average_precision(row, cell) for cell in found.lesions} for row in found.tallies}
    means = {row: found.mean(row) for row in found.tallies}
    said: dict[str, Any] = {"average_precision": rows, "mean": means}
    said["mean_unfiltered"] = {row: found.mean_unfiltered(row) for row in found.tallies}
    said["lesions"] = {cell.name: n for cell, n in found.lesions.items()}
    if (best := best_of(found)) is not None:
        said["best_baseline"] = best
        said["difference"] = {row: to_dict(own) for row, own in found.differences(best).items() if row != best}
    return said


def describe_failed(report: Report, error: DataError) -> str:
    """The section of the report where there is no diagnosis, and why; returns the sentence."""
    said = f"The diagnosis could not be made: {error.what}"
    if error.where:
        said += f" ({error.where})"
    report.section(SECTION)
    report.note(f"{said} {error.remedy or ''}".strip())
    return said


def describe(report: Report, figure: Path, found: Diagnosis, config: DiagnosisConfig) -> None:
    """The section of the report: the map of what is seen, and the detector against the best baseline in words."""
    report.section(SECTION)
    best = best_of(found)
    shown = {
        row: {(cell.contrast, cell.radius, cell.blur): found.average_precision(row, cell) for cell in found.lesions}
        for row in (DETECTOR, best)
        if row is not None
    }
    titled = {title_of(row).capitalize(): values for row, values in shown.items()}
    differences: tuple[str, ...] = ()
    if best is not None:
        name = "Detector less baseline"
        titled[name] = {cell: value - shown[best][cell] for cell, value in shown[DETECTOR].items()}
        differences = (name,)
        report.note(_verdict(found, best))
    report.figure(
        diagnosis_map(titled, figure, differences=differences),
        f"Average precision of voxels for balls put into {len(found.subjects)} normal scans, {config.lesions} a scan where "
        "they fit; the contrast is a share of "
        + ("the healthy tissue's median intensity." if config.reference else "the median intensity inside the mask."),
        "chart",
    )
    columns = sorted({cell.contrast for cell in found.lesions})
    heads = ["Mean over sizes and edges, by contrast", *(f"{contrast:+g}" for contrast in columns), "all"]
    heads.append("all, before filters and erosion")
    heads += [] if best is None else [f"all, less {title_of(best)}", "95 % interval of that"]
    lines: list[list[object]] = []
    for row in found.tallies:
        means = [found.mean(row, contrast) for contrast in (*columns, None)]
        lines.append([title_of(row), *means, found.mean_unfiltered(row), *_less(found, row, best)])
    report.table(heads, lines)


def _less(found: Diagnosis, row: str, best: str | None) -> list[object]:
    """Two cells, of the difference and its interval; none without a baseline, empty ones for the baseline itself."""
    if best is None or row == best:
        return [] if best is None else [None, None]
    above = found.differences(best)[row]
    return [above.difference, None if above.low is None else f"{above.low:+.3f} to {above.high:+.3f}"]


def words_of(difference: PooledDifference) -> str:
    """Such as ``+0.131 [+0.100, +0.162]``, without ends where there are too few subjects for an interval."""
    ends = "" if difference.low is None else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    return f"{difference.difference:+.3f}{ends}"


def _verdict(found: Diagnosis, best: str) -> str:
    better = worse = open_ = 0
    for cell in found.lesions:
        own, other = (found.tallies[row][cell] for row in (DETECTOR, best))
        difference = pooled_difference(own, other, found.subjects)
        if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
            open_ += 1
        else:
            better, worse = better + (difference.low > 0), worse + (difference.high < 0)
    figures = (
        f"Over all kinds of lesions the detector's average precision is {found.mean(DETECTOR):.3f}, that of the best "
        f"baseline ({title_of(best)}) {found.mean(best):.3f}: {words_of(found.differences(best)[DETECTOR])}"
    )
    if open_ == len(found.lesions):
        return f"{figures}. On {len(found.subjects)} subjects no kind of lesion tells the two apart."
    return (
        f"{figures}. By intervals over {len(found.subjects)} subjects the detector finds more in {better} of "
        f"{len(found.lesions)} kinds, less in {worse}, and {open_} cannot be told; of so many, one in forty does by chance."
    )
