"""Scoring the scans of a detection: what maps learn, thresholds, and the figures of every row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from medae.anomaly.calibration import Calibration, Normals, calibrate
from medae.anomaly.detector import DETECTOR, Rows, ScanMaps, reconstruction_error, scan_mask, slice_axis
from medae.anomaly.findings import Finding, as_csv, findings_of
from medae.anomaly.maps.registry import learn_maps, needs_model
from medae.anomaly.postprocessing import PostprocessingConfig, eroded
from medae.anomaly.scan import Scan
from medae.data.case import Case, Manifest
from medae.export.nifti import write_native
from medae.metrics.anomaly import AnomalyEvaluation
from medae.preprocessing.prepare import Prepared
from medae.preprocessing.store import Store
from medae.volume import NativeGrid
from pipelines.console import Screen
from pipelines.files import write_text
from pipelines.segmenting import reference


@dataclass(frozen=True)
class Scorer:
    """What scores the scans of a detection.

    store: the prepared scans of the cohort and of the test, with the label map of lesions (target), if there is one: without
    it all scans are normal. folder: of the results. scratch: for what is needed until all is scored.
    """

    rows: Rows
    store: Store
    target: str | None
    normals: Normals
    folder: Path
    scratch: Path
    screen: Screen

    def scans(self, manifest: Manifest, what: str) -> Iterator[tuple[Case, Scan]]:
        """The scans of a part one at a time. what: for the line of progress."""
        with self.screen.progress(what) as report:
            for done, case in enumerate(manifest.cases, start=1):
                yield case, self._scan(case)
                report(done, len(manifest.cases))

    def learn(self, training: Manifest, calibration: Manifest) -> None:
        """Let the maps learn what is normal."""
        learn_maps(
            self.rows.maps.values(),
            lambda: (scan for _, scan in self.scans(training, "Learning from normal scans")),
            lambda: (scan for _, scan in self.scans(calibration, "Scaling by normal scans")),
        )

    def calibrate(self, normal: Manifest, rate: float, name: str) -> dict[str, Calibration]:
        """A threshold a row from normal scans; memory holds one scan, the maps wait on disk. name: of the detection.

        Of patients, slices with a lesion are left out, and those beside them that the network or a filter sees one from.
        """
        slices = self.normals == "lesion_free_slices"
        kept: list[str] = []
        subjects: list[str] = []
        grids: list[tuple[int, float]] = []
        for case, scan in self.scans(normal, "Calibrating on normal scans"):
            lesion = self.lesion(normal, case, scan.prepared.native) if slices else None
            mask = counted(scan, self.rows.scoring.postprocessing, lesion)
            if not mask.any():
                continue
            kept.append(case.id)
            subjects.append(case.subject)
            np.save(self.scratch / f"{case.id}.mask.npy", mask)
            for row, own in self.rows.scored(scan):
                np.save(self.scratch / f"{case.id}.map-{row}.npy", own.heat)
            grids.append((slice_axis(scan), scan.prepared.native.voxel_ml))

        def stored(what: str) -> Iterator[np.ndarray]:
            return (np.load(self.scratch / f"{case}.{what}.npy") for case in kept)

        words = "lesion-free slices of patients" if slices else "scans without a lesion"
        phantoms = ", phantoms" if normal.phantom else ""
        calibrations = {}
        for row in self.rows.maps:
            calibration = calibrate(
                stored(f"map-{row}"),
                stored("mask"),
                rate,
                cohort=f"{len(kept)} validation scans of '{name}' ({words}{phantoms})",
                normals=self.normals,
                subjects=subjects,
            )
            scans = zip(stored(f"map-{row}"), stored("mask"), grids, strict=True)
            normals = (ScanMaps(heat, heat, mask, mask, *grid) for heat, mask, grid in scans)
            others = (calibration.without(list(dict.fromkeys(subjects)).index(subject)) for subject in subjects)
            scores = tuple(each.score(self.rows.scoring, own) for each, own in zip(normals, others, strict=True))
            calibrations[row] = calibration.model_copy(update={"normal_scores": scores})
        return calibrations

    def score(
        self, test: Manifest, calibrations: Mapping[str, Calibration]
    ) -> tuple[dict[str, AnomalyEvaluation], dict[str, AnomalyEvaluation]]:
        """Score the test scans, filtered, and unfiltered on their whole masks.

        The detector's maps are written to ``maps/``, see ``write_maps``. A scan whose eroded mask is empty has the score 0.
        """
        evaluations = {row: AnomalyEvaluation() for row in self.rows.maps}
        unfiltered = {row: AnomalyEvaluation() for row in self.rows.maps}
        asks = {row: needs_model(config) for row, config in self.rows.scoring.rows().items()}
        (self.folder / "maps").mkdir(exist_ok=True)
        for case, scan in self.scans(test, "Scoring test scans"):
            error = reconstruction_error(scan) if any(asks.values()) else None
            for row, own in self.rows.scored(scan):
                lesion = self.lesion(test, case, scan.prepared.native)
                flagged = own.flagged(calibrations[row].threshold, self.rows.scoring)
                score = own.score(self.rows.scoring, calibrations[row]) if own.mask.any() else 0.0
                for evaluation, values, predicted, mask in (
                    (evaluations[row], own.heat, flagged, own.mask),
                    (unfiltered[row], own.raw, np.zeros_like(flagged), own.whole),
                ):
                    evaluation.add(
                        case.id,
                        values,
                        predicted,
                        mask,
                        lesion,
                        voxel_ml=own.voxel_ml,
                        scan_score=score,
                        subject=case.subject,
                        error=error if asks[row] else None,
                    )
                if row == DETECTOR:
                    write_maps(own, flagged, scan.prepared, self.folder / "maps" / case.id)
        return evaluations, unfiltered

    def lesion(self, manifest: Manifest, case: Case, native: NativeGrid) -> np.ndarray:
        """Where a scan has lesions, bool on its file's own axes. native: the scan's grid."""
        if self.target is None:
            return np.zeros(native.shape, dtype=bool)
        return np.asarray(reference(manifest, case, self.target, native.matrix())[0] > 0)

    def _scan(self, case: Case) -> Scan:
        prepared = self.store[case.id].prepared()
        axis, target = self.rows.plan.space.slice_axis, prepared.targets.get(self.target or "")
        normal = None
        if self.normals == "lesion_free_slices" and axis is not None and target is not None:
            normal = torch.from_numpy(lesion_free(target[0].numpy(), axis, self.rows.plan.space.slices))[None]
        return self.rows.scan(prepared, normal, self.scratch / f"{case.id}.reconstruction.npy")


def counted(scan: Scan, filters: PostprocessingConfig, lesion: np.ndarray | None = None) -> np.ndarray:
    """Where a threshold can be set on a scan: bool on its file's own axes, the mask less what is eroded.

    lesion: bool, of a patient; slices with some are left out, and those that network or filters see together with them.
    """
    found = eroded(scan_mask(scan), filters.erode, slice_axis(scan))
    if lesion is None:
        return found
    return found & lesion_free(lesion, slice_axis(scan), scan.plan.space.slices + 2 * filters.reach)


def lesion_free(lesion: np.ndarray, slice_axis: int, slices: int = 1) -> np.ndarray:
    """True in the slices without a lesion voxel: bool, same shape as the label map.

    slices: that are seen at a time, an odd number; the neighbours that see a slice with a lesion are left out with it.
    """
    others = tuple(axis for axis in range(lesion.ndim) if axis != slice_axis)
    seen = [slices if axis == slice_axis else 1 for axis in range(lesion.ndim)]
    clean = ~ndimage.binary_dilation((lesion > 0).any(axis=others, keepdims=True), np.ones(seen, dtype=bool))
    return np.ascontiguousarray(np.broadcast_to(clean, lesion.shape))


def write_maps(maps: ScanMaps, flagged: np.ndarray, prepared: Prepared, base: Path) -> list[Finding]:
    """Write ``<base>_heatmap``, ``_anomaly`` and ``_mask`` as NIfTI in the scan's own space, and ``_findings.csv``, the list
    of what was flagged, which is returned."""
    write_native(maps.heat, prepared.native, base.with_name(f"{base.name}_heatmap.nii.gz"), labels=False)
    for kind, mask in (("anomaly", flagged), ("mask", maps.mask)):
        write_native(mask.astype(np.uint8), prepared.native, base.with_name(f"{base.name}_{kind}.nii.gz"), labels=True)
    found = findings_of(maps.heat, flagged, prepared.native)
    write_text(base.with_name(f"{base.name}_findings.csv"), as_csv(found))
    return found
