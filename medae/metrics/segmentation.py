"""How well a predicted label map agrees with a reference, a structure at a time, in the scan's own grid.

Every label is scored by Dice (overlap), HD95 (95th percentile of the distances between the surfaces, the larger of
both directions, mm), surface Dice (share of both surfaces within a tolerance of each other) and its two volumes. What
is missed or invented counts as wrong as can be, and what is rightly absent as right as can be, so that every model is
scored on the same labels of the same cases (the rule of the BraTS challenge):

=============  ====  ===================  ============
reference      Dice  HD95                 surface Dice
=============  ====  ===================  ============
both present   measured                   measured
one of them    0     the image diagonal   0
neither        1     0                    1
=============  ====  ===================  ============
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.metrics.utils import get_mask_edges, get_surface_distance

from medae.config import Config
from medae.errors import GeometryError

MM3_PER_ML = 1000.0
METRICS = ("dice", "hd95", "surface_dice")


class LabelScore(Config):
    """One structure in one case. dice, surface_dice: 0 to 1. hd95: mm. volumes: ml."""

    dice: float
    hd95: float
    surface_dice: float
    volume_ml_prediction: float
    volume_ml_reference: float


def case_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    labels: Mapping[int, str],
    tolerance: float = 1.0,
) -> dict[str, LabelScore]:
    """The scores of every label but 0 (background), by label name.

    prediction, reference: label maps of the same shape, two or three axes, in the same grid. spacing: mm, an axis each.
    tolerance: mm, of the surface Dice. Values that ``labels`` does not name are ignored.
    Surface distances are between boundary voxels (HD95) or boundary elements weighted by their area (surface Dice,
    as in Nikolov et al. 2018), so that thick slices do not count as thin ones do. A single slice, with one voxel along an
    axis, has an outline and no faces: its surfaces are those of the plane.
    Raises GeometryError if shapes or spacing do not fit.
    """
    if prediction.shape != reference.shape:
        raise GeometryError(
            f"The prediction has the shape {prediction.shape}, the reference {reference.shape}.",
            remedy="Compare label maps on the same grid, that of the scan.",
        )
    if len(spacing) != prediction.ndim or not all(np.isfinite(step) and step > 0 for step in spacing):
        raise GeometryError(
            f"The spacing {tuple(spacing)} is not a positive length for each of {prediction.ndim} axes.",
            remedy="Give the spacing of the scan's own grid in mm.",
        )
    return {
        name: _score(prediction == value, reference == value, tuple(float(step) for step in spacing), tolerance)
        for value, name in labels.items()
        if value != 0
    }


def _score(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> LabelScore:
    voxel_ml = float(np.prod(spacing)) / MM3_PER_ML
    prediction, reference, spacing = _in_plane(prediction, reference, spacing)
    found, real = int(prediction.sum()), int(reference.sum())
    if found and real:
        dice = 2 * int((prediction & reference).sum()) / (found + real)
        hd95, surface_dice = _surface_scores(prediction, reference, spacing, tolerance)
    elif found or real:
        dice, surface_dice = 0.0, 0.0
        hd95 = float(np.linalg.norm(np.multiply(prediction.shape, spacing)))
    else:
        dice, hd95, surface_dice = 1.0, 0.0, 1.0
    return LabelScore(
        dice=dice,
        hd95=hd95,
        surface_dice=surface_dice,
        volume_ml_prediction=found * voxel_ml,
        volume_ml_reference=real * voxel_ml,
    )


def _in_plane(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Without the axis along which a single slice has one voxel; what has another shape is left as it is."""
    long = [axis for axis, size in enumerate(prediction.shape) if size > 1]
    if len(long) != 2:
        return prediction, reference, spacing
    short = tuple(axis for axis in range(prediction.ndim) if axis not in long)
    return prediction.squeeze(short), reference.squeeze(short), tuple(spacing[axis] for axis in long)


def _surface_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float
) -> tuple[float, float]:
    """HD95 in mm and surface Dice of two masks that are not empty. The image's border counts as a surface."""
    boundaries = get_mask_edges(prediction, reference)
    hd95 = max(float(np.percentile(distances, 95)) for distances in _both_ways(boundaries, spacing))

    *elements, area_prediction, area_reference = get_mask_edges(prediction, reference, spacing=spacing)
    areas = (area_prediction[elements[0]], area_reference[elements[1]])
    near = [area[distances <= tolerance].sum() for area, distances in zip(areas, _both_ways(elements, spacing), strict=True)]
    return hd95, float(sum(near) / sum(area.sum() for area in areas))


def _both_ways(surfaces: Sequence[np.ndarray], spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The distance in mm of each place of one surface to the nearest of the other, and the other way round."""
    first, second = surfaces
    return (
        np.asarray(get_surface_distance(first, second, spacing=spacing)),
        np.asarray(get_surface_distance(second, first, spacing=spacing)),
    )


def summarise(cases: Mapping[str, Mapping[str, LabelScore]]) -> dict[str, Any]:
    """The scores of a test set, ready for JSON.

    cases: ``case_metrics`` by case id. Returns ``dice_mean``, ``hd95_mean``, ``surface_dice_mean`` (mean over the labels
    of a case, then over cases; None if nothing counted), ``n_test`` (cases), ``labels`` (for each name the mean over cases
    of ``dice``, ``hd95``, ``surface_dice``; ``n``, the cases whose reference has it; ``invented``, the others in which it
    was found) and ``cases`` (every single score). A label that no reference has is in none of the means.
    """
    names = list(dict.fromkeys(name for scores in cases.values() for name in scores))
    referenced = {name for name in names if any(name in scores and _is_there(scores[name]) for scores in cases.values())}

    def mean(metric: str, scores: Iterable[LabelScore]) -> float | None:
        return _mean([getattr(score, metric) for score in scores])

    summary: dict[str, Any] = {}
    for metric in METRICS:
        by_case = [
            mean(metric, [score for name, score in scores.items() if name in referenced]) for scores in cases.values()
        ]
        summary[f"{metric}_mean"] = _mean([value for value in by_case if value is not None])
    summary["n_test"] = len(cases)
    summary["labels"] = {}
    for name in names:
        scores = [found[name] for found in cases.values() if name in found]
        absent = [score for score in scores if not _is_there(score)]
        summary["labels"][name] = {
            **{metric: mean(metric, scores) if name in referenced else None for metric in METRICS},
            "n": len(scores) - len(absent),
            "invented": sum(score.volume_ml_prediction > 0 for score in absent),
        }
    summary["cases"] = {
        case_id: {name: score.model_dump() for name, score in scores.items()} for case_id, scores in cases.items()
    }
    return summary


def case_dice(summary: Mapping[str, Any]) -> dict[str, float]:
    """Mean Dice over the labels of each case, of what ``summarise`` returns; of the labels that any reference has."""
    return case_means(summary, "dice")


def case_means(summary: Mapping[str, Any], metric: str) -> dict[str, float]:
    """The same of ``dice``, ``hd95`` or ``surface_dice``."""
    counted = {name for name, found in summary["labels"].items() if found["dice"] is not None}
    means = {
        case: _mean([score[metric] for name, score in scores.items() if name in counted])
        for case, scores in summary["cases"].items()
    }
    return {case: value for case, value in means.items() if value is not None}


def dice_and_volume(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Of a summary's ``cases``: by label and case the volume of the reference (ml) and the Dice, where it has the label."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for case, labels in cases.items():
        for label, score in labels.items():
            if score["volume_ml_reference"] > 0:
                found.setdefault(label, {})[case] = (score["volume_ml_reference"], score["dice"])
    return found


def _is_there(score: LabelScore) -> bool:
    return score.volume_ml_reference > 0


def _mean(values: Sequence[float]) -> float | None:
    """None if there are none."""
    return float(np.mean(values)) if values else None
