"""What is known of the prepared scans of a detection before it trains or scores: where they count."""

from __future__ import annotations

from medae.anomaly.postprocessing import PostprocessingConfig
from medae.anomaly.scan import Scan
from medae.data.case import Manifest
from medae.errors import DataError
from medae.plan import Plan
from medae.preprocessing.store import Store
from pipelines.console import Screen
from pipelines.detect_scoring import counted
from pipelines.segmenting import reference


def that_count(
    calibration: Manifest, store: Store, plan: Plan, filters: PostprocessingConfig, left_out: str | None, screen: Screen
) -> Manifest:
    """The scans that a threshold can be set on; the others are named. left_out: label map whose slices do not count.

    Raises DataError if there is none.
    """
    idle = _idle(calibration, store, plan, filters, left_out)
    reason = f"its mask is empty after erosion by {filters.erode}"
    if left_out is not None:
        reason = "every slice is seen together with a lesion by network or filter, or outside the eroded mask"
    kept = calibration.select(lambda case: case.id not in idle)
    if not kept.cases:
        raise DataError(
            f"Not one of {len(idle)} validation scans has a voxel to set a threshold on, such as {idle[0]}: {reason}.",
            where="split.validation",
            remedy="Give more validation subjects, or smaller filters and less erosion (scoring.postprocessing).",
        )
    for case in idle:
        screen.warn(f"{case} does not count for the threshold: {reason}.")
    return kept


def name_empty(test: Manifest, store: Store, plan: Plan, filters: PostprocessingConfig, screen: Screen) -> None:
    """Warn of test scans whose mask is empty once it is eroded."""
    for case in _idle(test, store, plan, filters, None):
        screen.warn(
            f"{case}: its mask is empty after erosion by {filters.erode} (scoring.postprocessing.erode). All of its lesion "
            "counts as missed, and its score is 0."
        )


def _idle(manifest: Manifest, store: Store, plan: Plan, filters: PostprocessingConfig, left_out: str | None) -> list[str]:
    """The ids of the scans of which no voxel counts."""
    found = []
    for case in manifest.cases:
        prepared = store[case.id].prepared()
        lesion = None
        if left_out is not None:
            lesion = reference(manifest, case, left_out, prepared.native.matrix())[0] > 0
        if not counted(Scan(prepared, plan), filters, lesion).any():
            found.append(case.id)
    return found
