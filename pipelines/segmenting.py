"""Applying a segmenter to cases and scoring it in each scan's own space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from medae.data.case import Case, ImageRef, Manifest
from medae.data.reading import read_image
from medae.data.sides import has_sides
from medae.errors import ConfigError, DataError
from medae.export.nifti import write_native
from medae.formats.read import read_volume
from medae.inference.brainmask import extraction_of
from medae.inference.combine import Segmenter, segment
from medae.metrics.reliability import Reliability
from medae.metrics.segmentation import LabelScore, case_metrics
from medae.plan import Plan
from medae.preprocessing.prepare import prepare_case
from medae.volume import Volume, from_ras, spacing_of
from pipelines.console import Screen
from pipelines.data import name_of


def with_target(manifest: Manifest, target: str) -> Manifest:
    """The cases that have the label map. Raises DataError if none has."""
    if not manifest.cases:
        raise DataError(
            "A part of the split has no subject.", where="split", remedy="Give test and validation at least one subject."
        )
    kept = manifest.select(lambda case: isinstance(case.targets.get(target), ImageRef))
    if not kept.cases:
        known = sorted({name for case in manifest.cases for name in case.targets})
        raise DataError(
            f"None of {len(manifest.cases)} cases has the label map '{target}'.",
            where="target",
            remedy=f"Label maps that are there: {', '.join(known) or 'none'}.",
        )
    return kept


def label_names(manifest: Manifest, target: str) -> dict[int, str]:
    """Label value -> name: as the data set declares them, else as they occur in the manifest's label maps.

    Raises DataError for a value that is not declared, unless the values are 0, 1, 2 and so on without gaps, and if there is
    none beside the background.
    """
    declared = manifest.labels.get(target)
    names = {0: "background", **(declared or {})}
    for case in manifest.cases:
        found = {int(value) for value in np.unique(reference(manifest, case, target)[0])}
        if declared and not found <= set(names):
            raise DataError(
                f"'{target}' has the values {sorted(found - set(names))}, which the data set does not declare.",
                where=case.id,
                remedy="Correct the label map, or declare the values (dataset.json, data.label_names).",
            )
        names |= {value: name_of(target, value) for value in found - set(names)}
    if set(names) != set(range(len(names))):
        raise DataError(
            f"The values of '{target}' are {sorted(names)}; a segmenter needs 0, 1, 2 and so on without gaps.",
            where="target",
            remedy="Name the structures to learn and their values (data.structures), or renumber the label maps.",
        )
    if len(names) < 2:
        raise DataError(
            f"The label maps '{target}' of {len(manifest.cases)} cases hold nothing but background.",
            where="target",
            remedy="Choose another target, or more cases.",
        )
    return dict(sorted(names.items()))


def refuse_mirrored_sides(flip: Sequence[float], plan: Plan, labels: Mapping[int, str]) -> None:
    """Raises ConfigError if training mirrors left and right while labels tell them apart. flip: chance an axis, or empty."""
    left_right = plan.space.slice_axis != 0
    if flip and left_right and flip[0] > 0 and has_sides(labels):
        raise ConfigError(
            "The labels have sides, and patches would be mirrored along left-right, where left looks like right.",
            where="augmentation.flip",
            remedy="Make its first entry 0.",
        )


def reference(
    manifest: Manifest, case: Case, target: str, affine: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[float, float, float]]:
    """A case's label map, and the voxel size along its axes in mm.

    affine: 4x4 of the scan's file, onto whose axes the label map is brought: it may be stored with others. Without it, the
    label map comes on its own.
    """
    ref = case.targets.get(target)
    if not isinstance(ref, ImageRef):
        raise DataError(f"The case has no label map '{target}'.", where=case.id, remedy="Choose another target.")
    volume = read_image(manifest, ref)
    axes = volume.native.matrix() if affine is None else affine
    return from_ras(np.asarray(volume.image), axes)[0], spacing_of(axes)


def native_image(manifest: Manifest, ref: ImageRef) -> tuple[np.ndarray, np.ndarray]:
    """An image of a case on its file's own three axes, and its 4x4 affine (voxel to world mm)."""
    return _native(read_image(manifest, ref))


def read_native(path: Path, kind: Literal["intensity", "labels"]) -> tuple[np.ndarray, np.ndarray]:
    """A single file on its own three axes, and its 4x4 affine (voxel to world mm)."""
    return _native(read_volume([path], kind))


def _native(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    affine = volume.native.matrix()
    return from_ras(np.asarray(volume.image), affine)[0], affine


def score_arms(
    models: Mapping[str, nn.Module],
    test: Manifest,
    target: str,
    labels: Mapping[int, str],
    plan: Plan,
    device: torch.device,
    *,
    mirrored: Sequence[int],
    tolerance: float,
    folder: Path,
    screen: Screen,
    reliability: dict[str, Reliability] | None = None,
) -> dict[str, dict[str, dict[str, LabelScore]]]:
    """Scores by arm, case and label. Predictions are written to ``folder/<arm>/<case>.nii.gz``.

    reliability: takes in, by arm, how sure each was of which label.
    """
    scores: dict[str, dict[str, dict[str, LabelScore]]] = {arm: {} for arm in models}
    with screen.progress("Scoring cases") as report:
        for done, case in enumerate(test.cases, start=1):
            prepared = prepare_case(test, case, plan.space, brain=extraction_of(plan.space))
            truth, spacing = reference(test, case, target, prepared.native.matrix())
            for arm, model in models.items():
                sure = reliability is not None
                segmented = segment([Segmenter(model, plan, device, mirrored)], [prepared], confidence=sure)
                found = segmented.labels
                if reliability is not None and segmented.confidence is not None:
                    reliability.setdefault(arm, Reliability()).add(segmented.confidence, found, truth)
                (folder / arm).mkdir(parents=True, exist_ok=True)
                write_native(found, prepared.native, folder / arm / f"{case.id}.nii.gz", labels=True)
                scores[arm][case.id] = case_metrics(found, truth, spacing, labels, tolerance)
            report(done, len(test.cases))
    return scores
